from __future__ import annotations

import json
import math
import pickle

import pytest
import torch
from safetensors.torch import load_file, save_file

import texalign as ta
from texalign.hand import rotation_matrices, sample_pose
from texalign.prior import UVTextureEncoder
from texalign.prior.atlas_cells import AtlasCells
from texalign.synthetic import generate

TINY = {"texture_size": 32, "latent_grid": 8, "width": 24, "layers": 1, "heads": 2}


def awake(encoder, seed=1):
    """The head begins at zero, where every texture is the mean colour: give it weights so that tests see the rest."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in (*encoder.decoder.head.parameters(), encoder.mean_colour):
            parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator))
    return encoder


@pytest.fixture(scope="module")
def tiny(surface):
    torch.manual_seed(0)
    return awake(UVTextureEncoder(surface, **TINY)).eval()


def observe(batch=2, count=40, seed=0, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape):
        return torch.rand(*shape, generator=generator, dtype=dtype)

    valid = draw(batch, count) > 0.2
    return ta.UVObservations(draw(batch, count, 2), 0.1 + 0.8 * draw(batch, count, 3), valid)


def join(*parts):
    return ta.UVObservations(
        *(torch.cat([getattr(part, name) for part in parts], 1) for name in ("uv", "rgb", "valid"))
    )


def close(actual, expected, atol=1e-5):
    torch.testing.assert_close(actual, expected, rtol=0, atol=atol)


@pytest.mark.parametrize(("texture_size", "batch", "count"), [(32, 2, 40), (128, 1, 1), (32, 3, 0)])
def test_shapes_and_ranges(surface, texture_size, batch, count):
    encoder = awake(UVTextureEncoder(surface, **{**TINY, "texture_size": texture_size}))
    texture, log_variance = encoder(observe(batch, count), return_log_variance=True)
    assert texture.shape == (batch, 3, texture_size, texture_size)
    assert log_variance.shape == (batch, 1, texture_size, texture_size)
    assert ((texture >= 0) & (texture <= 1)).all()
    assert ((log_variance >= -8) & (log_variance <= 0)).all()
    assert encoder(observe(batch, count)).equal(texture)


def test_the_default_is_small_enough_to_ship_and_normalises_nothing_over_the_batch(surface):
    encoder = UVTextureEncoder(surface)
    assert encoder(observe(1)).shape == (1, 3, 128, 128)
    assert sum(parameter.numel() for parameter in encoder.parameters()) <= 3_000_000
    assert not any(isinstance(module, torch.nn.modules.batchnorm._BatchNorm) for module in encoder.modules())


def test_before_training_the_texture_is_the_mean_of_the_valid_colours(surface):
    observations = observe()
    texture = UVTextureEncoder(surface, **TINY)(observations)
    weight = observations.valid[..., None]
    mean = (observations.rgb * weight).sum(1) / weight.sum(1)
    close(texture, mean[:, :, None, None].expand_as(texture))


def test_order_does_not_matter(tiny):
    observations = observe()
    order = torch.randperm(40, generator=torch.Generator().manual_seed(3))
    shuffled = ta.UVObservations(observations.uv[:, order], observations.rgb[:, order], observations.valid[:, order])
    for actual, expected in zip(tiny(shuffled, return_log_variance=True), tiny(observations, return_log_variance=True)):
        close(actual, expected)


@pytest.mark.parametrize("value", [0.7, 1e30, float("inf"), float("nan")])
def test_padding_has_no_influence_whatever_it_holds(tiny, value):
    """What is not finite counts as padding, valid or not."""
    observations = observe()
    valid = torch.full((2, 9), not math.isfinite(value))
    padding = ta.UVObservations(torch.full((2, 9, 2), value), torch.full((2, 9, 3), value), valid)
    close(tiny(join(observations, padding)), tiny(observations))


def test_an_empty_set_gives_the_mean_texture_and_finite_gradients(surface):
    encoder = awake(UVTextureEncoder(surface, **TINY))
    observations = observe(3)
    valid = observations.valid.clone()
    valid[1] = False
    rgb, uv = observations.rgb.requires_grad_(), observations.uv.requires_grad_()
    texture = encoder(ta.UVObservations(uv, rgb, valid))
    close(texture[1:2], encoder(observe(1, 0)))
    texture.square().sum().backward()
    for tensor in (rgb, uv, *encoder.parameters()):
        assert tensor.grad is not None and tensor.grad.isfinite().all()
    assert (rgb.grad[1] == 0).all() and rgb.grad[0].abs().sum() > 0
    assert encoder.mean_colour.grad.abs().sum() > 0


@pytest.mark.parametrize("colour", [0.0, 0.5, 1.0])
def test_one_colour_everywhere_has_finite_gradients(tiny, colour):
    observations = observe(1, 20)
    rgb = torch.full((1, 20, 3), colour, requires_grad=True)
    tiny(ta.UVObservations(observations.uv, rgb, observations.valid)).sum().backward()
    assert rgb.grad.isfinite().all()


def test_grouping_is_putting_the_tokens_side_by_side(tiny):
    observations = observe(4)
    rgb = observations.rgb.requires_grad_()
    group = torch.tensor([-7, 10**12, -7, -7])
    texture, log_variance = tiny(observations, group=group, return_log_variance=True)
    # Gradients reach every image of a group, and no other.
    (gradient,) = torch.autograd.grad(texture[0].square().sum(), rgb, retain_graph=True)
    assert (gradient[[0, 2, 3]].flatten(1).abs().sum(dim=1) > 0).all() and not gradient[1].any()

    def image(index):
        own = slice(index, index + 1)
        return ta.UVObservations(observations.uv[own], observations.rgb[own], observations.valid[own])

    shared, shared_log_variance = tiny(join(image(0), image(2), image(3)), return_log_variance=True)
    for index in (0, 2, 3):
        close(texture[index : index + 1], shared)
        close(log_variance[index : index + 1], shared_log_variance)
    close(texture[1:2], tiny(image(1)))
    for dtype in (torch.int32, torch.uint8):  # an id for each image is no grouping
        close(tiny(observations, group=torch.tensor([5, 2, 9, 0], dtype=dtype)), tiny(observations))


def test_gradients_match_finite_differences():
    torch.manual_seed(0)
    sizes = {"texture_size": 8, "latent_grid": 2, "width": 8, "layers": 1, "heads": 2}
    encoder = awake(UVTextureEncoder(AtlasCells("tiny", (0, 1, 3)), **sizes)).double()
    observations = observe(2, 4, seed=4, dtype=torch.float64)
    weight = encoder.reading.log_sharpness

    def run(uv, rgb, log_sharpness):
        given = {"reading.log_sharpness": log_sharpness}
        arguments = (ta.UVObservations(uv, rgb, observations.valid),)
        return torch.func.functional_call(encoder, given, arguments, {"return_log_variance": True})

    inputs = (observations.uv, observations.rgb, weight.detach())
    assert torch.autograd.gradcheck(run, tuple(tensor.clone().requires_grad_() for tensor in inputs), atol=1e-4)


def test_every_parameter_gets_a_gradient_even_without_tokens_or_log_variance(surface):
    """DistributedDataParallel waits for ever for a parameter that no sample of the batch uses."""
    encoder = awake(UVTextureEncoder(surface, **TINY))
    encoder(observe(2, 0)).sum().backward()
    assert [name for name, parameter in encoder.named_parameters() if parameter.grad is None] == []


def test_four_views_reveal_what_one_hides(surface, hand):
    """Mean L1 error over the texels that the first of four views hides: from that view alone, and from all four."""
    encoder, count = UVTextureEncoder.from_pretrained(), 12
    textures = generate(count, 64, torch.Generator().manual_seed(7), left_share=0.0).texture
    meshes = hand(sample_pose(count, torch.Generator().manual_seed(8))).vertices
    renderer = ta.TexturedHandRenderer(surface, 96, backend="torch")
    inside = (surface.texel_map(128).face_index >= 0)[None, None]
    camera = ta.PinholeCamera(torch.full((4, 2), 192.0), torch.full((4, 2), 48.0))
    quarters = rotation_matrices(torch.arange(4)[:, None] * torch.tensor([0.0, torch.pi / 2, 0.0]))
    errors = []
    for truth, mesh in zip(textures.split(1), meshes):
        vertices = (mesh - mesh.mean(dim=0)) @ quarters.mT + torch.tensor([0.0, 0.0, 0.5])
        image = renderer(vertices, camera, truth.expand(4, -1, -1, -1)).image
        observations = renderer.observe(vertices, camera, image, count=384)
        seen = renderer.unwrap(vertices, camera, image, texture_size=128)[1]
        hidden = (inside & (seen[:1] == 0)).expand(-1, 3, -1, -1)
        with torch.no_grad():
            alone = encoder(observations)[:1]
            together = encoder(observations, group=torch.zeros(4, dtype=torch.int64))[:1]
        errors.append([(texture - truth).abs()[hidden].mean() for texture in (alone, together)])
    alone, together = torch.tensor(errors).mean(dim=0)
    assert together < 0.7 * alone


def test_saved_and_loaded_is_bitwise_the_same(tiny, tmp_path, surface):
    provenance = {"steps": 3, "images": "synthetic"}
    for path in (tmp_path / "new" / "folder", tmp_path / "prior.safetensors", tmp_path / "model.safetensors"):
        tiny.save_pretrained(path, provenance)
        loaded = UVTextureEncoder.from_pretrained(path, surface)
        assert not loaded.training and loaded.provenance == provenance
        assert (loaded.atlas_id, loaded.architecture) == (surface.atlas_id, tiny.architecture)
        for name, tensor in tiny.state_dict().items():
            assert loaded.state_dict()[name].equal(tensor), name
        assert loaded(observe()).equal(tiny(observe()))
    assert sorted(file.name for file in tmp_path.iterdir() if file.is_file()) == [
        "config.json", "model.safetensors", "prior.json", "prior.safetensors"
    ]  # fmt: skip


def test_a_failed_write_leaves_the_old_file(tiny, tmp_path, monkeypatch):
    tiny.save_pretrained(tmp_path)
    before = (tmp_path / "model.safetensors").read_bytes()
    monkeypatch.setattr("os.fsync", lambda descriptor: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        tiny.save_pretrained(tmp_path, {"steps": 9})
    assert (tmp_path / "model.safetensors").read_bytes() == before
    assert sorted(file.name for file in tmp_path.iterdir()) == ["config.json", "model.safetensors"]


def test_weights_of_another_atlas_are_refused(tiny, tmp_path, surface):
    tiny.save_pretrained(tmp_path)
    other = ta.HandSurface(surface.faces, surface.uv * 0.999, surface.uv_faces)
    with pytest.raises(ValueError, match=f"atlas {other.atlas_id}, got weights for atlas {surface.atlas_id}"):
        UVTextureEncoder.from_pretrained(tmp_path, other)


@pytest.mark.parametrize("name", ["model.bin", "model.pkl"])
def test_pickles_are_refused_unread(tiny, tmp_path, name):
    (tmp_path / name).write_bytes(pickle.dumps({"a": 1}))
    with pytest.raises(ValueError, match="expected safetensors weights, got .*never read"):
        UVTextureEncoder.from_pretrained(tmp_path / name)
    with pytest.raises(ValueError, match=r"NAME\.safetensors to save to"):
        tiny.save_pretrained(tmp_path / name)


def test_missing_files_are_named(tiny, tmp_path, monkeypatch):
    with pytest.raises(FileNotFoundError, match=r"expected model\.safetensors in .*nowhere"):
        UVTextureEncoder.from_pretrained(tmp_path / "nowhere")
    tiny.save_pretrained(tmp_path)
    (tmp_path / "config.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"expected config\.json"):
        UVTextureEncoder.from_pretrained(tmp_path)
    monkeypatch.setattr("texalign.prior.weights.BUNDLED", "absent")
    with pytest.raises(FileNotFoundError, match=r"bundled weights assets/absent\.safetensors"):
        UVTextureEncoder.from_pretrained()


@pytest.mark.parametrize("size", [0, 2000])
def test_a_truncated_file_is_refused(tiny, tmp_path, size):
    tiny.save_pretrained(tmp_path)
    path = tmp_path / "model.safetensors"
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(ValueError, match="a damaged file"):
        UVTextureEncoder.from_pretrained(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda weights: weights.pop("mean_colour"), "expected tensor mean_colour"),
        (lambda weights: weights.update(extra=torch.zeros(1)), "only the architecture's tensors in .*, got extra"),
        (lambda weights: weights.update(mean_colour=torch.zeros(4)), r"expected mean_colour \(3,\) in .*got \(4,\)"),
        (lambda weights: weights.update(mean_colour=torch.zeros(3).int()), "mean_colour of a floating dtype"),
        (lambda weights: weights["mean_colour"].add_(1), "expected the weights with SHA-256"),
    ],
)
def test_altered_weights_are_refused(tiny, tmp_path, change, message):
    tiny.save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    change(weights)
    save_file(weights, tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match=message):
        UVTextureEncoder.from_pretrained(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda text: text[:40], "expected JSON"),
        (lambda text: text.replace("UVTextureEncoder/1", "UVTextureEncoder/9"), "got texalign.UVTextureEncoder/9"),
        (lambda text: text.replace("atlas_id", "atlas"), "nothing for atlas_id"),
        (lambda text: text.replace('"heads"', '"hands"'), "expected an encoder's configuration"),
        (lambda text: text.replace('"width": 24', '"width": 28'), r"expected query \(40, 28\)"),
        (lambda text: json.dumps({**json.loads(text), "cells": [64]}), r"expected cells in \[0, 64\)"),
        (lambda text: json.dumps({**json.loads(text), "cells": None}), "expected an encoder's configuration"),
    ],
)
def test_altered_configurations_are_refused(tiny, tmp_path, change, message):
    tiny.save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    path.write_text(change(path.read_text()))
    with pytest.raises(ValueError, match=message):
        UVTextureEncoder.from_pretrained(tmp_path)


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"texture_size": 100}, "UVTextureEncoder: expected texture_size to be a power of two, got 100"),
        ({"texture_size": 16}, r"expected texture_size >= 4 \* latent_grid = 32, got 16"),
        ({"width": 25}, r"expected width to be a multiple of 2 \* heads = 4, got 25"),
        ({"layers": -1}, "expected layers >= 0, got -1"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(surface, sizes, message):
    with pytest.raises(ValueError, match=message):
        UVTextureEncoder(surface, **{**TINY, **sizes})


def test_calls_that_make_no_sense_are_refused(tiny):
    for call in (UVTextureEncoder, lambda surface: UVTextureEncoder.from_pretrained(None, surface)):
        with pytest.raises(TypeError, match="expected surface to be a HandSurface, got str"):
            call("mano")
    with pytest.raises(TypeError, match="expected observations to be UVObservations, got Tensor"):
        tiny(torch.zeros(1, 4, 5))
    with pytest.raises(TypeError, match=r"expected group to be a torch\.Tensor, got list"):
        tiny(observe(), group=[0, 0])
    with pytest.raises(ValueError, match=r"expected group \(2,\), got \(3,\)"):
        tiny(observe(), group=torch.zeros(3, dtype=torch.int64))
    with pytest.raises(ValueError, match=r"expected group of an integer dtype, got torch\.float32"):
        tiny(observe(), group=torch.zeros(2))
