"""Hands, keypoints, masks and images, predicted and true; and what FreiHAND's and HO3D's own code says of the hands."""

from __future__ import annotations

import numpy as np
import torch

# RandomState, since numpy promises that its numbers never change.


def as_tensors(*arrays):
    return tuple(torch.from_numpy(array) for array in arrays)


def hands(count=8):
    """(Joints, vertices), predicted and true, metres. Noise grows from 3 to 24 mm; sample 0 is predicted mirrored."""
    random = np.random.RandomState(5)
    spread = 0.003 * np.arange(1, count + 1)[:, None, None]
    true, predicted = [], []
    for number in (21, 778):
        shape = random.normal(size=(count, number, 3)) * [0.04, 0.03, 0.015]
        turn = np.linalg.qr(np.eye(3) + 0.03 * random.normal(size=(count, 3, 3)))[0]
        turn = turn * np.sign(np.diagonal(turn, axis1=1, axis2=2))[:, None]
        other = (shape + spread * random.normal(size=shape.shape)) * random.uniform(0.9, 1.1, size=(count, 1, 1))
        other[0, :, 2] *= -1
        place = np.array([0.02, -0.01, 0.7])
        true.append(shape + place)
        predicted.append(other @ turn + place + spread * random.normal(size=(count, 1, 3)))
    return as_tensors(*predicted), as_tensors(*true)


def keypoints(count=40):
    """Joints in pixels, predicted and true, sides of their boxes, which are annotated, and which of these visible."""
    random = np.random.RandomState(6)
    true = random.uniform(0, 640, size=(count, 21, 2))
    side = random.uniform(60, 240, size=count)
    predicted = true + 0.07 * side[:, None, None] * random.normal(size=true.shape)
    annotated = random.uniform(size=(count, 21)) < 0.9
    visible = annotated & (random.uniform(size=(count, 21)) < 0.6)
    return as_tensors(predicted, true, side, annotated, visible)


def masks():
    """Discs at 48 × 64, predicted and true. In the last two pairs one mask is empty, and both."""
    random = np.random.RandomState(7)
    y, x = np.mgrid[:48, :64]
    centre = random.uniform(15, 33, size=(6, 1, 2, 1, 1))
    moved = centre + random.normal(size=centre.shape) * 3
    radius = random.uniform(6, 20, size=(6, 2, 1, 1))
    true = np.hypot(y - centre[:, :, 0], x - centre[:, :, 1]) < radius[:, :1]
    predicted = np.hypot(y - moved[:, :, 0], x - moved[:, :, 1]) < radius[:, 1:]
    true[4:], predicted[5] = False, False
    return as_tensors(predicted, true)


def images():
    """Photograph-like noise at 40 × 56, predicted and true."""
    random = np.random.RandomState(8)
    true = random.uniform(size=(3, 3, 40, 56))
    for _ in range(2):
        true = (true + np.roll(true, 1, axis=2) + np.roll(true, 1, axis=3)) / 3
    return as_tensors(np.clip(true + 0.05 * random.normal(size=true.shape), 0, 1), true)


# Means over the samples by eval.py of FreiHAND (nearest points by a k-d tree) and of HO3D, which agree in all of these.
FREIHAND = {
    "mpjpe_mm": 32.345363177177115,
    "pa_mpjpe_mm": 17.542469126178142,
    "mpvpe_mm": 31.84697936506564,
    "pa_mpvpe_mm": 18.5583474680245,
    "joint_auc": 0.3946608946608946,
    "pa_joint_auc": 0.6495310245310245,
    "vertex_auc": 0.4102942990314456,
    "pa_vertex_auc": 0.6303815792890344,
    "f_5mm": 0.255544,
    "pa_f_5mm": 0.429841,
    "f_15mm": 0.848686,
    "pa_f_15mm": 0.963129,
}
