"""Random plausible poses of the bundled hand."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import torch
from torch import Tensor

from texalign._internal import computes_constants, expect
from texalign.hand.hand_model import HandModel
from texalign.hand.joints import FINGERS
from texalign.hand.key_poses import FINGER_OF_COLUMN, KEY_POSES, anatomical_angles, perturbed
from texalign.hand.rotations import rotation_vectors, turned_leaned_rolled

# Turns the rest pose so that fingers (-x) point up (-y), the palm (-y) to the camera (-z), the thumb (+z) right (+x).
FINGERS_UP = ((0.0, 0.0, 1.0), (1.0, 0.0, 0.0), (0.0, 1.0, 0.0))
POSE_KINDS = (*KEY_POSES, "gesture")


def sample_pose(count: int, generator: torch.Generator | None = None, kind: str | None = None) -> Tensor:
    """Draw plausible hands, inside ``HandModel.angle_limits``.

    Half of them are one of ``POSE_KINDS`` other than "gesture", half lie between two of these; all are perturbed,
    neighbouring fingers alike. In a "gesture" every finger is drawn independently: any of them may be straight while
    others are curled.

    The global orientation is meant for a camera with OpenCV axes: the hand is turned uniformly about its fingers, so
    palm, back and the two sides are seen equally often; three in four are turned about 30 degrees (one standard
    deviation) from fingers up, the others anyhow in the image; fingers lean towards or away from the camera by 25.

    Args:
        count: number of poses.
        generator: source of randomness; the same seed gives the same poses. None uses torch's global one.
        kind: one of ``POSE_KINDS`` for poses near that one only; None for all but gestures.

    Returns:
        Axis-angle (count, 16, 3) float32 in radians, on the generator's device (CPU without one).

    Raises:
        ValueError: ``count`` is negative or ``kind`` is unknown.

    Example:
        >>> sample_pose(4, torch.Generator().manual_seed(0), kind="fist").shape
        torch.Size([4, 16, 3])
    """
    expect(count >= 0, "sample_pose", "count of 0 or more", count)
    expect(kind is None or kind in POSE_KINDS, "sample_pose", f"kind out of {', '.join(POSE_KINDS)}", kind)
    device = generator.device if generator is not None else torch.device("cpu")

    def uniform(*shape: int) -> Tensor:
        return torch.rand(count, *shape, generator=generator, device=device, dtype=torch.float32)

    def normal(*shape: int) -> Tensor:
        return torch.randn(count, *shape, generator=generator, device=device, dtype=torch.float32).clamp(-2.5, 2.5)

    model = _model(device)
    keys = torch.tensor([[*sum(rows, ())] for rows in KEY_POSES.values()], dtype=torch.float32, device=device)
    fingers = len(FINGERS) if kind == "gesture" else 1
    chosen = (uniform(2, fingers) * len(keys)).long().clamp(max=len(keys) - 1).expand(-1, -1, len(FINGERS))
    if kind is not None and kind != "gesture":
        chosen = torch.full_like(chosen, POSE_KINDS.index(kind))
    first, second = keys[chosen[:, :, FINGER_OF_COLUMN], torch.arange(keys.shape[1], device=device)].unbind(1)
    between = uniform(1) * (uniform(1) < 0.5)
    rows = torch.lerp(first, second, between)
    angles = anatomical_angles(perturbed(rows, normal))
    angles[:, 2:12:3, 0] += 2.5 * normal(4)  # the last joints of the fingers
    low, high = model.angle_limits.unbind(-1)
    turns = model.pose_from_angles(torch.deg2rad(angles).clamp(low, high), angles.new_zeros(count, 3))
    turns[:, 0] = _view(uniform, normal)
    return rotation_vectors(turns)


@lru_cache(maxsize=4)
@computes_constants
def _model(device: torch.device) -> HandModel:
    return HandModel().to(device)


def _view(uniform: Callable[..., Tensor], normal: Callable[..., Tensor]) -> Tensor:
    """Global orientations (B, 3, 3) for a camera with OpenCV axes; see ``sample_pose``."""
    around, tilt = uniform() * (2 * torch.pi), 0.44 * normal()
    roll = torch.where(uniform() < 0.75, 0.5 * normal(), (2 * uniform() - 1) * torch.pi)
    with torch.autocast(around.device.type, enabled=False):
        return turned_leaned_rolled(around, tilt, roll) @ around.new_tensor(FINGERS_UP)


def relaxed_pose() -> Tensor:
    """(15, 3) axis-angle of the relaxed hand.

    Example:
        >>> pose = torch.cat([torch.zeros(1, 3), relaxed_pose()])
        >>> hand = HandModel()(pose[None])
    """
    row = torch.tensor([[*sum(KEY_POSES["relaxed"], ())]], dtype=torch.float32)
    angles = torch.deg2rad(anatomical_angles(row))
    return rotation_vectors(_model(torch.device("cpu")).pose_from_angles(angles, angles.new_zeros(1, 3)))[0, 1:]
