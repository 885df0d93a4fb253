from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from texalign._internal import expect, expect_floating

# Below this scale a hand would be tens of kilometres away: no camera, but the network's way of having lost the hand.
SMALLEST_SCALE = 1e-3
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


def unnormalised(image: Tensor, mean: Sequence[float] = IMAGENET_MEAN, std: Sequence[float] = IMAGENET_STD) -> Tensor:
    """A network's input image back as RGB in [0, 1]: image · std + mean, clamped, detached, float32.

    Args:
        image: (B, 3, H, W) float, as the network takes it: (RGB − mean) / std.
        mean: by channel, of RGB in [0, 1]; the default is ImageNet's, (0.5, 0.5, 0.5) is that of (x − 0.5) / 0.5.
        std: by channel, as mean.

    Raises:
        ValueError: another shape or dtype, or not three values in mean and std.

    Example:
        >>> unnormalised(torch.zeros(1, 3, 1, 1)).flatten()
        tensor([0.4850, 0.4560, 0.4060])
    """
    expect_floating(image, "unnormalised", "image", ("B", 3, "H", "W"))
    expect(len(mean) == 3 and len(std) == 3, "unnormalised", "three values in mean and std", (mean, std))
    image = image.detach().float()
    scale, shift = (constants(image, values)[:, None, None] for values in (std, mean))
    return (image * scale + shift).clamp(0, 1)


def side_of(image: Tensor, who: str, name: str = "image", count: int | str = "B", channels: int = 3) -> int:
    """S, the side of square images (count, channels, S, S)."""
    expect_floating(image, who, name, (count, channels, "S", "S"))
    square = image.shape[2] == image.shape[3]
    expect(square, who, f"square {name} ({count}, {channels}, S, S)", tuple(image.shape))
    return image.shape[3]


def usable_cam(cam: Tensor) -> Tensor:
    """A network's (s, tx, ty) (B, 3) in float32, with those that are no camera (s ≤ 0, NaN) put behind it.

    The loss skips such a sample; its gradient is zero, where that of 1 / s might be infinite or NaN.
    """
    cam = cam.float()
    usable = torch.isfinite(cam).all(dim=1) & (cam[:, 0] > SMALLEST_SCALE)
    # Not by multiplication: a NaN times 0 is a NaN. Scale −1 lies behind the camera.
    return torch.where(usable[:, None], cam, constants(cam, (-1.0, 0.0, 0.0)))


def constants(like: Tensor, values: Sequence[float]) -> Tensor:
    """Numbers (N,) in the dtype and on the device of a tensor, written there: the host waits for what it copies."""
    return torch.cat([like.new_full((1,), value) for value in values])
