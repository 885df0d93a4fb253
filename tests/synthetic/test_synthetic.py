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
from texalign._internal import Draws
from texalign.hand import rotation_matrices
from texalign.synthetic.colour import linear_to_srgb, srgb_to_linear
from texalign.synthetic.degradation import blurred, jpeg
from texalign.synthetic.placement import place_hands
from texalign.synthetic.skin import WILD_SHARE, pigmented, skin_maps

SIZE = 64


def draw(count, size=SIZE, seed=0, **options):
    return synthetic.generate(count, size, torch.Generator().manual_seed(seed), **options)


@pytest.fixture(scope="module")
def batch():
    return draw(128)


@pytest.fixture(scope="module")
def right(batch):
    return batch.canonical()


def tensors(batch):
    named = {field.name: getattr(batch, field.name) for field in dataclasses.fields(batch)}
    camera = named.pop("camera")
    return {**named, "focal": camera.focal, "principal": camera.principal}


def coverage_of(batch, surface):
    renderer = ta.TexturedHandRenderer(surface, image_size=batch.image.shape[-1])
    return renderer(batch.vertices, batch.camera, torch.ones(1, 3, 4, 4)).coverage


def visible_mean(batch):
    """(B, 3): mean colour of the visible hand."""
    return (batch.image * batch.mask).sum((2, 3)) / batch.mask.sum((2, 3)).clamp(min=1)


def shapes(count, size, texture_size):
    return {
        "image": (count, 3, size, size),
        "mask": (count, 1, size, size),
        "occluder_mask": (count, 1, size, size),
        "vertices": (count, 778, 3),
        "joints": (count, 21, 3),
        "pose": (count, 16, 3),
        "betas": (count, 10),
        "translation": (count, 3),
        "texture": (count, 3, texture_size, texture_size),
        "is_right": (count,),
        "focal": (count, 2),
        "principal": (count, 2),
    }


@pytest.mark.parametrize(("count", "size", "texture_size"), [(0, 32, 32), (1, 16, 16), (2, 17, 64), (3, 100, 128)])
def test_any_count_and_size(count, size, texture_size):
    made = draw(count, size, texture_size=texture_size)
    assert len(made) == count
    assert {name: tuple(value.shape) for name, value in tensors(made).items()} == shapes(count, size, texture_size)
    for name, value in tensors(made).items():
        assert value.dtype == (torch.bool if name == "is_right" else torch.float32), name
        assert bool(torch.isfinite(value).all()), name


def test_values_lie_in_range(batch):
    for name in ("image", "mask", "occluder_mask", "texture"):
        values = getattr(batch, name)
        assert float(values.min()) >= 0 and float(values.max()) <= 1, name
        assert not values.requires_grad and not values.is_inference()
    assert bool((batch.vertices[..., 2] > 0.05).all()), "the hand is in front of the camera"
    assert bool((batch.camera.focal > 0).all())
    assert bool(((batch.image * 255 - (batch.image * 255).round()).abs() < 1e-3).all()), "images are 8 bit"


def draw_views(count, views, **options):
    return draw(count, 48, seed=11, texture_size=32, views=views, **options)


@pytest.mark.parametrize("views", [2, 3])
def test_views_share_a_hand_and_its_light_and_nothing_else(views):
    made = draw_views(6, views)
    blocks = {name: value.unflatten(0, (-1, views)) for name, value in tensors(made).items()}
    for name in ("betas", "texture", "is_right"):
        assert torch.equal(blocks[name], blocks[name][:, :1].expand_as(blocks[name])), name
    for name in ("pose", "translation", "image", "focal", "vertices"):
        for first in range(views):
            for second in range(first):
                apart = (blocks[name][:, first] - blocks[name][:, second]).flatten(1).abs().amax(dim=1)
                assert bool((apart > 1e-3).all()), name
    for name in ("betas", "texture", "pose"):
        assert bool(((blocks[name][0, 0] - blocks[name][1, 0]).abs().amax() > 1e-3).all()), f"blocks share {name}"


def test_views_have_one_colour():
    """Skin, light and camera settings are one: mean colours within a pair differ less than between pairs."""
    made = draw(64, 48, seed=2, texture_size=32, views=2).canonical()
    seen = (made.mask.sum((1, 2, 3)) > 60).view(-1, 2).all(dim=1)
    colour = visible_mean(made).view(-1, 2, 3)[seen]
    within = (colour[:, 0] - colour[:, 1]).abs().mean()
    between = (colour[:, 0] - colour[:, 1].roll(1, dims=0)).abs().mean()
    # 0.4 of it, on the average of seeds; the mean over some 30 pairs varies by a tenth of that.
    assert seen.sum() > 15 and within < 0.7 * between


def test_repeated_draws_are_those_of_fewer_rows():
    def draws(count, repeats):
        return Draws(count, torch.Generator().manual_seed(0), torch.device("cpu"), repeats)

    for name, arguments, options in (
        ("uniform", (2,), {"low": -1.0, "high": 3.0}),
        ("normal", (4, 1), {}),
        ("log_uniform", (), {"low": 0.1, "high": 10.0}),
        ("chance", (0.5, 3), {}),
        ("integers", (5,), {"high": 7}),
        ("directions", (2,), {}),
    ):
        few = getattr(draws(4, 1), name)(*arguments, **options)
        many = getattr(draws(12, 3), name)(*arguments, **options)
        assert torch.equal(many, few.repeat_interleave(3, dim=0)), name


def test_nothing_is_ever_nan():
    for seed in range(6):
        made = draw(8, 32, seed=100 + seed, texture_size=32)
        assert all(bool(torch.isfinite(value).all()) for value in tensors(made).values()), seed


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
        ({"n": 1, "image_size": 4}, r"synthetic\.generate: expected image_size >= 16, got 4"),
        ({"n": -1}, r"synthetic\.generate: expected n >= 0, got -1"),
        ({"n": 1, "texture_size": 8}, r"synthetic\.generate: expected texture_size >= 16, got 8"),
        ({"n": 1, "left_share": 1.5}, r"synthetic\.generate: expected left_share in \[0, 1\], got 1\.5"),
        ({"n": 3, "views": 2}, r"synthetic\.generate: expected views that divide n = 3, got 2"),
        ({"n": 2, "views": 0}, r"synthetic\.generate: expected views that divide n = 2, got 0"),
        ({"n": 2, "views": 0.5}, r"synthetic\.generate: expected views that divide n = 2, got 0\.5"),
    ],
)
def test_bad_arguments_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        synthetic.generate(**options)


def test_vertices_and_joints_are_the_models(right, hand):
    model = hand(right.pose, right.betas)
    torch.testing.assert_close(model.vertices + right.translation[:, None], right.vertices)
    torch.testing.assert_close(model.joints + right.translation[:, None], right.joints)


def test_left_hands_are_mirror_images(hand):
    left, right = (draw(4, seed=9, left_share=share) for share in (1.0, 0.0))
    assert not left.is_right.any() and right.is_right.all()
    torch.testing.assert_close(left.image, right.image.flip(3))
    torch.testing.assert_close(left.vertices, right.vertices * torch.tensor([-1.0, 1.0, 1.0]))
    torch.testing.assert_close(left.texture, right.texture)
    expected = hand(left.pose, left.betas).vertices * torch.tensor([-1.0, 1.0, 1.0]) + left.translation[:, None]
    torch.testing.assert_close(left.vertices, expected)
    pixels, mirrored = right.camera.project(right.joints), left.camera.project(left.joints)
    torch.testing.assert_close(mirrored[..., 0], SIZE - pixels[..., 0], atol=0.02, rtol=1e-5)
    torch.testing.assert_close(mirrored[..., 1], pixels[..., 1], atol=0.02, rtol=1e-5)
    back = tensors(left.canonical())
    for name, value in tensors(right).items():
        torch.testing.assert_close(back[name], value, msg=name)


def test_half_of_the_hands_are_left(batch):
    assert 0.28 < float(batch.is_right.float().mean()) < 0.72  # five standard deviations of 128 coins


def test_the_mask_is_the_renderers_coverage_without_occluders(batch, right, surface):
    # Up to pixels at an outline, which rounding of the mirrored camera may give to either side.
    assert float((right.mask - coverage_of(right, surface) * (1 - right.occluder_mask)).abs().mean()) < 1e-3
    # A left hand's mask fits its own, mirrored vertices and camera, up to which pixel owns an edge.
    left = ~batch.is_right
    own = coverage_of(batch, surface.mirrored()) * (1 - batch.occluder_mask)
    assert float((own - batch.mask)[left].abs().mean()) < 2e-3


def test_hands_fill_the_frame_as_promised(right, surface):
    coverage = coverage_of(right, surface)
    pixels = right.camera.project(right.vertices)
    extent = (pixels.amax(1) - pixels.amin(1)).amax(1) / SIZE
    assert float(extent.quantile(0.02)) > 0.3 and float(extent.quantile(0.9)) < 1.25
    assert bool((coverage.sum((1, 2, 3)) > 0.01 * SIZE**2).all()), "some of every hand is in the frame"
    outside = ((pixels < 0) | (pixels > SIZE)).any(-1).float().mean(1)
    assert 0.05 < float((outside > 0.05).float().mean()) < 0.6, "some hands are partly out of it"


def test_cameras_reach_from_arms_length_to_far_away(right):
    depth = right.translation[:, 2]
    assert float((depth < 1.3).float().mean()) > 0.45 and float((depth > 3).float().mean()) > 0.2
    assert float(depth.min()) > 0.15 and float(depth.max()) > 20


def test_views_come_in_equal_shares(right):
    # Where the palm faces, and how far the fingers are curled (fists: 75 degrees and more at the knuckles).
    palm = -rotation_matrices(right.pose[:, 0])[:, :, 1]  # rest: the palm faces -y
    knuckles = torch.rad2deg(right.pose[:, [1, 4, 10, 7]].norm(dim=-1)).mean(1)
    fist = knuckles > 65
    assert 0.22 < float(fist.float().mean()) < 0.42  # the other views hold a few as well
    facing = -palm[~fist, 2]
    # Fingers lean by 0.5 rad, so that few palms face the camera straight.
    share = {
        "palm": (facing > 0.55).float().mean(),
        "back": (facing < -0.55).float().mean(),
        "side": (facing.abs() <= 0.55).float().mean(),
    }
    assert all(0.2 < float(value) < 0.47 for value in share.values()), share


def test_equal_shares_are_exact():
    groups = Draws(32, torch.Generator().manual_seed(0), torch.device("cpu")).equal_shares(4)
    assert groups.bincount().tolist() == [8, 8, 8, 8]
    alone = [int(Draws(1, torch.Generator().manual_seed(s), torch.device("cpu")).equal_shares(4)) for s in range(40)]
    assert set(alone) == {0, 1, 2, 3}


def test_colours_are_wider_than_nature(right):
    colour = visible_mean(right)
    assert bool((colour.std(0) > 0.12).all())
    luma = colour.mean(1)
    assert float(luma.quantile(0.05)) < 0.22 and float(luma.quantile(0.95)) > 0.58
    texture = right.texture.mean((2, 3))
    natural = (texture[:, 0] > texture[:, 1]) & (texture[:, 1] > texture[:, 2])
    assert 0.6 < float(natural.float().mean()) < 0.95, "some hands are of no skin colour, most are"
    assert 0.15 <= WILD_SHARE <= 0.25


def test_the_image_shows_the_texture_in_some_light(right, surface):
    renderer = ta.TexturedHandRenderer(surface, image_size=SIZE)
    seen = renderer.observe(right.vertices, right.camera, right.image, right.mask)
    texel = grid_sample(right.texture, 2 * seen.uv[:, None] - 1, align_corners=False)[:, :, 0].transpose(1, 2)
    weight = seen.valid[..., None].float()
    count = weight.sum((1, 2)).clamp(min=1)[:, None]
    # From hand to hand: one number for each hand and channel.
    pairs = torch.stack([(values * weight).sum(1) / count for values in (texel, seen.rgb)])
    chroma = pairs - pairs.mean(-1, keepdim=True)
    assert torch.corrcoef(chroma.flatten(1))[0, 1] > 0.6
    # And from texel to texel of one hand.
    centred = [(values - (values * weight).sum(1, True) / count[:, None]) * weight for values in (texel, seen.rgb)]
    first, second = (values.mean(-1) for values in centred)
    correlation = (first * second).sum(1) / (first.square().sum(1) * second.square().sum(1)).sqrt().clamp(min=1e-9)
    assert float(correlation.median()) > 0.15


def test_occluders_and_padding_hide_hands_often_enough(right, surface):
    coverage = coverage_of(right, surface)
    hidden = 1 - right.mask.sum((1, 2, 3)) / coverage.sum((1, 2, 3))
    assert 0.25 < float((hidden > 0.05).float().mean()) < 0.85
    assert float((hidden > 0.95).float().mean()) < 0.05
    assert float((right.mask * right.occluder_mask).max()) <= 0.25 + 1e-6, "no pixel is fully both"


def test_light_is_not_in_the_texture(surface):
    maps = skin_maps(128, torch.device("cpu"))
    assert len(maps.texels) == int((surface.texel_map(128).face_index >= 0).sum())
    for name in ("back", "knuckle", "tip", "crease", "wrinkle", "nail", "nail_edge"):
        values = getattr(maps, name)
        assert float(values.max()) > 0.5 and float(values.min()) < 0.1, name


def test_palms_are_paler_and_pinker_than_backs():
    made = draw(64, 16)
    maps = skin_maps(128, torch.device("cpu"))
    colour = srgb_to_linear(made.texture.flatten(2)[:, :, maps.texels])
    natural = (made.texture.mean((2, 3)).diff(dim=1) < 0).all(1)
    palm, back = (colour[natural][:, :, chosen].mean(2) for chosen in (maps.back < 0.2, maps.back > 0.8))
    assert float((palm.mean(1) > back.mean(1)).float().mean()) > 0.75
    # Pinker: less of its blue and green is lost to melanin, more to blood.
    assert float((palm[:, 2] / palm[:, 1] > back[:, 2] / back[:, 1]).float().mean()) > 0.75


def test_pigments_darken_as_they_should():
    melanin, blood = torch.tensor([0.1, 1.0, 4.0]), torch.full((3,), 0.3)
    colour = pigmented(melanin, blood)
    assert bool((colour.diff(dim=0) < 0).all()), "more melanin, darker"
    assert bool((colour[:, 0] > colour[:, 1]).all() and (colour[:, 1] > colour[:, 2]).all()), "skin is reddish"
    flushed = pigmented(melanin, blood + 0.5) / colour
    assert bool((flushed[:, 0] > flushed[:, 1]).all()), "blood takes green first"


def test_srgb_there_and_back():
    values = torch.linspace(0, 1, 257)
    torch.testing.assert_close(linear_to_srgb(srgb_to_linear(values)), values, atol=2e-6, rtol=0)


@pytest.mark.parametrize("quality", [20, 50, 90])
def test_jpeg_agrees_with_pillow(quality, smooth_texture):
    image = (smooth_texture + 0.05 * torch.rand(1, 3, 128, 128, generator=torch.Generator().manual_seed(0))).clamp(0, 1)
    image = (image * 255).round() / 255
    file = io.BytesIO()
    pixels = (image[0] * 255).round().byte().permute(1, 2, 0).numpy()
    Image.fromarray(pixels).save(file, format="JPEG", quality=quality, subsampling=2)
    reference = torch.from_numpy(np.array(Image.open(file))).permute(2, 0, 1) / 255
    mine = jpeg(image, torch.tensor([float(quality)]))[0]
    damage = (image[0] - reference).abs().mean()
    assert (mine - reference).abs().mean() < 0.4 * damage  # where two roundings meet, they differ


def test_blur_is_a_gaussian_and_a_line():
    point = torch.zeros(2, 3, 41, 41)
    point[:, :, 20, 20] = 1
    result = blurred(point, torch.tensor([2.0, 0.35]), torch.tensor([[0.0, 0.0], [8.0, 0.0]]))
    # A line's ringing is cut at zero.
    torch.testing.assert_close(result.sum((2, 3)), torch.ones(2, 3), atol=0.1, rtol=0)
    ratio = result[0, 0, 20, 22] / result[0, 0, 20, 20]
    assert float(ratio) == pytest.approx(torch.tensor(-0.5).exp().item(), abs=0.02)
    line = result[1, 0].sum(0)
    assert float(line[17:24].min()) > 0.09 and float(line[:13].max()) < 0.03
    constant = blurred(torch.full((1, 3, 16, 16), 0.5), torch.tensor([1.0]), torch.tensor([[3.0, 1.0]]))
    torch.testing.assert_close(constant, torch.full((1, 3, 16, 16), 0.5))


def test_images_are_of_all_sharpnesses(right):
    grey = right.image.mean(1, keepdim=True)
    detail = (grey - avg_pool2d(grey, 3, 1, 1, count_include_pad=False)).abs().mean((1, 2, 3))
    assert float(detail.quantile(0.9) / detail.quantile(0.1)) > 2.5


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_on_the_gpu():
    for generator in (torch.Generator().manual_seed(0), torch.Generator("cuda").manual_seed(0)):
        made = synthetic.generate(8, 64, generator, device="cuda").canonical()
        assert all(
            value.device.type == "cuda" and bool(torch.isfinite(value).all()) for value in tensors(made).values()
        )
        mask = coverage_of(made, ta.HandSurface.mano().to("cuda")) * (1 - made.occluder_mask)
        assert float((mask - made.mask).abs().mean()) < 1e-3


def test_gestures_bend_fingers_apart():
    """Fists aside, which there are with and without, and which bend them alike."""
    reach = []
    for gestures in (False, True):
        draws = Draws(200, torch.Generator().manual_seed(0), torch.device("cpu"))
        joints = place_hands(draws, draws, 16, gestures).joints
        tips = (joints[:, 8::4] - joints[:, :1]).norm(dim=-1) / (joints[:, 5::4] - joints[:, :1]).norm(dim=-1)
        reach.append((tips.amax(dim=1) - tips.amin(dim=1)).quantile(0.6))
    assert reach[1] > 1.2 * reach[0], reach
