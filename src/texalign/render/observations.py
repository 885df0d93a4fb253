from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from texalign._internal import expect, expect_floating, expect_shape

# Surface seen at less than about 15 degrees: its colour is smeared over many texels and mixed with what lies behind.
MINIMUM_COSINE = 0.25


@dataclass(frozen=True, eq=False)
class UVObservations:
    """What an image shows of a hand's texture: colours at points of the atlas.

    Attributes:
        uv: (B, N, 2) float in [0, 1]. Differentiable in the vertices that made it.
        rgb: (B, N, 3) float in [0, 1].
        valid: (B, N) bool; the rest is padding (zeros).

    Example:
        >>> colours = torch.tensor([[[0.8, 0.6, 0.5], [0.6, 0.4, 0.3]]])
        >>> seen = UVObservations(uv=torch.rand(1, 2, 2), rgb=colours, valid=torch.ones(1, 2, dtype=torch.bool))
        >>> seen.mean_colour()
        tensor([[0.7000, 0.5000, 0.4000]])
    """

    uv: Tensor
    rgb: Tensor
    valid: Tensor

    def __post_init__(self) -> None:
        who = "UVObservations"
        batch, count = expect_shape(self.valid, who, "valid", ("B", "N")).shape
        expect(self.valid.dtype == torch.bool, who, "valid of dtype torch.bool", self.valid.dtype)
        expect_floating(self.uv, who, "uv", (batch, count, 2))
        expect_floating(self.rgb, who, "rgb", (batch, count, 3))

    def detach(self) -> UVObservations:
        """The same values without a graph."""
        return UVObservations(self.uv.detach(), self.rgb.detach(), self.valid)

    def mean_colour(self) -> Tensor:
        """(B, 3) mean of the valid colours, 0 where there is none."""
        weight = self.valid[..., None]
        return (self.rgb * weight).sum(dim=1) / weight.sum(dim=1).clamp(min=1)


def face_geometry(vertices: Tensor, faces: Tensor, points: Tensor) -> tuple[Tensor, Tensor]:
    """Per face (B, F): the cosine between its outward normal and the direction to the camera, and m² of skin a pixel.

    The cosine is negative for faces seen from inside (through the open wrist).
    """
    corner = vertices[:, faces]
    normal = torch.linalg.cross(corner[:, :, 1] - corner[:, :, 0], corner[:, :, 2] - corner[:, :, 0])
    centre = corner.mean(dim=2)
    length = normal.norm(dim=-1) * centre.norm(dim=-1)
    cosine = -(normal * centre).sum(dim=-1) / length.clamp(min=1e-20)
    screen = (points[..., :2] / points[..., 2:].clamp(min=1e-6))[:, faces]
    a, b = screen[:, :, 1] - screen[:, :, 0], screen[:, :, 2] - screen[:, :, 0]
    pixels = (a[..., 0] * b[..., 1] - a[..., 1] * b[..., 0]).abs() / 2
    return cosine, normal.norm(dim=-1) / 2 / pixels.clamp(min=1e-6)


def clean_pixels(face_index: Tensor, depth: Tensor, cosine: Tensor, focal: Tensor) -> Tensor:
    """(B, H, W) bool: pixels that show one piece of skin, well enough inclined to the camera.

    Left out are the background, faces at a grazing angle or seen from inside, and both sides of depth edges: pixels
    with a 4-neighbour on the background or farther away in depth than 2 mm plus three times the pixel's own footprint.

    Args:
        face_index: (B, H, W) int64.
        depth: (B, H, W) metres.
        cosine: (B, F) of `face_geometry`.
        focal: (B, 2) pixels.
    """
    covered = face_index >= 0
    at_pixel = cosine.gather(1, face_index.clamp(min=0).flatten(1)).reshape(face_index.shape)
    clean = covered & (at_pixel > MINIMUM_COSINE)
    limit = 0.002 + 3 * depth / focal.mean(dim=1).clamp(min=1e-6)[:, None, None]
    for axis in (1, 2):
        length = face_index.shape[axis]
        if length < 2:
            continue
        near, far = slice(0, length - 1), slice(1, length)
        first = (slice(None), near) if axis == 1 else (slice(None), slice(None), near)
        second = (slice(None), far) if axis == 1 else (slice(None), slice(None), far)
        jump = (depth[first] - depth[second]).abs()
        edge = ~(covered[first] & covered[second]) | (jump > torch.minimum(limit[first], limit[second]))
        clean[first] &= ~edge
        clean[second] &= ~edge
    return clean


def observe_pixels(
    uv: Tensor, image: Tensor, clean: Tensor, weight: Tensor, count: int | None, generator: torch.Generator | None
) -> UVObservations:
    """Gather the colours of clean pixels, all of them or `count` drawn with probability proportional to `weight`.

    Args:
        uv: (B, H, W, 2).
        image: (B, 3, H, W).
        clean: (B, H, W) bool.
        weight: (B, H, W) float > 0, the surface a pixel stands for, so that the draw is even over the surface.
        count: how many a sample; None takes all, padded to the fullest sample of the batch.
        generator: of the tensors' device; None uses torch's own.
    """
    height, width = clean.shape[1:]
    clean, flat_uv = clean.flatten(1), uv.flatten(1, 2)
    if count is None:
        score = clean.to(torch.float32)
        most = int(clean.sum(dim=1).max()) if clean.numel() else 0
        # A stable sort keeps the pixels in reading order.
        picked = score.argsort(dim=1, descending=True, stable=True)[:, :most]
    else:
        # The largest of log(u) / w is drawn with probability proportional to w, without replacement
        # (Efraimidis and Spirakis, "Weighted random sampling with a reservoir", 2006).
        uniform = torch.rand(clean.shape, generator=generator, device=clean.device).clamp(min=1e-12)
        score = torch.where(clean, uniform.log() / weight.flatten(1).clamp(min=1e-20), -torch.inf)
        picked = score.topk(min(count, height * width), dim=1).indices
    valid = clean.gather(1, picked)
    rows = picked[..., None]
    chosen_uv = flat_uv.gather(1, rows.expand(-1, -1, 2)) * valid[..., None]
    rgb = image.flatten(2).transpose(1, 2).gather(1, rows.expand(-1, -1, 3)) * valid[..., None]
    missing = 0 if count is None else count - picked.shape[1]
    if missing:
        chosen_uv = torch.nn.functional.pad(chosen_uv, (0, 0, 0, missing))
        rgb = torch.nn.functional.pad(rgb, (0, 0, 0, missing))
        valid = torch.nn.functional.pad(valid, (0, missing))
    return UVObservations(chosen_uv, rgb, valid)
