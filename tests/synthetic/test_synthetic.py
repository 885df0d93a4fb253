from __future__ import annotations

import dataclasses
import io

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn.functional import avg_pool2d, grid_sample

import texalign as ta
from texalign import synthetic
from texalign.hand import rotation_matrices
from texalign.synthetic.colour import srgb_to_linear
from texalign.synthetic.degradation import blurred, jpeg
from texalign.synthetic.skin import skin_maps

SIZE = 64


def draw(count, size=SIZE, seed=0, **options):
    return synthetic.generate(count, size, torch.Generator().manual_seed(seed), **options)


@pytest.fixture(scope="module")
def batch():
    return draw(128)


@pytest.fixture(scope="module")
def right(batch):
    return batch.canonical()


@pytest.fixture(scope="module")
def coverage(right, surface):
    return coverage_of(right, surface)


def tensors(batch):
    named = {field.name: getattr(batch, field.name) for field in dataclasses.fields(batch)}
    camera = named.pop("camera")
    return {**named, "focal": camera.focal, "principal": camera.principal}


def coverage_of(batch, surface):
    renderer = ta.TexturedHandRenderer(surface, image_size=batch.image.shape[-1])
    return renderer(batch.vertices, batch.camera, torch.ones(1, 3, 4, 4)).coverage


def visible_mean(batch):
    return (batch.image * batch.mask).sum((2, 3)) / batch.mask.sum((2, 3)).clamp(min=1)


def share(condition):
    return float(condition.float().mean())


@pytest.mark.parametrize(("count", "size", "texture_size"), [(0, 32, 32), (1, 16, 16), (2, 17, 64), (3, 100, 128)])
def test_any_count_and_size(count, size, texture_size):
    made = draw(count, size, texture_size=texture_size)
    assert len(made) == count
    pictures = {"image": (3, size, size), "mask": (1, size, size), "occluder_mask": (1, size, size)}
    hands = {"vertices": (778, 3), "joints": (21, 3), "pose": (16, 3), "betas": (10,), "translation": (3,)}
    others = {"texture": (3, texture_size, texture_size), "is_right": (), "focal": (2,), "principal": (2,)}
    expected = {name: (count, *shape) for name, shape in {**pictures, **hands, **others}.items()}
    assert {name: tuple(value.shape) for name, value in tensors(made).items()} == expected


def test_values_lie_in_range(batch):
    for name, value in tensors(batch.to("cpu")).items():
        assert value.dtype == (torch.bool if name == "is_right" else torch.float32), name
        assert value.isfinite().all() and not value.requires_grad and not value.is_inference(), name
        if name in ("image", "mask", "occluder_mask", "texture"):
            assert value.min() >= 0 and value.max() <= 1, name
    assert (batch.vertices[..., 2] > 0.05).all(), "the hand is in front of the camera"
    assert (batch.camera.focal > 0).all()
    assert ((batch.image * 255 - (batch.image * 255).round()).abs() < 1e-3).all(), "images are 8 bit"
    assert 0.28 < share(batch.is_right) < 0.72  # five standard deviations of 128 coins


@pytest.mark.parametrize("views", [2, 3])
def test_views_share_a_hand_and_nothing_else(views):
    made = draw(6, 48, seed=11, texture_size=32, views=views)
    blocks = {name: value.unflatten(0, (-1, views)) for name, value in tensors(made).items()}
    for name in ("betas", "texture", "is_right"):
        assert torch.equal(blocks[name], blocks[name][:, :1].expand_as(blocks[name])), name
    for name in ("pose", "translation", "image", "focal", "vertices"):
        apart = (blocks[name] - blocks[name].roll(1, dims=1)).flatten(2).abs().amax(dim=2)
        assert (apart > 1e-3).all(), name


def test_views_have_one_colour():
    """Skin, light and camera settings are one: mean colours within a pair differ less than between pairs."""
    made = draw(64, 48, seed=2, texture_size=32, views=2).canonical()
    seen = (made.mask.sum((1, 2, 3)) > 60).view(-1, 2).all(dim=1)
    colour = visible_mean(made).view(-1, 2, 3)[seen]
    within = (colour[:, 0] - colour[:, 1]).abs().mean()
    between = (colour[:, 0] - colour[:, 1].roll(1, dims=0)).abs().mean()
    # 0.4 of it, on the average of seeds; the mean over some 30 pairs varies by a tenth of that.
    assert seen.sum() > 15 and within < 0.7 * between


def test_a_seed_gives_the_same_batch_bit_by_bit():
    first, again, other = (tensors(draw(5, 48, seed=seed)) for seed in (3, 3, 4))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["image"], other["image"])
    assert not torch.equal(first["betas"][0], first["betas"][1]), "one view a hand is the default"
    # The generator moves on; without one, torch's own seed rules.
    generator = torch.Generator().manual_seed(3)
    one, two = (synthetic.generate(2, 32, generator).image for _ in range(2))
    torch.manual_seed(3)
    assert torch.equal(synthetic.generate(2, 32).image, one) and not torch.equal(one, two)


def test_the_default_dtype_does_not_matter():
    expected = draw(1, 32).image
    torch.set_default_dtype(torch.float64)
    try:
        skin_maps.cache_clear()
        # Rounding may move a value to the next of 256 levels, seldom.
        difference = (draw(1, 32).image - expected).abs()
        assert difference.max() < 1.5 / 255 and difference.mean() < 1e-4
    finally:
        torch.set_default_dtype(torch.float32)
        skin_maps.cache_clear()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n": 1, "image_size": 4}, "image_size >= 16, got 4"),
        ({"n": -1}, "n >= 0, got -1"),
        ({"n": 1, "left_share": 1.5}, r"left_share in \[0, 1\], got 1\.5"),
        ({"n": 1, "wild_share": -0.1}, r"wild_share in \[0, 1\], got -0\.1"),
        ({"n": 3, "views": 2}, "views that divide n = 3, got 2"),
    ],
)
def test_bad_arguments_are_named(options, message):
    with pytest.raises(ValueError, match=rf"synthetic\.generate: expected {message}"):
        synthetic.generate(**options)


def test_left_hands_are_mirror_images_of_right_ones_which_are_the_models(hand):
    left, right = (draw(4, seed=9, left_share=share) for share in (1.0, 0.0))
    model, shift = hand(right.pose, right.betas), right.translation[:, None]
    torch.testing.assert_close(model.vertices + shift, right.vertices)
    torch.testing.assert_close(model.joints + shift, right.joints)
    assert not left.is_right.any() and right.is_right.all()
    torch.testing.assert_close(left.image, right.image.flip(3))
    mirror = torch.tensor([-1.0, 1.0, 1.0])
    torch.testing.assert_close(left.vertices, right.vertices * mirror)
    torch.testing.assert_close(hand(left.pose, left.betas).vertices * mirror + left.translation[:, None], left.vertices)
    pixels = right.camera.project(right.joints)
    mirrored = torch.stack([SIZE - pixels[..., 0], pixels[..., 1]], dim=-1)
    torch.testing.assert_close(left.camera.project(left.joints), mirrored, atol=0.02, rtol=1e-5)
    back = tensors(left.canonical())
    for name, value in tensors(right).items():
        torch.testing.assert_close(back[name], value, msg=name)


def test_the_mask_is_the_renderers_coverage_without_occluders(batch, right, coverage, surface):
    # Up to pixels at an outline, which rounding of the mirrored camera may give to either side.
    assert (right.mask - coverage * (1 - right.occluder_mask)).abs().mean() < 1e-3
    # A left hand's mask fits its own, mirrored vertices and camera, up to which pixel owns an edge.
    left = ~batch.is_right
    own = coverage_of(batch, surface.mirrored()) * (1 - batch.occluder_mask)
    assert (own - batch.mask)[left].abs().mean() < 2e-3
    hidden = 1 - right.mask.sum((1, 2, 3)) / coverage.sum((1, 2, 3))
    assert 0.25 < share(hidden > 0.05) < 0.85 and share(hidden > 0.95) < 0.05, "hidden often, seldom wholly"
    assert (right.mask * right.occluder_mask).max() <= 0.25 + 1e-6, "no pixel is fully both"


def test_hands_fill_the_frame_as_promised_near_and_far(right, coverage):
    pixels = right.camera.project(right.vertices)
    extent = (pixels.amax(1) - pixels.amin(1)).amax(1) / SIZE
    assert extent.quantile(0.02) > 0.3 and extent.quantile(0.9) < 1.25
    assert (coverage.sum((1, 2, 3)) > 0.01 * SIZE**2).all(), "some of every hand is in the frame"
    outside = ((pixels < 0) | (pixels > SIZE)).any(-1).float().mean(1)
    assert 0.05 < share(outside > 0.05) < 0.6, "some hands are partly out of it"
    depth = right.translation[:, 2]
    assert share(depth < 1.3) > 0.45 and share(depth > 3) > 0.2 and depth.min() > 0.15


def test_palms_backs_sides_and_fists_come_in_equal_shares(right):
    fist = torch.rad2deg(right.pose[:, [1, 4, 10, 7]].norm(dim=-1)).mean(1) > 65  # at the knuckles
    # At rest the palm faces -y.
    facing = rotation_matrices(right.pose[~fist, 0])[:, 2, 1]
    shares = [share(fist), share(facing > 0.55), share(facing < -0.55), share(facing.abs() <= 0.55)]
    assert all(0.2 < value < 0.47 for value in shares), shares


def test_gestures_bend_fingers_apart():
    reach = []
    for gestures in (False, True):
        joints = draw(64, 16, texture_size=16, gestures=gestures).joints
        tips = (joints[:, 8::4] - joints[:, :1]).norm(dim=-1) / (joints[:, 5::4] - joints[:, :1]).norm(dim=-1)
        reach.append((tips.amax(dim=1) - tips.amin(dim=1)).quantile(0.6))  # a quarter are fists, with and without
    assert reach[1] > 1.2 * reach[0], reach


def test_colours_and_sharpness_vary_widely(right):
    colour = visible_mean(right)
    assert (colour.std(0) > 0.12).all() and colour.mean(1).quantile(0.05) < 0.22 < 0.58 < colour.mean(1).quantile(0.95)
    natural = (right.texture.mean((2, 3)).diff(dim=1) < 0).all(1)
    assert 0.6 < share(natural) < 0.95, "some hands are of no skin colour, most are"
    grey = right.image.mean(1, keepdim=True)
    detail = (grey - avg_pool2d(grey, 3, 1, 1, count_include_pad=False)).abs().mean((1, 2, 3))
    assert detail.quantile(0.9) / detail.quantile(0.1) > 2.5


def test_the_image_shows_the_texture_in_some_light(right, surface):
    renderer = ta.TexturedHandRenderer(surface, image_size=SIZE)
    seen = renderer.observe(right.vertices, right.camera, right.image, right.mask)
    texel = grid_sample(right.texture, 2 * seen.uv[:, None] - 1, align_corners=False)[:, :, 0].transpose(1, 2)
    weight = seen.valid[..., None].float()
    pairs = torch.stack([(values * weight).sum(1) / weight.sum(1).clamp(min=1) for values in (texel, seen.rgb)])
    chroma = pairs - pairs.mean(-1, keepdim=True)
    assert torch.corrcoef(chroma.flatten(1))[0, 1] > 0.6


def test_palms_are_paler_and_pinker_than_backs(right):
    maps = skin_maps(128, torch.device("cpu"))
    natural = (right.texture.mean((2, 3)).diff(dim=1) < 0).all(1)
    colour = srgb_to_linear(right.texture[natural].flatten(2)[:, :, maps.texels])
    palm, back = (colour[:, :, chosen].mean(2) for chosen in (maps.back < 0.2, maps.back > 0.8))
    assert share(palm.mean(1) > back.mean(1)) > 0.75
    assert share(palm[:, 2] / palm[:, 1] > back[:, 2] / back[:, 1]) > 0.75


def test_jpeg_agrees_with_pillow(smooth_texture):
    image = (smooth_texture + 0.05 * torch.rand(1, 3, 128, 128, generator=torch.Generator().manual_seed(0))).clamp(0, 1)
    pixels = (image[0] * 255).round().byte().permute(1, 2, 0)
    image, file = pixels.permute(2, 0, 1)[None] / 255, io.BytesIO()
    Image.fromarray(pixels.numpy()).save(file, format="JPEG", quality=50, subsampling=2)
    reference = torch.from_numpy(np.array(Image.open(file))).permute(2, 0, 1) / 255
    mine = jpeg(image, torch.tensor([50.0]))[0]
    damage = (image[0] - reference).abs().mean()
    assert (mine - reference).abs().mean() < 0.4 * damage  # where two roundings meet, they differ


def test_blur_is_a_gaussian_and_a_line():
    point = torch.zeros(2, 3, 41, 41)
    point[:, :, 20, 20] = 1
    result = blurred(point, torch.tensor([2.0, 0.35]), torch.tensor([[0.0, 0.0], [8.0, 0.0]]))
    # A line's ringing is cut at zero.
    torch.testing.assert_close(result.sum((2, 3)), torch.ones(2, 3), atol=0.1, rtol=0)
    assert result[0, 0, 20, 22] / result[0, 0, 20, 20] == pytest.approx(np.exp(-0.5), abs=0.02)
    line = result[1, 0].sum(0)
    assert line[17:24].min() > 0.09 and line[:13].max() < 0.03


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_on_the_gpu():
    for place in ("cpu", "cuda"):
        generator = torch.Generator(place).manual_seed(0)
        made = synthetic.generate(8, 64, generator, device="cuda").canonical()
        assert all(value.device.type == "cuda" and value.isfinite().all() for value in tensors(made).values())
        mask = coverage_of(made, ta.HandSurface.mano().to("cuda")) * (1 - made.occluder_mask)
        assert (mask - made.mask).abs().mean() < 1e-3


def test_skin_alone_is_redder_than_green_and_greener_than_blue():
    red, green, blue = draw(24, seed=3, wild_share=0.0).texture.mean(dim=(2, 3)).unbind(dim=1)
    assert ((red > green) & (green > blue)).all()
    red, green, blue = draw(24, seed=3, wild_share=1.0).texture.mean(dim=(2, 3)).unbind(dim=1)
    assert ((red > green) & (green > blue)).float().mean() < 0.6
