from __future__ import annotations

import torch
from torch import Tensor

from texalign._internal import expect_floating, expect_shape
from texalign.camera import PinholeCamera


@torch.no_grad()
def translation_from_joints(
    joints: Tensor, joints_image: Tensor, camera: PinholeCamera, confidence: Tensor | None = None
) -> Tensor:
    """Where a hand stands, from its joints in space and in the image: for networks that predict no camera (HandOccNet).

    Least squares in three unknowns, in closed form: joint (X, Y, Z) seen at pixel (u, v) asks that
    fx (X + tx) = (u − cx) (Z + tz) and fy (Y + ty) = (v − cy) (Z + tz), linear in t.

    No gradient passes, on purpose: were the place differentiable, the loss could be lowered by moving the joints in the
    image instead of the mesh. The result is as good as the focal length: a wrong one gives a wrong distance, and leaves
    what the image shows almost as it is.

    Args:
        joints: (B, N, 3) float, metres, relative to anything.
        joints_image: (B, N, 2) float, pixels of the crop.
        camera: B cameras, of the crop.
        confidence: (B, N) weights ≥ 0, or bool; 0 leaves a joint out, whatever its numbers are. None weighs all alike.

    Returns:
        (B, 3) float32, metres, to be added to joints and vertices. Where less than two joints count or all lie on one
        line of sight it is not determined, and comes out as the smallest t that fits. Joints with a non-finite number
        are left out; a sample without a usable joint comes out as 0, which puts the hand at the camera, where the loss
        skips it.

    Raises:
        ValueError: another shape or dtype.

    Example:
        >>> camera = PinholeCamera(torch.full((1, 2), 600.0), torch.full((1, 2), 128.0))
        >>> joints = torch.rand(1, 21, 3)
        >>> joints_image = camera.project(joints + torch.tensor([0.1, 0.2, 2.0]))
        >>> translation_from_joints(joints, joints_image, camera)
        tensor([[0.1000, 0.2000, 2.0000]])
    """
    who = "translation_from_joints"
    expect_floating(joints, who, "joints", (camera.batch_size, "N", 3))
    batch, count = joints.shape[:2]
    expect_floating(joints_image, who, "joints_image", (batch, count, 2))
    if confidence is not None:
        expect_shape(confidence, who, "confidence", (batch, count))
    # In float64: depths of metres from differences of pixels.
    points, focal = joints.double(), camera.focal.double()[:, None]
    seen = joints_image.double() - camera.principal.double()[:, None]
    ray = seen / focal
    one, zero = torch.ones_like(ray[..., 0]), torch.zeros_like(ray[..., 0])
    across = torch.stack([one, zero, -ray[..., 0]], dim=-1)
    down = torch.stack([zero, one, -ray[..., 1]], dim=-1)
    rows = torch.stack([across, down], dim=2)
    target = ray * points[..., 2:] - points[..., :2]
    usable = torch.isfinite(rows).flatten(2).all(dim=2) & torch.isfinite(target).all(dim=2)
    if confidence is not None:
        weight = confidence.double()
        usable = usable & torch.isfinite(weight) & (weight > 0)
        rows, target = rows * weight[..., None, None], target * weight[..., None]
    rows = torch.where(usable[..., None, None], rows, 0).flatten(1, 2)
    target = torch.where(usable[..., None], target, 0).flatten(1, 2)
    return (torch.linalg.pinv(rows) @ target[..., None])[..., 0].float()
