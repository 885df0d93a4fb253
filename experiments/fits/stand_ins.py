"""What the loss is compared with: one colour in the prior's place, and the readings of the idea that do not work."""

from __future__ import annotations

import torch
from torch import Tensor, nn

import texalign as ta
from texalign.adapters import MeanColour as MeanColour
from texalign.loss import beyond_wrist


def mask_difference(coverage: Tensor, mask: Tensor, counted: Tensor) -> Tensor:
    """(B,) squared difference of coverage and mask over the mask's area, of the pixels that count: what a mask buys."""
    area = mask.sum(dim=(1, 2, 3)).clamp(min=16)
    return ((coverage - mask).square() * counted).sum(dim=(1, 2, 3)) / area


def short_of_wrist(surface: ta.HandSurface, vertices: Tensor, camera: ta.PinholeCamera, size: int) -> Tensor:
    """(B, 1, size, size): 0 beyond the wrist, where a mask of skin shows a forearm that the mesh has not."""
    pixels = camera.project(vertices).detach()
    wrist = torch.tensor(surface.boundary_loops[0], device=pixels.device)
    return 1 - beyond_wrist(pixels[:, wrist], pixels.mean(dim=1), size, size)


class PlainDifference(nn.Module):
    """Mean absolute difference between rendering and image.

    Args:
        renderer: draws at the images' size.
        encoder: the texture prior.
        composited: over all pixels of the hand drawn over the observed image, so that uncovered pixels cost nothing,
            with the silhouettes' gradient; else over the covered pixels, with the interior's gradient only.
        copied: the texture is not predicted but unwrapped from the image under the mesh, and follows it.
    """

    def __init__(
        self, renderer: ta.TexturedHandRenderer, encoder: nn.Module, composited: bool = False, copied: bool = False
    ) -> None:
        super().__init__()
        self.renderer, self.encoder, self.composited, self.copied = renderer, encoder, composited, copied

    def forward(
        self,
        vertices: Tensor,
        camera: ta.PinholeCamera,
        image: Tensor,
        generator: torch.Generator,
        valid: Tensor | None = None,
    ) -> Tensor:
        """(B,). Pixels outside `valid` are neither observed nor compared."""
        if self.copied:
            texture, _ = self.renderer.unwrap(vertices, camera, image)
        else:
            with torch.no_grad():
                texture = self.encoder(self.renderer.observe(vertices, camera, image, valid, 512, generator))
        rendering = self.renderer(vertices, camera, texture)
        if self.composited:
            difference = (rendering.image - rendering.coverage * image).abs()
            return (difference if valid is None else difference * valid).mean(dim=(1, 2, 3))
        covered = (rendering.face_index >= 0)[:, None].to(image.dtype) * (1 if valid is None else valid)
        difference = (rendering.image - image).abs().mean(dim=1, keepdim=True)
        return (difference * covered).sum(dim=(1, 2, 3)) / covered.sum(dim=(1, 2, 3)).clamp(min=1)
