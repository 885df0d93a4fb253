"""How well images agree with a mesh and a camera."""

from __future__ import annotations

import warnings

import torch
from torch import Tensor, nn
from torch.nn import functional

from texalign.camera import PinholeCamera
from texalign.loss import DenseTextureAlignmentLoss, LossInputs
from texalign.prior import UVTextureEncoder
from texalign.render import TexturedHandRenderer, UVObservations
from texalign.surface import HandSurface

# Gross mistakes are seen at this size as well as at the image's own, in a fraction of the time.
SIDE = 96
TOKENS = 256


class Agreement(nn.Module):
    """The loss per sample, with the bundled prior where it fits the atlas, with the mean colour where it does not."""

    def __init__(self, surface: HandSurface, image: Tensor, mask: Tensor | None, valid: Tensor | None) -> None:
        super().__init__()
        height, width = image.shape[2:]
        shrink = SIDE / max(height, width)
        self.size = (max(16, round(height * shrink)), max(16, round(width * shrink)))
        self.scale = image.new_tensor([self.size[1] / width, self.size[0] / height])
        renderer = TexturedHandRenderer(surface, self.size)
        try:
            prior: nn.Module = UVTextureEncoder.from_pretrained(surface=surface).to(image.device)
        except (ValueError, FileNotFoundError):  # another atlas
            prior = MeanColour()
        self.loss = DenseTextureAlignmentLoss(renderer, prior, token_count=TOKENS, reduction="none")
        self.image, self.mask = self._resized(image), None if mask is None else self._resized(mask)
        self.valid = None if valid is None else self._resized(valid)

    def forward(self, vertices: Tensor, camera: PinholeCamera, index: Tensor) -> tuple[Tensor, Tensor]:
        """The loss (N,) of samples `index` (N,), 0 where one was skipped, and coverage (N, 1, h, w).

        A mesh that is inside out is drawn in a mirror, image and camera with it: what is seen stays the same.
        """
        camera = camera.cropped(torch.zeros_like(self.scale), self.scale)
        image, mask = self.image[index], None if self.mask is None else self.mask[index]
        right_side_out = ~self.inside_out(vertices)
        valid = None if self.valid is None else self.valid[index]
        inputs = LossInputs(vertices, camera, image, mask, valid).mirrored(~right_side_out)
        generator = torch.Generator(vertices.device).manual_seed(0)
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # what it says of a first batch, `check` says itself
            value, details = self.loss(*inputs, generator=generator, return_details=True)
        # A fingertip at the image's edge fits almost anything: weigh by the share of the hand inside the image.
        pixels = inputs.camera.project(inputs.vertices)
        within = ((pixels >= 0) & (pixels <= pixels.new_tensor(self.size[::-1]))).all(dim=2).float().mean(dim=1)
        value = torch.where(value < 0, value * within, value)
        coverage = details.coverage
        return value, torch.where(right_side_out[:, None, None, None], coverage, coverage.flip(-1))

    def inside_out(self, vertices: Tensor) -> Tensor:
        """(B,) bool: the mesh encloses a negative volume."""
        wrist, faces = self.loss.wrist, self.loss.renderer.surface.faces
        # Seen from the middle of the wrist's opening, a lid over it encloses none.
        middle = vertices[:, wrist] if len(wrist) else vertices
        first, second, third = (vertices - middle.mean(dim=1, keepdim=True))[:, faces].unbind(dim=2)
        return (first * torch.linalg.cross(second, third)).sum(dim=(1, 2)) < 0

    def _resized(self, values: Tensor) -> Tensor:
        return functional.interpolate(values, size=self.size, mode="bilinear", antialias=True)


class MeanColour(nn.Module):
    """Stands in for a texture prior on an atlas that has none: the mean colour of what is seen.

    Example:
        >>> renderer = TexturedHandRenderer(HandSurface.mano(), image_size=64)
        >>> loss_fn = DenseTextureAlignmentLoss(renderer, MeanColour())
    """

    def forward(self, observations: UVObservations) -> Tensor:
        """(B, 3, 8, 8)."""
        return observations.mean_colour()[:, :, None, None].expand(-1, -1, 8, 8)
