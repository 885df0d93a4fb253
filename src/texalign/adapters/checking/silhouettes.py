from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from texalign.camera import PinholeCamera
from texalign.render import TexturedHandRenderer
from texalign.surface import HandSurface

# Pixels of the longer side. Small: what is looked for is larger than a pixel of these, and noise of a pose is not.
SIDE = 32
COLOURS = 24


class Moves(NamedTuple):
    """C similarity transforms of an image's plane.

    Attributes:
        rows: (C, 4) degrees of a rotation from x (right) to y (down), octaves of a scaling, and a shift along x and y
            in the image's longer sides.
        corner: whether they are about the image's upper left corner, and not its middle.
    """

    rows: Tensor
    corner: bool = False

    def linear(self) -> Tensor:
        """(C, 2, 2)."""
        angle, scale = torch.deg2rad(self.rows[:, 0]), torch.exp2(self.rows[:, 1])
        cosine, sine = scale * angle.cos(), scale * angle.sin()
        return torch.stack([cosine, -sine, sine, cosine], dim=-1).unflatten(-1, (2, 2))


class Silhouettes:
    """How much of the meshes' silhouettes the images' colours explain: 0 nothing, 1 all of it.

    The mutual information of a pixel's colour, one of a palette of the image's own, with its lying in the silhouette,
    over the entropy of the latter (Theil's uncertainty coefficient). No prior, and nothing of a hand but its outline:
    in a camera that is off the silhouette cuts through colours. A mask's labels count as much as the colours do.
    Pixels behind the wrist, where a forearm may be, and those that are not valid are ignored.

    Args:
        surface: of the meshes.
        image: (B, 3, H, W) in [0, 1].
        mask, valid: (B, 1, H, W) in [0, 1], or None.
    """

    def __init__(self, surface: HandSurface, image: Tensor, mask: Tensor | None, valid: Tensor | None) -> None:
        self.height, self.width = image.shape[2:]
        self.side = max(self.height, self.width)
        shrink = SIDE / self.side
        self.size = (max(8, round(self.height * shrink)), max(8, round(self.width * shrink)))
        height, width = self.size
        self.scale = image.new_tensor([width / self.width, height / self.height])
        # Three times as high and wide as the image: hands beside it may have to be moved into it.
        self.renderer = TexturedHandRenderer(surface, (3 * height, 3 * width))
        loops = surface.boundary_loops
        self.wrist = [*max(loops, key=len)] if loops else []
        self.labels = [_palette_index(self._small(image))]
        if mask is not None:
            skin = self._small(mask).flatten(1) > 0.5
            self.labels.append(functional.one_hot(skin.long(), 2).to(image.dtype))
        self.valid = None if valid is None else self._small(valid).flatten(2)

    def layers(self, vertices: Tensor, camera: PinholeCamera) -> Tensor:
        """(N, 2, 3h, 3w): 1 in the mesh's silhouette; 1 behind its wrist and outside of it."""
        camera = camera.cropped(-camera.focal.new_tensor([self.width, self.height]), self.scale)
        inside = (self.renderer.scene(vertices, camera).depth > 0).to(vertices.dtype)
        behind = torch.zeros_like(inside)
        if self.wrist:
            points = camera.project(vertices)
            wrist = points[:, self.wrist].mean(dim=1, keepdim=True)
            away = wrist - points.mean(dim=1, keepdim=True)
            along = ((_pixels(inside.shape[1], inside.shape[2], inside) - wrist) * away).sum(dim=-1)
            behind = ((along > 0).view_as(inside) & (inside < 0.5)).to(inside.dtype)
        return torch.stack([inside, behind], dim=1)

    def explained(self, layers: Tensor, index: Tensor, moves: Moves) -> Tensor:
        """(N, C): the share explained of N silhouettes, given as `layers` and moved, by the samples `index` (N,)."""
        parts = (Moves(rows, moves.corner) for rows in moves.rows.split(64))
        return torch.cat([self._explained(layers, index, part) for part in parts], dim=1)

    def moved(self, vertices: Tensor, camera: PinholeCamera, moves: Moves) -> Tensor:
        """Vertices (N, V, 3) of the same depths whose pixels lie where the moves, N or one for all, put them."""
        middle = 0 if moves.corner else vertices.new_tensor([self.width, self.height]) / 2
        pixels = (camera.project(vertices) - middle) @ moves.linear().transpose(1, 2)
        pixels = pixels + middle + moves.rows[:, None, 2:] * self.side
        across = (pixels - camera.principal[:, None]) / camera.focal[:, None] * vertices[..., 2:]
        return torch.cat([across, vertices[..., 2:]], dim=-1)

    def _explained(self, layers: Tensor, index: Tensor, moves: Moves) -> Tensor:
        inside, behind = self._drawn(layers, moves).unbind(dim=2)
        weight = 1 - behind
        if self.valid is not None:
            weight = weight * self.valid[index]
        total = weight.sum(dim=2).clamp(min=1e-3)
        weighted = inside * weight
        share = weighted.sum(dim=2) / total
        found = torch.zeros_like(share)
        for labels in self.labels:
            within = weighted @ labels[index]
            without = weight @ labels[index] - within
            found += _information(within / total[..., None], without / total[..., None], share) / len(self.labels)
        # A hand that is mostly beside the image is easily explained.
        whole = layers[:, 0].sum(dim=(1, 2))[:, None] * torch.exp2(2 * moves.rows[:, 1])
        return found * (1.25 * inside.sum(dim=2) / whole.clamp(min=1)).clamp(max=1)

    def _drawn(self, layers: Tensor, moves: Moves) -> Tensor:
        """(N, C, 2, h · w): the layers as the image would see them after each move."""
        height, width = self.size
        half = layers.new_tensor([width, height]) / 2
        middle = 0 if moves.corner else half
        pixels = _pixels(height, width, layers) - middle - moves.rows[:, None, 2:] * max(height, width)
        # In grid_sample's [-1, 1] of the layers, which are three times as large.
        source = (pixels @ moves.linear().inverse().transpose(1, 2) + middle - half) / (3 * half)
        flat = functional.grid_sample(layers.flatten(0, 1)[None], source[None], align_corners=False)
        return flat[0].unflatten(0, (-1, 2)).transpose(1, 2)

    def _small(self, values: Tensor) -> Tensor:
        return functional.interpolate(values, size=self.size, mode="bilinear", antialias=True)


def _pixels(height: int, width: int, like: Tensor) -> Tensor:
    """(H · W, 2): the pixels' centres."""
    y, x = (torch.arange(side, device=like.device, dtype=like.dtype) + 0.5 for side in (height, width))
    return torch.stack([x.repeat(height), y.repeat_interleave(width)], dim=-1)


def _information(within: Tensor, without: Tensor, share: Tensor) -> Tensor:
    """Mutual information over entropy, of labels' joint probabilities (…, K) with a silhouette and its complement."""
    tiny = 1e-3
    label = within + without + tiny
    share = share.clamp(tiny, 1 - tiny)
    gained = torch.zeros_like(share)
    for joint, probability in ((within, share), (without, 1 - share)):
        given = joint / probability[..., None] + tiny
        gained += (joint * (given / label).log()).sum(dim=-1)
    return gained / -(share * share.log() + (1 - share) * (1 - share).log())


def _palette_index(image: Tensor) -> Tensor:
    """(B, H · W, K) of 0 and 1: which of K colours of its own image each pixel is nearest to, by k-means."""
    pixels = image.flatten(2).transpose(1, 2)
    order = pixels.sum(dim=2).argsort(dim=1)
    first = order[:, torch.linspace(0, pixels.shape[1] - 1, COLOURS, device=image.device).long()]
    colours = pixels.gather(1, first[..., None].expand(-1, -1, 3))
    for _ in range(6):
        nearest = functional.one_hot(torch.cdist(pixels, colours).argmin(dim=2), COLOURS).to(image.dtype)
        count = nearest.sum(dim=1)[..., None]
        colours = torch.where(count > 0, nearest.transpose(1, 2) @ pixels / count.clamp(min=1), colours)
    return nearest
