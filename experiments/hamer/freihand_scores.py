"""The table of FreiHAND's and HO3D's evaluation."""

from __future__ import annotations

from torch import Tensor

from texalign._internal import expect
from texalign.metrics import f_score, mpjpe_mm, mpvpe_mm, pck_auc, procrustes_aligned


def freihand_scores(
    predicted_joints: Tensor, true_joints: Tensor, predicted_vertices: Tensor, true_vertices: Tensor
) -> dict[str, Tensor]:
    """Every number of FreiHAND's ``eval.py``, a value (B,) each, whose means over samples are those of ``scores.txt``.

    ``mpjpe_mm``, ``mpvpe_mm``: millimetres, where ``scores.txt`` has centimetres (``xyz_mean3d``, ``mesh_mean3d``).
    ``joint_auc``, ``vertex_auc``: `pck_auc` from 0 to 50 mm. ``f_5mm``, ``f_15mm``: `f_score`. Each again with ``pa_``
    in front: after `procrustes_aligned`, joints to joints and vertices to vertices, reflections allowed as there.

    HO3D's ``eval.py`` has the same numbers, and one more that aligns scale and translation only.

    Args:
        predicted_joints: (B, J, 3) metres, in the camera's frame; so are the others.
        true_joints: (B, J, 3).
        predicted_vertices: (B, V, 3).
        true_vertices: (B, V, 3).

    Raises:
        ValueError: a shape, dtype or device does not fit.
    """
    counts = [len(tensor) for tensor in (predicted_joints, true_joints, predicted_vertices, true_vertices)]
    expect(len(set(counts)) == 1, "freihand_scores", "as many samples of each", counts)
    scores = {}
    for prefix in ("", "pa_"):
        joints, vertices = predicted_joints, predicted_vertices
        if prefix:
            joints = procrustes_aligned(joints, true_joints, reflection=True)
            vertices = procrustes_aligned(vertices, true_vertices, reflection=True)
        scores[f"{prefix}mpjpe_mm"] = mpjpe_mm(joints, true_joints)
        scores[f"{prefix}mpvpe_mm"] = mpvpe_mm(vertices, true_vertices)
        scores[f"{prefix}joint_auc"] = pck_auc(joints, true_joints)
        scores[f"{prefix}vertex_auc"] = pck_auc(vertices, true_vertices)
        scores[f"{prefix}f_5mm"] = f_score(vertices, true_vertices, 0.005)
        scores[f"{prefix}f_15mm"] = f_score(vertices, true_vertices, 0.015)
    return scores
