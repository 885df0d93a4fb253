from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

# Colours are counted in cells of a sixteenth of the range each way: fine enough to tell a shirt from skin, coarse
# enough to be filled by a crop's few thousand background pixels.
BINS = 16


def background_cost(image: Tensor, outside: Tensor, uniform: float = 0.1) -> Tensor:
    """(B, 1, H, W): negative log density of each pixel's colour among the image's own background colours.

    The density is a smoothed histogram of the pixels where `outside` (B, 1, H, W) is 1, mixed with a `uniform` share,
    so that a colour never seen in the background costs −ln(uniform). Detached.
    """
    with torch.no_grad():
        batch = image.shape[0]
        colour = image.clamp(0, 1)
        cell = (colour * BINS).long().clamp(0, BINS - 1)
        index = (cell[:, 0] * BINS + cell[:, 1]) * BINS + cell[:, 2]
        weight = outside[:, 0].flatten(1)
        counts = colour.new_zeros(batch, BINS**3).scatter_add(1, index.flatten(1), weight)
        cube = counts.reshape(batch, 1, BINS, BINS, BINS)
        kernel = colour.new_full((3,), 0.25)
        kernel[1:2].fill_(0.5)  # not new_tensor: a copy to the device that the host waits for
        for shape in ((3, 1, 1), (1, 3, 1), (1, 1, 3)):
            padding = tuple(side // 2 for side in shape)
            cube = functional.conv3d(cube, kernel.reshape(1, 1, *shape), padding=padding)
        density = cube * BINS**3 / cube.sum(dim=(2, 3, 4), keepdim=True).clamp(min=1e-6)
        # grid_sample's last coordinate is the first axis of the cube.
        place = (2 * colour - 1).permute(0, 2, 3, 1).flip(-1)[:, None]
        seen = functional.grid_sample(density, place, padding_mode="border", align_corners=False)[:, :, 0]
        return -torch.log((1 - uniform) * seen + uniform)
