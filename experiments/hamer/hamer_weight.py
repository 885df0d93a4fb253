"""How strongly the texture's loss pulls beside HaMeR's keypoint losses: the default weight's derivation.

    python experiments/hamer/hamer_weight.py [--output FILE.json]

Synthetic hands in batches as HaMeR's loader makes them, a prediction that is off by a share of the noise of
`texalign.hand.disturbed`, and the gradients of HaMeR's two keypoint losses, at HaMeR's own weights, and of the
texture's loss at the vertices (joints are taken as a linear function of them: the joint regressor, and the fingertips).
For comparison, the same ratio for the keypoints' pull in the fits of docs/benchmarks.md, where a weight of 2 to 8 is a
gain.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

sys.path.append(str(Path(__file__).resolve().parents[2] / "benchmarks"))
sys.path.append(str(Path(__file__).resolve().parents[2] / "examples"))
from hamer_batches import training_batch, truth
from hamer_stand_in import FOCAL, SIZE, default_config

import texalign as ta
from recording import environment, table, write_json
from texalign.adapters import hamer
from texalign.hand import (
    KEYPOINT_WEIGHT,
    HandModel,
    disturbed,
    keypoint_loss,
    parameters_of_pose,
    rotation_vectors,
)

HANDS, SEEDS = 16, (100, 101, 102, 103)
LEVELS = {"exact": 0.0, "well aligned": 0.25, "misaligned": 1.0}
FIT_SCALE = 8.0  # pixels of 256: the fits' keypoint scale at 128 is 4


def joints_of(vertices: Tensor, model: HandModel) -> Tensor:
    """(B, 21, 3), linear in the vertices (B, 778, 3)."""
    sixteen = torch.einsum("jv,bvc->bjc", model.joint_regressor, vertices)
    return torch.cat([sixteen, vertices[:, model.tip_vertices]], dim=1)[:, model.joint_order]


def hamer_keypoints(vertices: Tensor, batch: dict[str, Any], model: HandModel) -> Tensor:
    """HaMeR's 2D and 3D keypoint losses of vertices in the camera's frame, weighted and summed over the batch."""
    weights, joints = default_config().LOSS_WEIGHTS, joints_of(vertices, model)
    pixels = FOCAL / SIZE * joints[..., :2] / joints[..., 2:]
    off_2d = (pixels - batch["keypoints_2d"][..., :2]).abs().sum()
    true = batch["keypoints_3d"][..., :3]
    off_3d = ((joints - joints[:, :1]) - (true - true[:, :1])).abs().sum()
    return weights.KEYPOINTS_2D * off_2d + weights.KEYPOINTS_3D * off_3d


def fit_keypoints(vertices: Tensor, batch: dict[str, Any], model: HandModel) -> Tensor:
    """The keypoint term of `texalign.hand.keypoint_objective`, summed over the batch."""
    camera = ta.PinholeCamera(vertices.new_full((len(vertices), 2), FOCAL), vertices.new_full((len(vertices), 2), 128))
    keypoints = SIZE * (batch["keypoints_2d"][..., :2] + 0.5)
    return KEYPOINT_WEIGHT * keypoint_loss(joints_of(vertices, model), camera, keypoints, FIT_SCALE).sum()


def measure(seed: int, share: float, loss_fn: ta.DenseTextureAlignmentLoss) -> dict[str, Tensor]:
    """Per-sample norms (B,) of three gradients at the vertices, and how far these are from the truth, pixels."""
    model = HandModel()
    batch = training_batch(HANDS, seed)
    true = truth(batch)
    parts = true["pred_mano_params"]
    pose = rotation_vectors(torch.cat([parts["global_orient"], parts["hand_pose"]], dim=1))
    placed = parameters_of_pose(model, pose, true["pred_cam_t"])
    noisy = disturbed(placed, torch.Generator().manual_seed(seed))
    mixed = [torch.lerp(a, b, share) for a, b in zip(placed.tensors(), noisy.tensors())]
    angles, orientation, translation, _ = mixed
    vertices = model(model.pose_from_angles(angles, orientation), parts["betas"]).vertices
    output = {**true, "pred_vertices": vertices, "pred_cam": cam_of(translation)}
    inputs = hamer.loss_inputs(batch, output)
    leaf = inputs.vertices.detach().requires_grad_()
    each = loss_fn(leaf, *inputs[1:], generator=torch.Generator().manual_seed(0))
    totals = {
        "texture": each.sum(),
        "keypoints": hamer_keypoints(leaf, batch, model),
        "fit": fit_keypoints(leaf, batch, model),
    }
    norms = {name: torch.autograd.grad(total, leaf)[0].flatten(1).norm(dim=1) for name, total in totals.items()}
    shift = inputs.camera.project(leaf.detach())
    shift = shift - inputs.camera.project(true["pred_vertices"] + true["pred_cam_t"][:, None])
    return {**norms, "pixels": shift.norm(dim=2).mean(dim=1)}


def cam_of(translation: Tensor) -> Tensor:
    """HaMeR's (s, tx, ty) that gives a translation (B, 3)."""
    return torch.stack([2 * FOCAL / (SIZE * translation[:, 2]), translation[:, 0], translation[:, 1]], dim=1)


def main() -> None:
    """Print the table and write it down."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--output", type=Path, default=Path(__file__).parents[1] / "results" / "hamer_weight.json")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    surface, encoder = ta.HandSurface.mano(), ta.UVTextureEncoder.from_pretrained()
    loss_fn = ta.DenseTextureAlignmentLoss(ta.TexturedHandRenderer(surface, SIZE), encoder, reduction="none")
    rows: list[dict[str, Any]] = []
    for name, share in LEVELS.items():
        found = [measure(seed, share, loss_fn) for seed in SEEDS]
        norm = {key: torch.cat([part[key] for part in found]).median().item() for key in found[0]}
        fit = norm["texture"] / norm["fit"]
        rows.append(
            {
                "batch": name,
                "off by (px)": norm["pixels"],
                "|texture|": norm["texture"],
                "|keypoints|": norm["keypoints"],
                "texture : keypoints": norm["texture"] / norm["keypoints"],
                f"at weight {hamer.DEFAULT_WEIGHT:g}": hamer.DEFAULT_WEIGHT * norm["texture"] / norm["keypoints"],
                "fits, weight 2 to 8": f"{2 * fit:.2g} to {8 * fit:.2g}",
            }
        )
    print(table(rows))
    write_json(arguments.output, {"environment": environment(), "hands": HANDS * len(SEEDS), "rows": rows})


if __name__ == "__main__":
    main()
