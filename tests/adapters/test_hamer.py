"""The adapter on examples/hamer_stand_in.py, and the same tests on the real HaMeR where HAMER_ROOT names a checkout."""

from __future__ import annotations

import copy
import pickle
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import pytorch_lightning as pl
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import nn
from torch.utils.data import DataLoader

import texalign as ta
from texalign.adapters import IMAGENET_MEAN, IMAGENET_STD
from texalign.adapters import hamer as adapter
from texalign.adapters.hamer.measured_weight import MEASURED_BATCHES
from texalign.adapters.hamer.wrapped_method import WrappedMethod

pytest_plugins = ("real_hamer",)  # the fixtures

PARTS = {"loss_texture", "texture_residual", "texture_skipped", "texture_weight"}
ALL = 64 * 64  # as many observations as pixels: nothing is left to the draw


@pytest.fixture(scope="session")
def prior():
    return ta.UVTextureEncoder.from_pretrained()


@pytest.fixture
def loss_of(surface, prior):
    def make(size=64, train_texture=False, **options):
        encoder = copy.deepcopy(prior) if train_texture else prior
        renderer = ta.TexturedHandRenderer(surface, size, backend="torch")
        return ta.DenseTextureAlignmentLoss(renderer, encoder, train_texture=train_texture, **options)

    return make


def leaves(output):
    """The output with the two tensors that the texture's loss differentiates as leaves."""
    fresh = dict(output)
    for name in ("pred_cam", "pred_vertices"):
        fresh[name] = output[name].detach().clone().requires_grad_()
    return fresh


def predicted(hamer, batch):
    """The true output with some of HaMeR's own errors: 3 pixels aside."""
    output = hamer.truth(batch)
    output["pred_vertices"] = output["pred_vertices"] + torch.tensor([0.003, 0.0, 0.0])
    return output


def test_the_models_loss_and_the_textures_are_added(hamer, loss_of):
    model, batch = hamer.make_model(0), hamer.training_batch(2, seed=1)
    output = predicted(hamer, batch)
    own = model.compute_loss(batch, output, train=True)
    before = dict(output["losses"])
    loss_fn = loss_of(token_count=ALL, reduction="none")
    handle = adapter.attach(model, loss_fn, weight=0.5)
    total = model.compute_loss(batch, output, train=True)
    each = loss_fn(*handle.loss_inputs(batch, output))
    assert (each < -1).all()
    torch.testing.assert_close(total, own + 0.5 * each.sum())
    losses = output["losses"]
    assert set(losses) == set(before) | PARTS
    assert all(value.dim() == 0 and not value.requires_grad for value in losses.values())
    assert all(torch.equal(losses[name], value) for name, value in before.items() if name != "loss")
    torch.testing.assert_close(losses["loss"], total)
    torch.testing.assert_close(losses["loss_texture"], each.sum())
    assert losses["texture_weight"] == 0.5 and losses["texture_skipped"] == 0
    assert 0.005 < losses["texture_residual"] < 0.3
    assert handle.batches == 1


def test_the_half_pixel_is_where_hamers_crops_have_it(hamer, loss_of):
    """The area between mesh and mask is smallest at an offset of 0.5, of those half a pixel away."""
    batch = hamer.training_batch(2, seed=1)
    output = hamer.truth(batch)
    areas = {}
    for offset in (0.0, 0.5, 1.0):
        handle = adapter.attach(hamer.make_model(0), loss_of(256), pixel_offset=offset)
        vertices, camera, image, mask, valid = handle.loss_inputs(batch, output)
        assert image.shape == (2, 3, 256, 256) and torch.equal(camera.principal, torch.full((2, 2), 128 + offset))
        coverage = handle.loss_fn.renderer(vertices, camera, image[:, :, :64, :64]).coverage
        areas[offset] = float(((coverage - mask).abs() * valid).sum())
    assert areas[0.5] < 0.97 * areas[0.0] and areas[0.5] < 0.97 * areas[1.0], areas


def test_the_image_comes_back_to_rgb(hamer):
    batch = hamer.training_batch(2, seed=1)
    output = hamer.truth(batch)
    image = adapter.loss_inputs(batch, output).image
    assert image.min() >= 0 and image.max() <= 1 and 0.2 < image[image > 0.01].mean() < 0.8
    mean, std = (torch.tensor(values)[:, None, None] for values in (IMAGENET_MEAN, IMAGENET_STD))
    torch.testing.assert_close((image - mean) / std, batch["img"], atol=1e-5, rtol=0)
    bare = adapter.loss_inputs({"img": batch["img"], "right": torch.zeros(2)}, output)
    assert bare.mask is None and bare.valid is not None
    assert torch.equal(bare.image, image)  # `right` is not read: the loader has mirrored left hands


@pytest.mark.parametrize("by", ["_trans", "black"])
def test_padding_is_told_from_the_photograph(hamer, by):
    """By the crop's affine map, and without one by its exact black. The two agree but for a border and black things."""
    batch = hamer.training_batch(4, seed=1, segmented=False, box_scale=3.0)
    if by == "black":
        batch = {name: value for name, value in batch.items() if name != "_trans"}
    valid = adapter.loss_inputs(batch, hamer.truth(batch)).valid
    photographed = batch["mask"][:, None] > 0.99  # without a segmentation the loader's mask says where a photograph is
    padded = batch["mask"][:, None] == 0
    assert photographed.any() and padded.any()
    assert (valid[padded] == 0).all()
    assert (valid[photographed] == 1).float().mean() > (0.97 if by == "_trans" else 0.9)


def test_a_smaller_renderer_sees_the_same_scene(hamer, loss_of):
    batch = hamer.training_batch(2, seed=1)
    output = hamer.truth(batch)
    small, large = (adapter.attach(hamer.make_model(0), loss_of(size)).loss_inputs(batch, output) for size in (64, 256))
    assert small.image.shape == (2, 3, 64, 64) and small.mask.shape == small.valid.shape == (2, 1, 64, 64)
    torch.testing.assert_close(4 * small.camera.project(small.vertices), large.camera.project(large.vertices))
    assert small.valid.unique().tolist() == [0, 1]


def test_under_bfloat16_the_camera_is_exact_and_the_loss_in_float32(hamer, loss_of):
    """The model's own focal length is then 4992 and its translation rounded; pred_cam in float32 is all it takes."""
    model, batch = hamer.make_model(0), hamer.training_batch(2, seed=1)
    handle = adapter.attach(model, loss_of())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = model.forward_step(batch, train=True)
        inputs = handle.loss_inputs(batch, output)
        loss = model.compute_loss(batch, output, train=True)
    assert inputs.vertices.dtype == inputs.camera.focal.dtype == inputs.image.dtype == torch.float32
    assert torch.equal(inputs.camera.focal, torch.full((2, 2), 1250.0))
    depth = 2 * 5000.0 / (256 * output["pred_cam"][:, 0].float())
    shift = (inputs.vertices - output["pred_vertices"].float())[..., 2]
    torch.testing.assert_close(shift, depth[:, None].expand_as(shift), rtol=1e-5, atol=1e-4)
    assert torch.isfinite(loss)
    loss.backward()
    assert all(torch.isfinite(p.grad).all() for p in model.mano_head.parameters())


def test_recomputed_vertices_are_not_rounded(hamer, loss_of):
    model, batch = hamer.make_model(0), hamer.training_batch(4, seed=1)
    handle = adapter.attach(model, loss_of(), recompute_vertices=True)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = model.forward_step(batch, train=True)
        again = handle.loss_inputs(batch, output).vertices
    parameters = {name: value.float() for name, value in output["pred_mano_params"].items()}
    exact = model.mano(**parameters, pose2rot=False).vertices
    rounded = output["pred_vertices"]
    again = again - (again.mean(1) - exact.mean(1))[:, None]
    assert (rounded - exact).norm(dim=2).mean() > 1e-4
    # Four ulps of the place before the camera.
    rounding = 4 * 2.0**-23 * float(output["pred_cam_t"].detach().abs().max())
    assert (again - exact).norm(dim=2).max() < rounding < 1e-5
    again.square().sum().backward()
    assert all(p.grad is not None for p in model.mano_head.parameters())


@pytest.mark.parametrize("scale", [0.0, torch.nan])
def test_a_scale_that_is_no_camera_skips_its_sample(hamer, loss_of, scale):
    model, batch = hamer.make_model(0), hamer.training_batch(2, seed=1)
    handle = adapter.attach(model, loss_of(token_count=ALL, reduction="none"))
    expected = handle.loss_fn(*handle.loss_inputs(batch, predicted(hamer, batch)))
    output = leaves(predicted(hamer, batch))
    with torch.no_grad():
        output["pred_cam"][1, 0] = scale
    each = handle.loss_fn(*handle.loss_inputs(batch, output))
    each.sum().backward()
    assert each[1] == 0
    torch.testing.assert_close(each[0], expected[0], rtol=0, atol=2e-2)  # a pixel of 300 that changes sides: 6/300
    for name in ("pred_cam", "pred_vertices"):
        assert torch.isfinite(output[name].grad).all() and (output[name].grad[1] == 0).all()
        assert output[name].grad[0].abs().max() > 0
    model.compute_loss(batch, output, train=True)
    model.compute_loss(batch, output, train=False)
    assert output["losses"]["texture_skipped"] == 1 and handle.skipped == 1  # training batches are counted


def test_nothing_enters_the_model_its_copies_or_its_pickle(hamer, loss_of):
    model, batch = hamer.make_model(0), hamer.training_batch(2, seed=1)
    state, attributes = copy.deepcopy(model.state_dict()), set(vars(model))
    modules = [name for name, _ in model.named_modules()]
    own = model.compute_loss(batch, predicted(hamer, batch), train=True)
    handle = adapter.attach(model, loss_of(train_texture=True), weight=1.0)
    assert (model.compute_loss(batch, predicted(hamer, batch), train=True) - own).abs() > 0.1
    assert [name for name, _ in model.named_modules()] == modules
    assert not {id(p) for p in model.get_parameters()} & {id(p) for p in handle.loss_fn.parameters()}
    for again in (model, copy.deepcopy(copy.deepcopy(model)), pickle.loads(pickle.dumps(model))):
        torch.testing.assert_close(dict(again.state_dict()), dict(state), rtol=0, atol=0)
        if again is not model:
            assert again.compute_loss.__self__ is again
            torch.testing.assert_close(again.compute_loss(batch, predicted(hamer, batch), train=True), own)
    handle.detach()
    assert set(vars(model)) == attributes
    assert torch.equal(model.compute_loss(batch, predicted(hamer, batch), train=True), own)


def test_another_wrapper_below_is_kept_and_one_above_must_go_first(hamer, loss_of):
    model, batch = hamer.make_model(0), hamer.training_batch(2, seed=1)
    calls = []
    original = model.compute_loss

    def spy(*args, **kwargs):
        calls.append(args)
        return original(*args, **kwargs)

    model.compute_loss = spy
    handle = adapter.attach(model, loss_of())
    model.compute_loss(batch, model.forward_step(batch))
    assert len(calls) == 1
    above = model.compute_loss
    model.compute_loss = lambda *args, **kwargs: above(*args, **kwargs)
    with pytest.raises(ValueError, match="last in, first out"):
        handle.detach()
    model.compute_loss = above
    handle.detach()
    assert model.compute_loss is spy
    handle.detach()  # a second time does nothing


def test_the_models_random_numbers_are_those_it_had_without(hamer, loss_of):
    model, batch = hamer.make_model(0), hamer.training_batch(2, seed=1)
    output = predicted(hamer, batch)
    handle = adapter.attach(model, loss_of(token_count=64), weight=1.0)
    torch.manual_seed(0)
    first_value = model.compute_loss(batch, output, train=True)
    drawn = torch.rand(1)
    torch.manual_seed(0)
    assert torch.equal(torch.rand(1), drawn)
    assert model.compute_loss(batch, output, train=True) != first_value  # another draw, of its own
    handle.detach()
    adapter.attach(model, loss_of(token_count=64), weight=1.0)
    assert torch.equal(model.compute_loss(batch, output, train=True), first_value)


def loader(*batches):
    return DataLoader(list(batches), batch_size=None)


def trainer_in(folder, **options):
    quiet = ("enable_progress_bar", "enable_model_summary", "enable_checkpointing", "logger")
    options = {"max_epochs": 1, **dict.fromkeys(quiet, False), **options}
    return pl.Trainer(accelerator="cpu", default_root_dir=folder, **options)


@pytest.fixture
def quiet():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@pytest.mark.slow
@pytest.mark.usefixtures("quiet")
def test_under_lightning_it_counts_batches_where_global_step_counts_twice(hamer, loss_of, tmp_path):
    """training_step and validation_step as they are, manual optimisation, and the parts in TensorBoard."""
    model = hamer.make_model(0)
    model.cfg.GENERAL.LOG_STEPS = 2
    handle = adapter.attach(model, loss_of(), weight=0.1, warm_up=4)
    batches = [hamer.joint_batch(2, seed=seed) for seed in (20, 21, 22)]
    logger = pl.loggers.TensorBoardLogger(tmp_path)
    trainer = trainer_in(tmp_path, logger=logger, num_sanity_val_steps=1)
    validation = hamer.training_batch(2, seed=1)
    trainer.fit(model, loader(*batches), loader(validation))
    assert handle.batches == 3 and trainer.global_step == 6
    events = EventAccumulator(logger.log_dir)
    events.Reload()
    logged = events.Tags()["scalars"]
    assert {f"{mode}/{part}" for mode in ("train", "val") for part in PARTS} <= set(logged)
    weights = [event.value for event in events.Scalars("train/texture_weight")]
    assert weights == pytest.approx([0.025, 0.05, 0.075])
    assert events.Scalars("val/texture_weight")[-1].value == pytest.approx(0.075)
    residual = [event.value for event in events.Scalars("train/texture_residual")]
    assert all(0 < value < 1 for value in residual)


@pytest.mark.slow
@pytest.mark.usefixtures("quiet")
def test_interrupted_training_resumes_where_it_was(hamer, loss_of, tmp_path, monkeypatch):
    """Network, prior, its optimiser, the warm-up's count and the draw: the same as without an interruption."""
    # HaMeR's checkpoints hold its configuration as an object, which PyTorch ≥ 2.6 reads only where told to trust.
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    batches = [hamer.joint_batch(2, seed=seed) for seed in (20, 21)]

    def fit(epochs, resume=None):
        model = hamer.make_model(0)
        model.cfg.LOSS_WEIGHTS.ADVERSARIAL = 0.0005
        handle = adapter.attach(model, loss_of(train_texture=True, token_count=64), weight=0.1, warm_up=3)
        trainer = trainer_in(tmp_path, max_epochs=epochs)
        trainer.fit(model, loader(*batches), ckpt_path=resume)
        trainer.save_checkpoint(tmp_path / f"{epochs}.ckpt")
        return model, handle

    straight, straight_handle = fit(2)
    fit(1)
    resumed, resumed_handle = fit(2, tmp_path / "1.ckpt")
    assert resumed_handle.batches == straight_handle.batches == 4
    pairs = [straight.get_parameters(), resumed.get_parameters()]
    priors = [list(handle.loss_fn.encoder.parameters()) for handle in (straight_handle, resumed_handle)]
    for a, b in (*zip(*pairs), *zip(*priors)):
        torch.testing.assert_close(a, b, atol=1e-6, rtol=1e-5)
    assert any((a - b).abs().max() > 1e-5 for a, b in zip(priors[0], loss_of().encoder.parameters()))


@pytest.mark.slow
@pytest.mark.usefixtures("quiet")
def test_the_file_beside_a_checkpoint_goes_when_lightning_removes_it(stand_in_hamer, loss_of, tmp_path):
    model = stand_in_hamer.make_model(0)
    handle = adapter.attach(model, loss_of())
    keep_one = pl.callbacks.ModelCheckpoint(dirpath=tmp_path, filename="{epoch}", save_top_k=1, every_n_epochs=1)
    trainer = trainer_in(tmp_path, max_epochs=2, callbacks=[keep_one], enable_checkpointing=True)
    trainer.fit(model, loader(stand_in_hamer.joint_batch(2, seed=20)))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["epoch=1.ckpt", "epoch=1.ckpt.texalign.pt"]
    handle.detach()
    for owner, name in ((trainer, "save_checkpoint"), (trainer.strategy, "remove_checkpoint")):
        assert name not in vars(owner)


def test_resuming_without_the_file_beside_it_is_said(loss_of, stand_in_hamer, tmp_path):
    model, batch = stand_in_hamer.make_model(0), stand_in_hamer.training_batch(2, seed=1)
    handle = adapter.attach(model, loss_of())

    class Trainer:
        ckpt_path = tmp_path / "old.ckpt"

        def save_checkpoint(self, filepath):
            pass

    model._trainer = trainer = Trainer()
    with pytest.warns(UserWarning, match=r"no old\.ckpt\.texalign\.pt lies beside it"):
        model.compute_loss(batch, predicted(stand_in_hamer, batch))
    assert isinstance(trainer.save_checkpoint, WrappedMethod)
    handle.detach()
    assert not isinstance(trainer.save_checkpoint, WrappedMethod)


def change_of_the_prior(handle, model, batch, output, scale=1.0):
    """By one training batch, whose step is taken when the state is asked for."""
    before = [p.detach().clone() for p in handle.loss_fn.encoder.parameters()]
    (scale * model.compute_loss(batch, output, train=True)).backward()
    handle.state_dict()
    return torch.cat([(p.detach() - b).flatten() for p, b in zip(handle.loss_fn.encoder.parameters(), before)])


def test_the_prior_learns_alike_under_any_weight_and_loss_scale(stand_in_hamer, loss_of):
    batch = stand_in_hamer.training_batch(2, seed=1)
    changes = []
    for weight, scale in ((1.0, 1.0), (0.01, 65536.0), ("auto", 1.0)):
        model, output = stand_in_hamer.make_model(0), leaves(predicted(stand_in_hamer, batch))
        output["pred_keypoints_2d"] = output["pred_keypoints_2d"] + output["pred_cam"].sum()
        loss_fn = loss_of(train_texture=True, token_count=ALL)
        descent = torch.optim.SGD(loss_fn.encoder.parameters(), lr=1e-3)
        handle = adapter.attach(model, loss_fn, weight=weight, texture_optimizer=descent)
        changes.append(change_of_the_prior(handle, model, batch, output, scale))
        if weight == "auto":
            assert handle.weight > 0
    assert changes[0].norm() > 1e-6
    # A change is a difference of parameters up to 4, each rounded to 2⁻²³ of that; the sums behind it round as well.
    ulp = 2.0**-22 * float(max(p.detach().abs().max() for p in loss_fn.encoder.parameters()))
    for change in changes[1:]:
        torch.testing.assert_close(changes[0], change, rtol=0, atol=ulp + 1e-2 * float(changes[0].abs().max()))


def test_the_prior_does_not_learn_from_validation_or_from_overflow(stand_in_hamer, loss_of):
    model, batch = stand_in_hamer.make_model(0), stand_in_hamer.training_batch(2, seed=1)
    loss_fn, output = loss_of(train_texture=True), leaves(predicted(stand_in_hamer, batch))
    descent = torch.optim.SGD(loss_fn.encoder.parameters(), lr=1e-3)
    handle = adapter.attach(model, loss_fn, weight=1.0, texture_optimizer=descent)
    assert (change_of_the_prior(handle, model, batch, output, torch.inf) == 0).all()
    before = [p.detach().clone() for p in loss_fn.encoder.parameters()]
    with torch.no_grad():
        for _ in range(2):
            model.compute_loss(batch, output, train=False)
    assert all(torch.equal(p, b) for p, b in zip(loss_fn.encoder.parameters(), before))


@pytest.mark.slow
def test_under_ddp_both_processes_keep_the_same_network_and_prior(hamer, prior, tmp_path):
    """One of them sees nothing in one of its batches; its prior learns from the other's."""
    command = [sys.executable, str(Path(__file__).parents[1] / "hamer_ddp.py"), hamer.name, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    first, second = (torch.load(tmp_path / f"{rank}.pt") for rank in (0, 1))
    assert first["batches"] == second["batches"] == 3
    assert first["skipped"] == 0 and second["skipped"] == 2
    assert first["weight"] == second["weight"] > 0
    for name in ("network", "prior"):
        torch.testing.assert_close(first[name], second[name], atol=1e-7, rtol=1e-6)
    before = torch.cat([p.detach().flatten() for p in prior.parameters()])
    assert (first["prior"] - before).abs().max() > 1e-5
    assert (tmp_path / "last.ckpt.texalign.pt").is_file()


def strengths(model, handle, batch):
    """Medians over samples of the two losses' gradient norms at what the model predicts."""
    output = model.forward_step(batch, train=True)
    at = [*output["pred_mano_params"].values(), output["pred_cam"]]
    texture = handle.loss_fn(*handle.loss_inputs(batch, output)).sum()
    handle.detach()
    own = model.compute_loss(batch, output, train=True)
    medians = []
    for loss in (texture, own):
        found = torch.autograd.grad(loss, at, retain_graph=True, allow_unused=True)
        norms = torch.cat([part.flatten(1) for part in found if part is not None], dim=1).norm(dim=1)
        medians.append(norms.quantile(0.5))
    return medians


def test_an_automatic_weight_balances_the_gradients(hamer, loss_of):
    model, batch = hamer.make_model(0), hamer.training_batch(3, seed=1)
    handle = adapter.attach(model, loss_of(token_count=ALL, reduction="none"), ratio=0.25, warm_up=1)
    for expected in (0, 1):
        output = model.forward_step(batch, train=True)
        model.compute_loss(batch, output, train=True)
        assert (handle.weight > 0) == (output["losses"]["texture_weight"] > 0) == expected
    weight = handle.weight
    texture, own = strengths(model, handle, batch)
    torch.testing.assert_close(weight * texture, 0.25 * own)


def test_an_automatic_weight_is_the_median_of_the_first_batches_and_then_fixed(stand_in_hamer, loss_of, tmp_path):
    model = stand_in_hamer.make_model(0)
    handle = adapter.attach(model, loss_of(token_count=64))
    weights = []
    for seed in range(MEASURED_BATCHES + 2):
        batch = stand_in_hamer.training_batch(2, seed=seed)
        if seed == 1:
            model.compute_loss(batch, stand_in_hamer.truth(batch), train=True)  # nothing to differentiate
            assert handle.weight == weights[0]
        model.compute_loss(batch, model.forward_step(batch), train=False)
        assert handle.weight == (weights[-1] if weights else 0)  # validation measures nothing
        model.compute_loss(batch, model.forward_step(batch), train=True)
        weights.append(handle.weight)
        if seed == 4:
            handle.save(tmp_path / "five.pt")
    assert len(set(weights[:5])) > 1 and len(set(weights[MEASURED_BATCHES - 1 :])) == 1
    again = adapter.attach(stand_in_hamer.make_model(0), loss_of(token_count=64))
    again.load(tmp_path / "five.pt")
    assert again.weight == weights[4]
    given = adapter.attach(stand_in_hamer.make_model(0), loss_of(token_count=64), weight=0.5)
    given.load(tmp_path / "five.pt")
    assert given.weight == 0.5


def test_save_and_load_in_a_plain_loop(stand_in_hamer, loss_of, tmp_path):
    model, batch = stand_in_hamer.make_model(0), stand_in_hamer.training_batch(2, seed=1)
    handle = adapter.attach(model, loss_of(train_texture=True, token_count=64), weight=0.02, warm_up=9)
    model.compute_loss(batch, leaves(predicted(stand_in_hamer, batch))).backward()
    handle.save(tmp_path / "texture.pt")
    other_model = stand_in_hamer.make_model(0)
    other = adapter.attach(other_model, loss_of(train_texture=True, token_count=64), weight=0.02, warm_up=9)
    other.load(tmp_path / "texture.pt")
    assert other.batches == 1
    values = [m.compute_loss(batch, predicted(stand_in_hamer, batch)) for m in (model, other_model)]
    assert torch.equal(values[0], values[1])
    frozen = adapter.attach(stand_in_hamer.make_model(0), loss_of())
    with pytest.raises(ValueError, match="expected a state with train_texture=False, got True"):
        frozen.load(tmp_path / "texture.pt")


def test_what_cannot_be_attached_is_said(stand_in_hamer, loss_of, prior):
    model, bare, without_hand, attached = (stand_in_hamer.make_model(0) for _ in range(4))
    loss_fn = loss_of()
    bare.cfg = object()
    del without_hand.mano
    adapter.attach(attached, loss_fn)
    descent = torch.optim.SGD(prior.parameters(), lr=1.0)
    for given, options, message in (
        ((attached, loss_fn), {}, "a model without a texture loss"),
        ((model, nn.Linear(1, 1)), {}, "loss_fn to be a DenseTextureAlignmentLoss, got Linear"),
        ((nn.Linear(1, 1), loss_fn), {}, "a model with compute_loss, got Linear; if it is wrapped"),
        ((model, loss_of(96)), {}, r"a renderer of size 256, or an integer fraction of it, got \(96, 96\)"),
        ((model, loss_fn), {"weight": float("nan")}, "weight >= 0"),
        ((model, loss_fn), {"weight": "Auto"}, 'weight >= 0, or "auto", got Auto'),
        ((model, loss_fn), {"ratio": 0.0}, "ratio > 0"),
        ((model, loss_fn), {"texture_optimizer": descent}, "train_texture=True, with an optimiser"),
        ((bare, loss_fn), {}, r"cfg\.EXTRA\.FOCAL_LENGTH and cfg\.MODEL\.IMAGE_SIZE"),
        ((without_hand, loss_fn), {"recompute_vertices": True}, "mano or smpl, for recompute_vertices, got neither"),
    ):
        with pytest.raises((TypeError, ValueError), match=message):
            adapter.attach(*given, **options)


def test_what_a_batch_lacks_is_said(stand_in_hamer):
    batch = stand_in_hamer.training_batch(2, seed=1)
    output = stand_in_hamer.truth(batch)
    for given, predicted_, message in (
        ({"mask": batch["mask"]}, output, r"expected batch with 'img', got \['mask'\]"),
        (batch, {"pred_cam": output["pred_cam"]}, "expected output with 'pred_vertices', got"),
        ({**batch, "mask": batch["mask"][:, ::2, ::2]}, output, r"batch\['mask'\] \(2, 256, 256\), got "),
        (batch, {**output, "pred_cam": output["pred_cam"][:1]}, r"output\['pred_cam'\] \(2, 3\), got \(1, 3\)"),
    ):
        with pytest.raises(ValueError, match=message):
            adapter.loss_inputs(given, predicted_)
