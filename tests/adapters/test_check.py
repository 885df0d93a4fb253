from __future__ import annotations

import os
import re
import sys
from functools import cache
from pathlib import Path

import pytest
import torch
from PIL import Image

import texalign as ta
from texalign import synthetic
from texalign._internal import MissingExtraError
from texalign.adapters import IMAGENET_MEAN, IMAGENET_STD, check
from texalign.adapters.checking import numbers
from texalign.loss import LossInputs
from texalign.photographs import fit_photographs, photograph_ids, read_photographs

ROOT, SIZE, COUNT, FEW = os.environ.get("TEXALIGN_REAL_DATA", ""), 128, 8, 3
X, Y, YZ = (torch.tensor(signs) for signs in ([-1.0, 1.0, 1.0], [1.0, -1.0, 1.0], [1.0, -1.0, -1.0]))
# Of no tuning and no benchmark.
SEEDS = (51, 52)


@cache
def hands(seed, count=COUNT):
    batch = synthetic.generate(count, SIZE, torch.Generator().manual_seed(seed)).canonical()
    return LossInputs(batch.vertices, batch.camera, batch.image), batch


def normalised(image, mean, std):
    return (image - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None]


def about_wrist(batch, signs):
    root = batch.joints[:, :1]
    return (batch.vertices - root) * signs + root


def moved(camera, by=0.0, times=1.0):
    return ta.PinholeCamera(camera.focal * times, camera.principal * times + torch.tensor(by))


def rotated(image, *degrees):
    """Turned clockwise about their middle; black corners."""
    angle = torch.deg2rad(torch.tensor(degrees)).expand(len(image))
    cosine, sine, zero = angle.cos(), angle.sin(), torch.zeros(len(image))
    back = torch.stack([cosine, sine, zero, -sine, cosine, zero], dim=1).view(-1, 2, 3)
    grid = torch.nn.functional.affine_grid(back, list(image.shape), align_corners=False)
    return torch.nn.functional.grid_sample(image, grid, align_corners=False)


def mirrored_in_part(image):
    return torch.where((torch.arange(COUNT) % 2 == 0)[:, None, None, None], image.flip(-1), image)


# What is done to right inputs, and what must be said of them.
MISTAKES = {
    "y up": (lambda i, b: i._replace(vertices=i.vertices * Y), "y points up"),
    "OpenGL before the translation": (lambda i, b: i._replace(vertices=about_wrist(b, YZ)), "axes are OpenGL's"),
    "left hands": (
        lambda i, b: i.mirrored(torch.ones(COUNT, dtype=torch.bool)),
        "8 of 8 meshes are inside out: their vertices are those of left hands",
    ),
    "image mirrored": (lambda i, b: i._replace(image=i.image.flip(-1)), "each other's mirror image"),
    "some images mirrored": (lambda i, b: i._replace(image=mirrored_in_part(i.image)), "each other's mirror image"),
    "vertices mirrored": (lambda i, b: i._replace(vertices=about_wrist(b, X)), "images show right ones"),
    "image rotated": (lambda i, b: i._replace(image=rotated(i.image, 40.0)), "images look rotated by about"),
    "images rotated by any angle": (
        lambda i, b: i._replace(image=rotated(i.image, *torch.linspace(-50, 50, COUNT).tolist())),
        "each by another angle",
    ),
    "image upside down": (lambda i, b: i._replace(image=i.image.flip(-1, -2)), "images look rotated by about"),
    "principal at the corner": (
        lambda i, b: i._replace(camera=moved(i.camera, -SIZE / 2)),
        "principal point looks off: add (6",
    ),
    "principal a tenth off": (lambda i, b: i._replace(camera=moved(i.camera, 0.1 * SIZE)), "principal point looks off"),
    "camera of twice the size": (
        lambda i, b: i._replace(camera=moved(i.camera, times=2.0)),
        "camera looks made for an",
    ),
    "camera for 256, image of 224": (
        lambda i, b: i._replace(camera=moved(i.camera, times=8 / 7)),
        "camera looks made for an image 1.1",
    ),
    "noise": (lambda i, b: i._replace(image=torch.rand(i.image.shape)), "do not look like hands"),
}


QUICK = ("y up", "vertices mirrored", "image rotated", "camera for 256, image of 224", "principal a tenth off")
SHOWN = [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in MISTAKES]


@pytest.mark.parametrize("name", SHOWN)
def test_names_what_the_images_show(name):
    wrong, said = MISTAKES[name]
    inputs, batch = hands(SEEDS[0] if len(name) % 2 else SEEDS[1])
    report = check(*wrong(inputs, batch))
    assert any(said in finding for finding in report.findings) and not report.ok, str(report)


def test_finds_nothing_in_right_inputs():
    for seed, masked in zip(SEEDS, (False, True)):
        inputs, batch = hands(seed)
        report = check(*inputs._replace(mask=batch.mask if masked else None))
        assert report.ok and report.agreement < -1.2 and "Nothing looks wrong" in str(report), str(report)


def test_says_by_how_much():
    """A rotation to 5 degrees, a principal point to 2 % of the image, a scale to 4 %."""
    inputs, _ = hands(SEEDS[0])
    report = check(*inputs._replace(image=rotated(inputs.image, -25.0)))
    (angle,) = numbers_in(report, r"by about (\d+)° counter-clockwise")
    assert abs(angle - 25) <= 5, str(report)
    report = check(*inputs._replace(camera=moved(inputs.camera, [-16.0, 10.0])))
    x, y = numbers_in(report, r"add \((-?\d+), (-?\d+)\)")
    assert abs(x - 16) <= 0.02 * SIZE and abs(y + 10) <= 0.02 * SIZE, str(report)
    report = check(*inputs._replace(camera=moved(inputs.camera, times=0.75)))
    (scale,) = numbers_in(report, r"principal point by (\d\.\d+)")
    assert abs(scale - 4 / 3) < 0.04 * 4 / 3, str(report)


def numbers_in(report, pattern):
    (found,) = [match for match in (re.search(pattern, finding) for finding in report.findings) if match]
    return [float(number) for number in found.groups()]


def test_is_unsure_of_one_image_that_does_not_show_the_hand():
    inputs, _ = hands(SEEDS[0])
    report = check(inputs.vertices[:1], inputs.camera[:1], torch.rand(1, 3, SIZE, SIZE))
    assert report.unsure and not report.ok and not report.findings and report.agreement > -1.2
    assert str(report).startswith("Unsure")


def test_one_image_is_no_proof():
    inputs, _ = hands(SEEDS[0])
    report = check(inputs.vertices[:1], inputs.camera[:1], inputs.image[:1])
    assert report.ok and "few images prove nothing" in str(report)


@pytest.mark.slow
@pytest.mark.skipif(
    not (Path(ROOT) / "annotations.npz").is_file(), reason="TEXALIGN_REAL_DATA names no folder of photographs"
)
def test_names_mistakes_made_with_photographs():
    """Hands fitted to a detector's keypoints, in photographs whose focal length may be a guess."""
    ids = photograph_ids(ROOT)
    fitted = fit_photographs(read_photographs(ROOT, ids[:: len(ids) // COUNT][:COUNT], SIZE))
    photographs = fitted.photographs
    inputs = LossInputs(fitted.vertices, photographs.camera, photographs.image)
    assert not check(*inputs).findings
    for image, said in (
        (inputs.image.flip(-1), "mirror image"),
        (inputs.image.flip(-1, -2), "look rotated by about"),
        (rotated(inputs.image, 30.0), "look rotated by about"),
    ):
        report = check(*inputs._replace(image=image))
        assert any(said in finding for finding in report.findings), str(report)


def test_is_right_settles_left_hands():
    inputs, _ = hands(SEEDS[0])
    is_right = torch.arange(COUNT) > 2
    some_left = inputs.mirrored(~is_right)
    report = check(*some_left)
    assert any("3 of 8 meshes are inside out" in finding for finding in report.findings), str(report)
    for surface in (None, ta.HandSurface.mano().mirrored()):
        report = check(*some_left, surface=surface, is_right=is_right)
        assert report.ok, str(report)


def image_of(change):
    return lambda inputs, said: numbers.readable(change(inputs.image), said)


def metres_of(change):
    return lambda inputs, said: numbers.in_metres(change(inputs.vertices, inputs.vertices[:, :1]), said)


def pixels_of(change):
    return lambda inputs, said: numbers.in_pixels(change(*vars(inputs.camera).values()), SIZE, SIZE, said)


# Each looks at one part of the inputs, changed, and must say this.
NUMBERS = {
    "ImageNet": (image_of(lambda image: normalised(image, IMAGENET_MEAN, IMAGENET_STD)), "ImageNet's mean"),
    "half": (image_of(lambda image: 2 * image - 1), "(x − 0.5) / 0.5"),
    "minus half": (image_of(lambda image: image - 0.5), "add 0.5"),
    "255": (image_of(lambda image: image * 255), "divide it by 255"),
    "bytes": (image_of(lambda image: (image * 255).byte()), "torch.uint8"),
    "255 twice": (image_of(lambda image: image / 255), "divided by 255 twice"),
    "black": (image_of(lambda image: 0 * image), "shows nothing"),
    "NaN image": (image_of(lambda image: torch.full_like(image, torch.nan)), "3 of 3 images hold NaN"),
    "millimetres": (metres_of(lambda v, root: 1000 * v), "in millimetres"),
    "MobRecon's unit": (metres_of(lambda v, root: 5 * (v - root) + root), "multiplied by 0.2"),
    "float64": (lambda i, said: numbers.countable(i.vertices.double(), 778, said), "float64"),
    "float16": (lambda i, said: numbers.countable(i.vertices.half(), 778, said), "torch.float16"),
    "joints": (lambda i, said: numbers.countable(i.vertices[:, :21], 778, said), "21 joints, not a mesh"),
    "no translation": (
        lambda i, said: numbers.in_front(i.vertices - i.vertices.mean(dim=1, keepdim=True), said),
        "translation was not added",
    ),
    "OpenGL": (lambda i, said: numbers.in_front(i.vertices * YZ, said), "OpenGL's axes"),
    "another image's camera": (
        lambda i, said: numbers.in_frame(i.vertices, moved(i.camera, 10.0 * SIZE), SIZE, SIZE, said),
        "lie outside the image",
    ),
    "normalised camera": (pixels_of(lambda f, p: ta.PinholeCamera(f / SIZE, p / SIZE)), "it looks normalised"),
    "principal 0": (pixels_of(lambda f, p: ta.PinholeCamera(f, 0 * p)), "principal point is (0, 0)"),
    "swapped principal point": (
        lambda i, said: numbers.in_pixels(
            ta.PinholeCamera(torch.full((2, 2), 300.0), torch.tensor([[32.0, 64.0]] * 2)), 64, 128, said
        ),
        "looks like (cy, cx)",
    ),
    "absurd focal": (pixels_of(lambda f, p: ta.PinholeCamera(f * 1e5, p)), "ten thousand times the image"),
    "stretched": (pixels_of(lambda f, p: ta.PinholeCamera(f * torch.tensor([1.0, 3.0]), p)), "fx and fy differ"),
    "mask of ones": (lambda i, said: numbers.usable("mask", torch.ones(3, 1, 8, 8), said), "1 everywhere in 3 of 3"),
    "nothing valid": (lambda i, said: numbers.usable("valid", torch.zeros(FEW, 1, 8, 8), said), "no camera looked at"),
}


@pytest.mark.parametrize("name", NUMBERS)
def test_names_what_the_numbers_show(name):
    look, expected = NUMBERS[name]
    inputs, _ = hands(SEEDS[0], FEW)
    said: list[str] = []
    look(inputs, said)
    assert any(expected in finding for finding in said), said


def test_reports_several_mistakes_of_one_batch():
    inputs, _ = hands(SEEDS[0], FEW)
    vertices = inputs.vertices.double()
    vertices[1] = torch.nan
    image, mask = normalised(inputs.image, IMAGENET_MEAN, IMAGENET_STD), torch.ones(FEW, 1, SIZE, SIZE)
    report = check(vertices, inputs.camera, image, mask)
    for said in ("ImageNet's mean", "float64", "1 of 3 samples have a NaN", "mask is 1 everywhere"):
        assert said in str(report), str(report)
    assert torch.isfinite(report.overlay).all() and 0 <= report.overlay.min() <= report.overlay.max() <= 1


def test_names_a_mask_that_is_inverted_and_of_bytes():
    inputs, batch = hands(SEEDS[0])
    report = str(check(*inputs._replace(mask=255 * (1 - batch.mask))))
    assert "it is inverted" in report and "divide it by 255" in report


@pytest.mark.slow
def test_a_mask_says_how_far_off_the_principal_point_is():
    inputs, batch = hands(SEEDS[1])
    report = check(*inputs._replace(camera=moved(inputs.camera, [-40.0, 24.0]), mask=batch.mask))
    x, y = numbers_in(report, r"principal point looks off: add \((-?\d+), (-?\d+)\)")
    assert abs(x - 40) < 4 and abs(y + 24) < 4, str(report)


def test_draws_the_outline_and_writes_it(tmp_path):
    inputs, _ = hands(SEEDS[0])
    report = check(*inputs, path=tmp_path / "check.png")
    with Image.open(tmp_path / "check.png") as picture:
        assert picture.size == (4 * SIZE, COUNT // 4 * SIZE)
    green = (report.overlay - torch.tensor([0.2, 1.0, 0.3])[:, None, None]).abs().amax(dim=1) < 0.25
    changed = (report.overlay != inputs.image).any(dim=1)
    assert changed.flatten(1).sum(dim=1).gt(100).all() and green.flatten(1).any(dim=1).all()


def test_needs_no_pillow_without_a_path(monkeypatch):
    monkeypatch.setitem(sys.modules, "PIL", None)
    inputs, _ = hands(SEEDS[0], 1)
    assert check(*inputs).overlay.shape == inputs.image.shape
    with pytest.raises(MissingExtraError, match="pip install"):
        check(*inputs, path="never.png")


def test_another_atlas_is_compared_by_mean_colours():
    inputs, _ = hands(SEEDS[0])
    own = ta.HandSurface.mano().closed_wrist()
    assert check(*inputs, surface=own).ok
    assert "y points up" in str(check(*inputs._replace(vertices=inputs.vertices * Y), surface=own))


def test_changes_nothing_it_is_given():
    inputs, batch = hands(SEEDS[0], 2)
    vertices, image, mask = inputs.vertices.clone().requires_grad_(), 255 * inputs.image, batch.mask.clone()
    before = vertices.detach().clone(), image.clone(), mask.clone(), inputs.camera.principal.clone()
    check(vertices, inputs.camera, image, mask)
    after = vertices.detach(), image, mask, inputs.camera.principal
    assert all(torch.equal(first, second) for first, second in zip(before, after))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda i: i._replace(vertices=i.vertices[0]), r"expected vertices \(B, V, 3\)"),
        (lambda i: i._replace(image=i.image.permute(0, 2, 3, 1)), r"channels last"),
        (lambda i: i._replace(image=i.image[..., :0]), r"expected image \(2, 3, H, W\), got \(2, 3, 128, 0\)"),
        (lambda i: i._replace(mask=torch.ones(2, SIZE, SIZE)), r"expected mask \(2, 1, 128, 128\)"),
    ],
)
def test_refuses_shapes_that_do_not_belong_together(change, said):
    inputs, _ = hands(SEEDS[0], 2)
    with pytest.raises(ValueError, match=f"^check: .*{said}"):
        check(*change(inputs))
