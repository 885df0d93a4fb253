"""What the loss is compared with: one colour in the prior's place, and the readings of the idea that do not work."""

from __future__ import annotations

import torch
from torch import Tensor, nn

import texalign as ta


def mean_of(observations: ta.UVObservations) -> Tensor:
    """(B, 1, 3)."""
    weight = observations.valid[..., None]
    return (observations.rgb * weight).sum(dim=1, keepdim=True) / weight.sum(dim=1, keepdim=True).clamp(min=1)


class MeanColour(nn.Module):
    """In the prior's place: one colour, the mean of what is seen."""

    def forward(self, observations: ta.UVObservations) -> Tensor:
        """(B, 3, 8, 8)."""
        return mean_of(observations)[:, 0, :, None, None].expand(-1, -1, 8, 8)


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

    def forward(self, vertices: Tensor, camera: ta.PinholeCamera, image: Tensor, generator: torch.Generator) -> Tensor:
        """(B,)."""
        if self.copied:
            texture, _ = self.renderer.unwrap(vertices, camera, image)
        else:
            with torch.no_grad():
                texture = self.encoder(self.renderer.observe(vertices, camera, image, None, 512, generator))
        rendering = self.renderer(vertices, camera, texture)
        if self.composited:
            return (rendering.image - rendering.coverage * image).abs().mean(dim=(1, 2, 3))
        covered = (rendering.face_index >= 0)[:, None].to(image.dtype)
        difference = (rendering.image - image).abs().mean(dim=1, keepdim=True)
        return (difference * covered).sum(dim=(1, 2, 3)) / covered.sum(dim=(1, 2, 3)).clamp(min=1)
