"""How like a photograph a rendering is, inside a mask: PSNR, SSIM and LPIPS."""

from __future__ import annotations

import importlib
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from texalign._internal import MissingExtraError, expect, expect_same_device
from texalign.loss import structural_similarity
from texalign.metrics.pairs import same_shape

LPIPS_MISSING = "texalign.metrics.LPIPS needs lpips and torchvision: pip install lpips"


def psnr_db(predicted: Tensor, true: Tensor, mask: Tensor | None = None) -> Tensor:
    """(B,) decibels: ``-10 log10`` of the mean squared difference of images in [0, 1], over the pixels of the mask.

    Infinite where they are the same, NaN where the mask is empty.

    Args:
        predicted: (B, 3, H, W) in [0, 1].
        true: (B, 3, H, W) in [0, 1].
        mask: (B, 1, H, W), counted where it is above one half. None: the whole image.

    Raises:
        ValueError: a shape or device does not fit.
    """
    predicted, true, inside = _inside("psnr_db", predicted, true, mask)
    error = (predicted - true).square().mean(dim=1, keepdim=True).sum(dim=(1, 2, 3)) / inside.sum(dim=(1, 2, 3))
    return -10 * torch.log10(error)


def ssim(predicted: Tensor, true: Tensor, mask: Tensor | None = None) -> Tensor:
    """(B,) in [-1, 1]: structural similarity (Wang et al., 2004) of images in [0, 1], over the pixels of the mask.

    As in that paper: a Gaussian window of 11 × 11 pixels and standard deviation 1.5, constants 0.01 and 0.03, the mean
    over channels and over pixels whose window lies in the frame. Without a mask it is scikit-image's
    ``structural_similarity`` with ``gaussian_weights=True, use_sample_covariance=False, data_range=1``; torchmetrics
    counts the outermost 5 pixels as well. With a mask, both images are as `true` outside it, so that only what is
    inside can differ, and the mean is over the mask. NaN where no pixel counts.

    Args:
        predicted: (B, 3, H, W) in [0, 1], at least 11 × 11.
        true: (B, 3, H, W) in [0, 1].
        mask: (B, 1, H, W), counted where it is above one half. None: the whole image.

    Raises:
        ValueError: a shape or device does not fit.
    """
    predicted, true, inside = _inside("ssim", predicted, true, mask)
    expect(min(true.shape[-2:]) >= 11, "ssim", "images of at least 11 × 11 pixels", tuple(true.shape[-2:]))
    with torch.autocast(true.device.type, enabled=False):
        similarity = structural_similarity(predicted, true, _windowed)
    inside = inside[..., 5:-5, 5:-5]
    similarity = torch.where(inside, similarity.mean(dim=1, keepdim=True), 0.0)
    return similarity.sum(dim=(1, 2, 3)) / inside.sum(dim=(1, 2, 3))


class LPIPS(nn.Module):
    """Learned perceptual distance (Zhang et al., 2018), as the package ``lpips`` computes it; smaller is more alike.

    ``LPIPS()(predicted, true, mask)`` takes what `ssim` takes and gives (B,). With a mask, both images are as `true`
    outside it. The number is then smaller the less of the image the mask covers: compare it on the same crops and masks
    only. NaN where the mask is empty.

    The package fetches the network's ImageNet weights the first time. They are part of this module's ``state_dict``.
    It stays in evaluation mode, since its network would drop features at random in training mode.

    Args:
        network: ``"alex"``, with which numbers are usually reported, ``"vgg"`` or ``"squeeze"``.

    Raises:
        MissingExtraError: lpips or torchvision is not installed.
    """

    def __init__(self, network: str = "alex") -> None:
        super().__init__()
        try:
            package: Any = importlib.import_module("lpips")
        except ImportError as error:
            raise MissingExtraError(LPIPS_MISSING) from error
        self.network = package.LPIPS(net=network, verbose=False).requires_grad_(False)
        self.train(False)

    def train(self, mode: bool = True) -> LPIPS:
        """Stay in evaluation mode."""
        return super().train(False)

    def forward(self, predicted: Tensor, true: Tensor, mask: Tensor | None = None) -> Tensor:
        """(B,) distances."""
        predicted, true, inside = _inside("LPIPS", predicted, true, mask)
        with torch.autocast(true.device.type, enabled=False):
            distance = self.network(predicted.float(), true.float(), normalize=True).flatten()
        return torch.where(inside.any(dim=3).any(dim=2).flatten(), distance, torch.nan)


def _inside(who: str, predicted: Tensor, true: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    """The prediction with `true` outside the mask, `true`, and the mask (B, 1, H, W) as bool."""
    predicted, true = same_shape(who, predicted, true, ("B", 3, "H", "W"))
    shape = (len(true), 1, *true.shape[-2:])
    if mask is None:
        inside = torch.ones(shape, dtype=torch.bool, device=true.device)
    else:
        expect(mask.shape == shape, who, f"mask {shape}", tuple(mask.shape))
        expect_same_device(who, true=true, mask=mask)
        inside = mask > 0.5
    return torch.where(inside, predicted.nan_to_num(0.0, 0.0, 0.0), true), true, inside


def _windowed(values: Tensor) -> Tensor:
    """(B, 3, H - 10, W - 10): means of (B, 3, H, W) under the Gaussian window."""
    offset = torch.arange(-5, 6, dtype=values.dtype, device=values.device)
    weight = torch.softmax(-offset.square() / (2 * 1.5**2), dim=0)
    rows = functional.conv2d(values, weight.expand(3, 1, 1, 11), groups=3)
    return functional.conv2d(rows, weight[:, None].expand(3, 1, 11, 1), groups=3)
