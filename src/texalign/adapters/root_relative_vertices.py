from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from texalign._internal import expect, expect_floating, expect_tensor
from texalign.adapters.inputs import side_of, unnormalised
from texalign.camera import PinholeCamera
from texalign.loss import LossInputs


def root_relative(
    vertices: Tensor,
    root: Tensor,
    calib: Tensor,
    image: Tensor,
    mask: Tensor | None = None,
    valid: Tensor | None = None,
    *,
    scale: float = 0.2,
    mean: Sequence[float] = (0.5, 0.5, 0.5),
    std: Sequence[float] = (0.5, 0.5, 0.5),
    pixel_offset: float = 0.5,
) -> LossInputs:
    """From networks that output a scaled mesh about a root whose place and camera are known: MobRecon.

    The vertices in the camera's frame are vertices · scale + root; the camera is the batch's `calib`, which the loader
    moved with the crop. MobRecon is trained on pairs of two crops of one image, stacked along the channels (the
    released configuration); each pair becomes two samples here, all the first crops before all the second.

    Args:
        vertices: (B, V, 3) float, in units of `scale`, or (B, V, 6) for pairs.
        root: (B, 3) float, metres, or (B, 6). MobRecon predicts none: it is the batch's, the true one.
        calib: (B, 4, 4) or (B, 3, 3) float, intrinsics in pixels of the crop, or (B, 8, 4) for pairs, one above the
            other.
        image: (B, 3, S, S) float, as the network takes it, or (B, 6, S, S).
        mask: (B, S, S), (B, 1, S, S) or for pairs (B, 2, S, S), 1 = hand, of any dtype, or None.
        valid: (B, 1, S, S), or (B, 2, S, S) for pairs, in [0, 1], 0 = padding, or None.
        scale: metres a unit of `vertices`.
        mean: by channel; MobRecon's images are (x − 0.5) / 0.5.
        std: as mean.
        pixel_offset: pixels added to the principal point. 0.5 by default: MobRecon warps image and intrinsics by one
            affine map that takes whole numbers for pixel centres, and so does FreiHAND's calibration.

    Returns:
        `LossInputs` of B samples, or of 2 B for pairs; float32, differentiable in `vertices` and `root`.

    Raises:
        ValueError: another shape or dtype, or pairs in some arguments and not in others.

    Example:
        >>> calib = torch.tensor([[[400.0, 0.0, 64.0], [0.0, 400.0, 64.0], [0.0, 0.0, 1.0]]])
        >>> vertices, root = torch.zeros(1, 778, 3), torch.tensor([[0.0, 0.0, 0.5]])
        >>> inputs = root_relative(vertices, root, calib, image=torch.zeros(1, 3, 128, 128))
        >>> inputs.vertices[0, 0], inputs.camera.principal
        (tensor([0.0000, 0.0000, 0.5000]), tensor([[64.5000, 64.5000]]))
    """
    who = "root_relative"
    vertices = expect_tensor(vertices, who, "vertices")
    views = vertices.shape[-1] // 3 if vertices.dim() == 3 else 1
    expect(views in (1, 2), who, "vertices (B, V, 3) or (B, V, 6)", tuple(vertices.shape))
    expect_floating(vertices, who, "vertices", ("B", "V", 3 * views))
    batch = len(vertices)
    expect_floating(root, who, "root", (batch, 3 * views))
    side = side_of(image, who, count=batch, channels=3 * views)
    expect_floating(calib, who, "calib", (batch, "rows", "columns"))
    rows = calib.shape[2]
    fits = rows in (3, 4) and calib.shape[1] == views * rows
    expect(fits, who, f"calib ({batch}, {4 * views}, 4) or ({batch}, {3 * views}, 3)", tuple(calib.shape))
    vertices = torch.cat(vertices.float().split(3, dim=2))
    root = torch.cat(root.float().split(3, dim=1))
    intrinsics = torch.cat(calib.float().split(rows, dim=1))[:, :3, :3]
    return LossInputs(
        vertices * scale + root[:, None],
        PinholeCamera.from_intrinsics(intrinsics, pixel_offset),
        unnormalised(torch.cat(image.split(3, dim=1)), mean, std),
        _views(mask, "mask", (batch, views, side), who),
        _views(valid, "valid", (batch, views, side), who),
    )


def _views(values: Tensor | None, name: str, shape: tuple[int, int, int], who: str) -> Tensor | None:
    """(B, views, S, S), or (B, S, S) for one view → (views · B, 1, S, S) float32."""
    if values is None:
        return None
    batch, views, side = shape
    values = expect_tensor(values, who, name)
    stacked = values[:, None] if values.dim() == 3 and views == 1 else values
    wanted = (batch, views, side, side)
    expect(tuple(stacked.shape) == wanted, who, f"{name} {wanted}", tuple(values.shape))
    return torch.cat(stacked.float().split(1, dim=1))
