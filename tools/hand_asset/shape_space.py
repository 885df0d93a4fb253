"""Ten shape directions with names, and a joint regressor, for the bundled hand.

The model stays linear as MANO's is: ``shaped = vertices + shape_directions @ betas`` and
``joints = joint_regressor @ shaped``. The directions come in the order of ``texalign.hand.SHAPE_NAMES``; docs/hand.md
shows them, and ``UNIT`` below says how much one unit is.

It adds or refreshes the two arrays in a hand file:

    python tools/hand_asset/shape_space.py src/texalign/assets/hand.npz
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import nnls

Array = NDArray[np.float64]

# What one unit of each parameter changes. Roughly one standard deviation over adults (hand length 5 %, breadths 4-6 %);
# the lengths of single fingers are what is left of their spread once size and overall finger length are known.
UNIT = {
    "size": 0.05,
    "finger_length": 0.04,
    "thumb_length": 0.003,
    "index_length": 0.003,
    "middle_length": 0.003,
    "ring_length": 0.003,
    "little_length": 0.003,
    "finger_thickness": 0.06,
    "palm_width": 0.04,
    "palm_thickness": 0.06,
}
# Joint ids along each finger, and the vertex at its tip (smplx's ids).
FINGERS = {
    "thumb": ((13, 14, 15), 744),
    "index": ((1, 2, 3), 320),
    "middle": ((4, 5, 6), 443),
    "ring": ((10, 11, 12), 554),
    "little": ((7, 8, 9), 671),
}


def unit(vector: Array) -> Array:
    """Vectors (..., 3) scaled to length one."""
    return vector / np.linalg.norm(vector, axis=-1, keepdims=True)


def smooth_step(value: Array) -> Array:
    """0 below 0, 1 above 1, and a cubic with level ends between."""
    value = np.clip(value, 0.0, 1.0)
    return value * value * (3.0 - 2.0 * value)


def smooth_positive(value: Array, width: float) -> Array:
    """max(value, 0) with its corner rounded over ``width`` on either side."""
    inside = (value + width) ** 2 / (4.0 * width)
    return np.where(value <= -width, 0.0, np.where(value >= width, value, inside))


def palm_axes(joints: Array) -> tuple[Array, Array]:
    """Unit vectors across the palm (little finger to thumb side) and out of the palm."""
    index, middle, little = joints[1], joints[4], joints[7]
    outwards = unit(np.cross(index - joints[0], little - joints[0]))  # the palm's own normal, for a right hand
    along = unit(middle - joints[0])
    across = unit(np.cross(along, outwards))
    return across, unit(np.cross(across, along))


class Directions:
    """Displacements of vertices (778, 3) and of joints (16, 3), for one unit of each parameter."""

    def __init__(self, vertices: Array, weights: Array, joints: Array) -> None:
        self.vertices, self.weights, self.joints = vertices, weights, joints
        self.across, self.outwards = palm_axes(joints)

    def bone_axes(self, chain: tuple[int, ...], tip: int) -> Array:
        """Unit direction (3, 3) of each bone of a finger; the last one points at the tip vertex."""
        ends = np.vstack([self.joints[list(chain)], self.vertices[tip]])
        return unit(np.diff(ends, axis=0))

    def size(self) -> tuple[Array, Array]:
        """Everything grows about the wrist."""
        return UNIT["size"] * self.vertices, UNIT["size"] * self.joints

    def length(self, finger: str, stretch: float | None = None) -> tuple[Array, Array]:
        """Every bone of a finger is stretched along itself; ``stretch`` None means the millimetres in ``UNIT``."""
        chain, tip = FINGERS[finger]
        base = self.joints[chain[0]]
        if stretch is None:
            stretch = UNIT[f"{finger}_length"] / float(np.linalg.norm(self.vertices[tip] - base))
        moved, moved_joints = np.zeros_like(self.vertices), np.zeros_like(self.joints)
        for joint, axis in zip(chain, self.bone_axes(chain, tip)):
            along = (self.vertices - self.joints[joint]) @ axis
            if joint == chain[0]:  # flesh of the palm behind the knuckle stays
                along = smooth_positive(along, 0.008)
            offset = self.joints[joint] - base + along[:, None] * axis
            moved += stretch * self.weights[:, [joint]] * offset
            moved_joints[joint] = stretch * (self.joints[joint] - base)
        return moved, moved_joints

    def finger_length(self) -> tuple[Array, Array]:
        """All five fingers, by the same fraction."""
        parts = [self.length(finger, UNIT["finger_length"]) for finger in FINGERS]
        return sum(part[0] for part in parts), sum(part[1] for part in parts)  # type: ignore[return-value]

    def finger_thickness(self) -> tuple[Array, Array]:
        """Skin moves away from the bones of all five fingers, fading out towards the knuckles of the palm."""
        moved = np.zeros_like(self.vertices)
        for chain, tip in FINGERS.values():
            lengths = np.linalg.norm(np.diff(self.joints[list(chain)], axis=0), axis=1)
            for joint, axis in zip(chain, self.bone_axes(chain, tip)):
                offset = self.vertices - self.joints[joint]
                along = offset @ axis
                radial = offset - along[:, None] * axis
                fade = smooth_step(along / (0.7 * lengths[0])) if joint == chain[0] else np.ones_like(along)
                moved += UNIT["finger_thickness"] * (self.weights[:, joint] * fade)[:, None] * radial
        return moved, np.zeros_like(self.joints)

    def palm(self, name: str, axis: Array) -> tuple[Array, Array]:
        """The palm grows along an axis through the wrist; fingers ride along unchanged on their first joints."""
        base = np.zeros(len(self.joints), dtype=int)
        for chain, _ in FINGERS.values():
            base[list(chain)] = chain[0]
        joint_offset = UNIT[name] * (self.joints[base] @ axis)
        skin_offset = UNIT[name] * (self.vertices @ axis)
        moved = self.weights[:, 0] * skin_offset + self.weights[:, 1:] @ joint_offset[1:]
        return moved[:, None] * axis, joint_offset[:, None] * axis

    def all(self) -> tuple[Array, Array]:
        """Displacements (778, 3, 10) and (16, 3, 10), in the order of ``UNIT``."""
        parts = [self.size(), self.finger_length()]
        parts += [self.length(finger) for finger in FINGERS]
        parts += [self.finger_thickness()]
        parts += [self.palm("palm_width", self.across), self.palm("palm_thickness", self.outwards)]
        return np.stack([part[0] for part in parts], -1), np.stack([part[1] for part in parts], -1)


def regress_joint(points: Array, target: Array, moved: Array, moved_target: Array) -> Array:
    """Nonnegative weights (N,) that sum to one and put ``points`` (N, 3) exactly at ``target``.

    ``moved`` (N, 3, 10) should land on ``moved_target`` (3, 10) as well as it can. Lawson-Hanson NNLS; the exact part
    weighs 1e4 times more, and is then met to rounding by a tiny correction of the weights in use.
    """
    exact = np.vstack([points.T / 0.1, np.ones(len(points))])
    exact_target = np.append(target / 0.1, 1.0)
    wished = moved.transpose(1, 2, 0).reshape(-1, len(points)) / 0.003
    spread = 1e-3 * np.linalg.norm(points - target, axis=1)[None]  # prefers near vertices among equals
    system = np.vstack([1e4 * exact, wished, spread / 0.1])
    weights, _ = nnls(system, np.concatenate([1e4 * exact_target, moved_target.reshape(-1) / 0.003, [0.0]]))
    used = weights > 1e-6
    weights = np.where(used, weights, 0.0)
    # Correction in proportion to the weights themselves: nothing changes sign.
    scaled = exact[:, used] * weights[used]
    weights[used] *= 1.0 + np.linalg.lstsq(scaled, exact_target - exact @ weights, rcond=None)[0]
    return weights


def shape_space(
    vertices: NDArray[np.floating],
    faces: NDArray[np.integer],
    weights: NDArray[np.floating],
    joints: NDArray[np.floating],
) -> dict[str, NDArray[np.float32]]:
    """Shape directions and joint regressor of a hand in MANO-like axes with its wrist joint at the origin.

    Args:
        vertices: (778, 3) metres, fingers towards -x, palm towards -y.
        faces: (1538, 3); only their number of vertices is checked.
        weights: (778, 16) skin weights, rows summing to one.
        joints: (16, 3) metres, MANO's order.

    Returns:
        ``shape_directions`` (778, 3, 10) float32, metres per unit, and ``joint_regressor`` (16, 778) float32:
        nonnegative rows that sum to one, sparse, local, with ``joint_regressor @ vertices == joints``.

    Raises:
        ValueError: the arrays do not belong together.
    """
    vertices, weights, joints = (np.asarray(array, dtype=np.float64) for array in (vertices, weights, joints))
    if int(faces.max()) + 1 != len(vertices) or weights.shape != (len(vertices), len(joints)):
        raise ValueError(
            f"shape_space: vertices {vertices.shape}, weights {weights.shape}, faces up to {faces.max()} do not fit"
        )
    moved, moved_joints = Directions(vertices, weights, joints).all()
    regressor = np.zeros((len(joints), len(vertices)))
    for joint, target in enumerate(joints):
        distance = np.linalg.norm(vertices - target, axis=1)
        near = np.flatnonzero(distance < np.sort(distance)[80])
        regressor[joint, near] = regress_joint(vertices[near], target, moved[near], moved_joints[joint])
    return {"shape_directions": moved.astype(np.float32), "joint_regressor": regressor.astype(np.float32)}


def report(hand: dict[str, NDArray[np.float32]]) -> str:
    """How far the regressed joints are from where they belong, at rest and for one unit of each parameter."""
    vertices, weights, joints = (hand[key].astype(np.float64) for key in ("vertices", "weights", "joints"))
    moved_joints = Directions(vertices, weights, joints).all()[1]
    regressor, directions = hand["joint_regressor"].astype(np.float64), hand["shape_directions"]
    lines = [
        f"rest: {np.abs(regressor @ vertices - joints).max() * 1e6:.3f} um, rows sum to 1 within "
        f"{np.abs(regressor.sum(1) - 1).max():.1e}, vertices per row {(regressor > 1e-6).sum(1)}"
    ]
    for name, index in zip(UNIT, range(10)):
        error = np.linalg.norm(regressor @ directions[..., index] - moved_joints[..., index], axis=1) * 1e3
        lines.append(f"{name:18s} joint error per unit: worst {error.max():.3f} mm at joint {error.argmax()}")
    return "\n".join(lines)


def main() -> None:
    """Read the file named on the command line, and replace it with one that holds both arrays."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("path", type=Path, help="a hand file with vertices, faces, weights and joints")
    path: Path = parser.parse_args().path
    with np.load(path) as archive:
        hand = {key: archive[key] for key in archive.files}
    hand.update(shape_space(hand["vertices"], hand["faces"], hand["weights"], hand["joints"]))
    temporary = path.with_name(f".{path.stem}.{os.getpid()}.npz")
    try:
        np.savez_compressed(temporary, **hand)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    print(report(hand))


if __name__ == "__main__":
    main()
