from __future__ import annotations

import sys
from functools import cache

import pytest
import torch
from PIL import Image

import texalign as ta
from texalign import synthetic
from texalign._internal import MissingExtraError
from texalign.adapters import IMAGENET_MEAN, IMAGENET_STD, check
from texalign.adapters.checking import numbers
from texalign.loss import LossInputs

SIZE, COUNT, FEW = 128, 8, 3
X, Y, YZ = (torch.tensor(signs) for signs in ([-1.0, 1.0, 1.0], [1.0, -1.0, 1.0], [1.0, -1.0, -1.0]))
# check was tuned on hands of the seeds 100 and 1000.
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


# What is done to right inputs, and what must be said of them.
MISTAKES = {
    "y up": (lambda i, b: i._replace(vertices=i.vertices * Y), "y points up"),
    "OpenGL before the translation": (lambda i, b: i._replace(vertices=about_wrist(b, YZ)), "axes are OpenGL's"),
    "left hands": (
        lambda i, b: i.mirrored(torch.ones(COUNT, dtype=torch.bool)),
        "8 of 8 meshes are inside out: their vertices are those of left hands",
    ),
    "image mirrored": (lambda i, b: i._replace(image=i.image.flip(-1)), "each other's mirror image"),
    "vertices mirrored": (lambda i, b: i._replace(vertices=about_wrist(b, X)), "images show right ones"),
    "principal at the corner": (
        lambda i, b: i._replace(camera=moved(i.camera, -SIZE / 2)),
        "principal point is off by half the image: add (64, 64)",
    ),
    "camera of twice the size": (lambda i, b: i._replace(camera=moved(i.camera, times=2.0)), "image twice as large"),
    "noise": (lambda i, b: i._replace(image=torch.rand(i.image.shape)), "do not look like hands"),
}


QUICK = ("y up", "left hands", "vertices mirrored")
SHOWN = [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in MISTAKES]


@pytest.mark.parametrize("name", SHOWN)
def test_names_what_the_images_show(name):
    wrong, said = MISTAKES[name]
    inputs, batch = hands(SEEDS[0] if len(name) % 2 else SEEDS[1])
    report = check(*wrong(inputs, batch))
    assert any(said in finding for finding in report.findings), str(report)


def test_finds_nothing_in_right_inputs():
    for seed, masked in zip(SEEDS, (False, True)):
        inputs, batch = hands(seed)
        report = check(*inputs._replace(mask=batch.mask if masked else None))
        assert report.ok and "half a pixel" in str(report), str(report)


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
    wrong = inputs._replace(camera=moved(inputs.camera, [-40.0, 24.0]), mask=batch.mask)
    (finding,) = [finding for finding in check(*wrong).findings if "separates meshes from masks" in finding]
    x, y = (float(number) for number in finding.split("add (")[1].split(")")[0].split(", "))
    assert abs(x - 40) < 12 and abs(y + 24) < 12, finding


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
        (lambda i: i._replace(mask=torch.ones(2, SIZE, SIZE)), r"expected mask \(2, 1, 128, 128\)"),
    ],
)
def test_refuses_shapes_that_do_not_belong_together(change, said):
    inputs, _ = hands(SEEDS[0], 2)
    with pytest.raises(ValueError, match=f"^check: .*{said}"):
        check(*change(inputs))
