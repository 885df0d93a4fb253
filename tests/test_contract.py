"""Every module of the library keeps the contract of `contract.py`."""

from __future__ import annotations

import copy
from functools import cache

import pytest
import torch
from torch import nn

import texalign as ta
from contract import COUNT, Case, ModuleContract
from host_network import tiny_encoder
from texalign import adapters
from texalign.hand import HandModel, sample_pose

SIZE = 32


class Function(nn.Module):
    """A function where a module is expected."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, *args):
        return self.function(*args)


@cache
def mano():
    return ta.HandSurface.mano()


def surface():
    """A new one, which has not cached anything yet."""
    return copy.deepcopy(mano())


def renderer():
    return ta.TexturedHandRenderer(surface(), SIZE, backend="torch")


def loss():
    prior = tiny_encoder(mano(), spread=0.3)
    return ta.DenseTextureAlignmentLoss(renderer(), prior, token_count=32, reduction="none")  # fewer than a hand shows


def draw(*shape, seed=0):
    return torch.rand(COUNT, *shape, generator=torch.Generator().manual_seed(seed))


def hands():
    """Three hands half a metre away, before three cameras."""
    vertices = HandModel()(sample_pose(COUNT, torch.Generator().manual_seed(0))).vertices
    vertices = vertices - vertices.mean(dim=1, keepdim=True) + torch.tensor([0.0, 0.0, 0.5])
    middle = torch.full((COUNT, 2), SIZE / 2)
    return {"vertices": vertices, "focal": 1.6 * SIZE + draw(2), "principal": middle + draw(2, seed=1)}


def textured():
    return hands() | {"texture": draw(3, 16, 16)}


def photographed():
    return hands() | {"image": draw(3, SIZE, SIZE), "mask": (draw(1, SIZE, SIZE, seed=2) > 0.1).float()}


def skin_before_a_wall():
    """Hands a few pixels beside where the image shows them."""
    given = hands()
    camera = ta.PinholeCamera(given["focal"], given["principal"])
    drawn = renderer()(given["vertices"], camera, torch.tensor([0.8, 0.55, 0.45]).reshape(1, 3, 1, 1))
    image = drawn.image + (1 - drawn.coverage) * torch.tensor([0.2, 0.35, 0.5])[:, None, None]
    image = (image + 0.05 * draw(3, SIZE, SIZE)).clamp(0, 1)
    masks = {"mask": drawn.coverage.round(), "valid": torch.ones(COUNT, 1, SIZE, SIZE)}
    sides = {"is_right": torch.tensor([True, False, True])}
    return given | {"vertices": given["vertices"] + torch.tensor([0.01, 0.0, 0.0]), "image": image} | masks | sides


def render(module, generator, vertices, focal, principal, texture):
    return vars(module(vertices, ta.PinholeCamera(focal, principal), texture))


def observe(module, generator, vertices, focal, principal, image, mask):
    return vars(module.observe(vertices, ta.PinholeCamera(focal, principal), image, mask, 64, generator))


def unwrap(module, generator, vertices, focal, principal, image, mask):
    texture, visibility = module.unwrap(vertices, ta.PinholeCamera(focal, principal), image, mask, 16)
    return {"texture": texture, "visibility": visibility}


def compare(module, generator, vertices, focal, principal, image, mask, valid, is_right):
    camera = ta.PinholeCamera(focal, principal)
    return {"loss": module(vertices, camera, image, mask, valid, is_right=is_right, generator=generator)}


def encode(module, generator, uv, rgb, valid):
    texture, log_variance = module(ta.UVObservations(uv, rgb, valid), return_log_variance=True)
    return {"texture": texture, "log_variance": log_variance}


def pose(module, generator, pose, betas):
    return module(pose, betas)._asdict() | {"alone": module.joints(pose, betas)}


def loss_inputs(module, generator, *args, **inputs):
    found = module.function(**inputs)
    return {"vertices": found.vertices, "focal": found.camera.focal, "principal": found.camera.principal} | {
        name: value for name, value in zip(("image", "mask", "valid"), found[2:]) if value is not None
    }


GEOMETRY = ("vertices", "focal", "principal")
HANDS = {
    "another mesh": ({"vertices": torch.zeros(COUNT, 21, 3)}, r"expected vertices \(B, 778, 3\), got \(3, 21, 3\)"),
    "another count": ({"vertices": torch.zeros(2, 778, 3)}, "expected 2 cameras, one for each sample, got 3"),
}
IMAGES = HANDS | {
    "another size": ({"image": torch.zeros(COUNT, 3, 64, 64)}, r"image \(3, 3, 32, 32\), got \(3, 3, 64, 64\)"),
    "channels last": ({"image": torch.zeros(COUNT, 32, 32, 3)}, r"image \(3, 3, 32, 32\), got \(3, 32, 32, 3\)"),
    "a mask of another size": ({"mask": torch.zeros(COUNT, 1, 16, 16)}, r"mask \(3, 1, 32, 32\), got \(3, 1, 16, 16\)"),
}


def intrinsics():
    """(B, 3, 3): focal lengths and principal points, without skew."""
    return torch.diag_embed(torch.cat([100 + draw(2), torch.ones(COUNT, 1)], dim=1)) + torch.tensor(
        [[0.0, 0.0, 4.0], [0.0, 0.0, 4.0], [0.0, 0.0, 0.0]]
    )


CASES = [
    Case(
        "renderer", renderer, textured, render, "image_size=(32, 32), backend='torch', near=0.01",
        learns=(*GEOMETRY, "texture"), harmless=GEOMETRY,
        refused=HANDS | {
            "four channels": ({"texture": torch.zeros(1, 4, 8, 8)}, r"texture \(B, 3, T, T\), got \(1, 4, 8, 8\)"),
            "not square": ({"texture": torch.zeros(1, 3, 8, 9)}, r"texture \(3 or 1, 3, T, T\), got \(1, 3, 8, 9\)"),
            "too many": ({"texture": torch.zeros(5, 3, 8, 8)}, r"texture \(3 or 1, 3, T, T\), got \(5, 3, 8, 8\)"),
        },
    ),
    Case(
        "renderer.observe", renderer, photographed, observe, learns=(*GEOMETRY, "image"), harmless=(*GEOMETRY, "mask"),
        draws=True, integers_pass=("mask",), refused=IMAGES,
    ),
    Case(
        "renderer.unwrap", renderer, photographed, unwrap, learns=(*GEOMETRY, "image"), harmless=(*GEOMETRY, "mask"),
        integers_pass=("mask",), refused=IMAGES,
    ),
    Case(
        # Rounding may move a pixel to the other side of a threshold: of some 100 of a hand, each up to 6 in size.
        "loss", loss, skin_before_a_wall, compare, "max_grad=500, reduction='none'", draws=True,
        rounding=2e-2, half_rounding=2e-2, harmless=(*GEOMETRY, "image", "mask", "valid"),
        integers_pass=("mask", "valid"),
        output_dtype=lambda dtype: torch.float64 if dtype == torch.float64 else torch.float32,
        refused=IMAGES | {
            "padding of another size": ({"valid": torch.zeros(COUNT, 32, 32)}, r"valid \(3, 1, 32, 32\), got"),
            "sides as numbers": ({"is_right": torch.ones(COUNT)}, r"is_right \(3,\) bool, got \(3,\) torch.float32"),
            "more sides": ({"is_right": torch.ones(4).bool()}, r"is_right \(3,\) bool, got \(4,\) torch.bool"),
        },
    ),
    Case(
        "encoder", lambda: tiny_encoder(mano()),
        lambda: {"uv": draw(40, 2), "rgb": 0.1 + 0.8 * draw(40, 3, seed=1), "valid": draw(40, seed=2) > 0.2}, encode,
        "texture_size=32, latent_grid=8", learns=("uv", "rgb"), has_weights=True, half_rounding=2.0**-4,
        output_dtype=lambda dtype: torch.promote_types(dtype, torch.float32), harmless=("uv", "rgb"),
        refused={
            "fewer colours": ({"rgb": torch.zeros(COUNT, 39, 3)}, r"expected rgb \(3, 40, 3\), got \(3, 39, 3\)"),
            "flags as numbers": ({"valid": torch.ones(COUNT, 40)}, "valid of dtype torch.bool, got torch.float32"),
        },
    ),
    Case(
        "hand", HandModel, lambda: {"pose": draw(16, 3) - 0.5, "betas": draw(10, seed=1)}, pose, "HandModel",
        learns=("pose", "betas"), rounding=1e-6, half_rounding=2.0**-8, output_dtype=lambda dtype: dtype,
        refused={
            "fewer joints": ({"pose": torch.zeros(COUNT, 15, 3)}, r"pose \(B, 16, 3\) or \(B, 16, 3, 3\), got"),
            "more shapes": ({"betas": torch.zeros(4, 10)}, r"expected betas \(3, 10\), got \(4, 10\)"),
        },
    ),
    Case(
        "surface.dilated", surface, lambda: {"texture": draw(3, 16, 16)},
        lambda module, generator, texture: {"texture": module.dilated(texture)},
        "778 vertices, 1538 faces, 905 uv, right", learns=("texture",), integers_pass=("texture",),
        output_dtype=lambda dtype: dtype,
        refused={"not square": ({"texture": torch.zeros(1, 3, 8, 9)}, r"texture \(B, C, T, T\), got \(1, 3, 8, 9\)")},
    ),
    Case(
        "camera.project", lambda: Function(ta.PinholeCamera),
        lambda: {"focal": 100 + draw(2), "principal": 16 + draw(2, seed=1), "points": 1 + draw(7, 3, seed=2)},
        lambda module, generator, focal, principal, points: {"pixels": module(focal, principal).project(points)},
        learns=("focal", "principal", "points"), output_dtype=lambda dtype: dtype,
        refused={"more points": ({"points": torch.ones(4, 7, 3)}, r"expected points \(3, N, 3\), got \(4, 7, 3\)")},
    ),
    Case(
        "adapters.orthographic", lambda: Function(adapters.orthographic),
        lambda: {"vertices": draw(7, 3), "cam": 4 + draw(3, seed=1), "image": draw(3, 8, 8)}, loss_inputs,
        learns=("vertices", "cam"), rounding=1e-3, harmless=("cam",), one_device=False,
        refused={"not square": ({"image": torch.zeros(COUNT, 3, 8, 9)}, r"expected square image \(3, 3, S, S\), got")},
    ),
    Case(
        "adapters.root_relative", lambda: Function(adapters.root_relative),
        lambda: {"vertices": draw(7, 3), "root": draw(3, seed=1), "calib": intrinsics(), "image": draw(3, 8, 8)},
        loss_inputs, learns=("vertices", "root"), refuses=("calib",), one_device=False,
        refused={"not square": ({"image": torch.zeros(COUNT, 3, 8, 9)}, r"expected square image \(3, 3, S, S\), got")},
    ),
]  # fmt: skip


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
class TestModules(ModuleContract):
    pass
