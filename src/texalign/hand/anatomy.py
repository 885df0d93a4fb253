"""Axes and limits of the bundled hand's joints."""

from __future__ import annotations

import numpy as np

from texalign.hand.joints import TIP_VERTICES

# Degrees, lowest and highest flexion, abduction, twist: index, middle, little and ring finger, thumb, from base to end.
ANGLE_LIMITS = (
    ((-20, 90), (-15, 25), (-8, 8)), ((-3, 110), (-3, 3), (-3, 3)), ((-5, 80), (-3, 3), (-3, 3)),
    ((-20, 90), (-15, 15), (-8, 8)), ((-3, 110), (-3, 3), (-3, 3)), ((-5, 80), (-3, 3), (-3, 3)),
    ((-20, 90), (-30, 20), (-8, 8)), ((-3, 110), (-3, 3), (-3, 3)), ((-5, 80), (-3, 3), (-3, 3)),
    ((-20, 90), (-20, 15), (-8, 8)), ((-3, 110), (-3, 3), (-3, 3)), ((-5, 80), (-3, 3), (-3, 3)),
    ((-20, 50), (-25, 45), (-45, 15)), ((-10, 60), (-8, 8), (-8, 8)), ((-15, 80), (-3, 3), (-3, 3)),
)  # fmt: skip


def joint_axes(arrays: dict[str, np.ndarray]) -> np.ndarray:
    """(15, 3, 3): unit flexion, abduction and twist axes of the joints after the wrist, as rows, right-handed.

    Twist follows the bone. Flexion is at right angles to it and to the way the finger's pad faces at rest (the skin of
    its palm side against that of its back), so the thumb gets an axis of its own. Abduction completes the frame.
    """
    vertices, joints = arrays["vertices"].astype(np.float64), arrays["joints"].astype(np.float64)
    corners = vertices[arrays["faces"]]
    normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    normals *= np.where(_palm_faces(arrays["faces"], arrays["uv_faces"]), 1.0, -1.0)[:, None]
    face_weights = arrays["weights"][arrays["faces"]].mean(axis=1)
    axes = np.zeros((15, 3, 3))
    for base, tip in zip((13, 1, 4, 10, 7), TIP_VERTICES):
        pad = face_weights[:, base : base + 3].sum(axis=1) @ normals
        ends = np.vstack([joints[base : base + 3], vertices[tip]])
        for offset, bone in enumerate(np.diff(ends, axis=0)):
            twist = bone / np.linalg.norm(bone)
            flexion = np.cross(twist, pad)
            flexion /= np.linalg.norm(flexion)
            axes[base + offset - 1] = flexion, np.cross(twist, flexion), twist
    return axes


def _palm_faces(faces: np.ndarray, uv_faces: np.ndarray) -> np.ndarray:
    """(F,) bool: faces in the chart of the palm. The other chart holds the index fingertip's nail side, vertex 317."""
    labels = np.arange(uv_faces.max() + 1)
    while True:  # every uv takes the lowest number in its chart
        spread = labels.copy()
        np.minimum.at(spread, uv_faces, labels[uv_faces].min(axis=1, keepdims=True))
        if (spread == labels).all():
            break
        labels = spread
    charts = labels[uv_faces[:, 0]]
    return charts != charts[(faces == 317).any(axis=1).argmax()]
