"""What pages and docstrings call yours: networks, batches, files. A function for each, by the page's or file's name."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

import texalign as ta
from texalign import synthetic
from texalign.hand import HandModel, sample_pose

Names = dict[str, Any]


def generated(count: int, size: int, seed: int, left_share: float = 0.0) -> synthetic.SyntheticBatch:
    return synthetic.generate(count, size, torch.Generator().manual_seed(seed), left_share=left_share)


def intrinsics(batch: int) -> torch.Tensor:
    """(B, 3, 3) of photographs of 640 by 480 pixels."""
    return torch.tensor([[[600.0, 0.0, 320.0], [0.0, 600.0, 240.0], [0.0, 0.0, 1.0]]]).repeat(batch, 1, 1)


def quick_start() -> Names:
    scenes, hand = generated(4, 128, seed=2), HandModel()

    class Network(nn.Module):
        def __init__(self):
            super().__init__()
            self.pose = nn.Parameter(scenes.pose + 0.05 * torch.randn_like(scenes.pose))
            self.translation = nn.Parameter(scenes.translation + 0.003)

        def forward(self, image):
            return self.pose, self.translation

    def hand_layer(pose, translation):
        vertices, joints = hand(pose, scenes.betas)
        return vertices + translation[:, None], joints + translation[:, None]

    network = Network()
    return {
        "network": network,
        "hand_layer": hand_layer,
        "optimizer": torch.optim.AdamW(network.parameters(), lr=1e-3),
        "loader": [(scenes.image, scenes.camera, scenes.camera.project(scenes.joints), torch.ones(4, 1, 128, 128))] * 2,
    }


def hamer() -> Names:
    import pytorch_lightning
    from hamer_batches import joint_batch
    from hamer_stand_in import make_model

    batches: Any = [joint_batch(2, seed) for seed in range(2)]
    loader = torch.utils.data.DataLoader(batches, batch_size=None)
    return {"pl": pytorch_lightning, "model": make_model(), "batches": batches, "loader": loader}


def hamer_docstring() -> Names:
    from hamer_stand_in import make_model

    return {"model": make_model()}


def your_network() -> Names:
    batch = generated(8, 128, seed=1)
    mean, std = (torch.tensor(numbers)[:, None, None] for numbers in ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]))
    K = torch.eye(3).repeat(8, 1, 1)
    K[:, [0, 1], [0, 1]], K[:, :2, 2] = batch.camera.focal, batch.camera.principal
    hand = HandModel()(torch.zeros(2, 16, 3))
    weak = torch.tensor([[8.0, 0.09, 0.0]]).repeat(8, 1)
    calib = torch.tensor([[400.0, 0, 128, 0], [0, 400, 64, 0], [0, 0, 1, 0], [0, 0, 0, 1]]).repeat(2, 1, 1)
    data = {"img": torch.rand(2, 3, 128, 128), "calib": calib, "root": torch.tensor([[0.0, 0, 0.5]]).repeat(2, 1)}

    def hawor():
        batch = {
            "img": torch.rand(1, 2, 3, 256, 256),
            "center": torch.full((1, 2, 2), 300.0),
            "scale": torch.full((1, 2), 1.0),
            "img_focal": torch.full((1, 2), 600.0),
            "img_center": torch.tensor([[[320.0, 240.0]]]).repeat(1, 2, 1),
        }
        output = {"out": {"trans_full": torch.tensor([[[0.06, 0.05, 0.6]]]).repeat(2, 1, 1)}}
        return ta.DenseTextureAlignmentLoss.from_pretrained(256), batch, output, hand.vertices

    return {
        "network_input": (batch.image - mean) / std,
        "K": K,
        "pred_translation": batch.joints[:, 0].clone().requires_grad_(),
        "pred_vertices": (batch.vertices - batch.joints[:, :1]).requires_grad_(),
        "pred_verts": hand.vertices[:1].repeat(8, 1, 1),
        "mesh_coord_cam": hand.vertices,
        "manojoints2cam": hand.joints,
        "pred_camera": weak,
        "cams": weak,
        "images": torch.rand(8, 3, 128, 128),
        "vertex_order": torch.arange(778),
        "out": {"verts": hand.vertices / 0.2},
        "data": {**data, "mask": torch.ones(2, 128, 128)},
        "hawor": hawor,
        "handoccnet": lambda: (torch.rand(2, 3, 256, 256), torch.full((2, 2), 600.0), 0.5 + 2 * hand.joints[..., :2]),
    }


def lightning() -> Names:
    import lightning.pytorch as pl

    class Network(pl.LightningModule):
        def __init__(self):
            super().__init__()
            self.translation = nn.Parameter(torch.tensor([0.02, 0.0, 0.6]))
            self.hand = HandModel()
            self.loss_fn = ta.DenseTextureAlignmentLoss.from_pretrained(image_size=64)

        def training_step(self, batch, batch_idx):
            vertices = self.hand(torch.zeros(len(batch), 16, 3)).vertices + self.translation
            camera = ta.PinholeCamera(torch.full((len(batch), 2), 150.0), torch.full((len(batch), 2), 32.0))
            return self.loss_fn(vertices, camera, batch)

        def configure_optimizers(self):
            return torch.optim.Adam([self.translation], lr=1e-3)

    images: Any = torch.rand(4, 3, 64, 64)
    return {"network": Network(), "loader": torch.utils.data.DataLoader(images, batch_size=2)}


def metrics() -> Names:
    hand, place = HandModel(), torch.tensor([0.0, 0.0, 0.6])
    pose = sample_pose(4, torch.Generator().manual_seed(0))
    true, predicted = hand(pose), hand(pose + 0.1 * torch.randn_like(pose))
    camera = ta.PinholeCamera(torch.full((4, 2), 150.0), torch.full((4, 2), 32.0))
    points, true_points = (camera.project(joints + place) for joints in (predicted.joints, true.joints))
    renderer, white = ta.TexturedHandRenderer(ta.HandSurface.mano(), image_size=64), torch.ones(1, 3, 1, 1)
    mask, coverage = (renderer(mesh.vertices + place, camera, white).coverage for mesh in (true, predicted))
    return {
        "joints": predicted.joints + place,
        "true_joints": true.joints + place,
        "points": points,
        "true_points": true_points,
        "box_size": (true_points.amax(dim=1) - true_points.amin(dim=1)).amax(dim=1),
        "occluded": torch.arange(21).expand(4, 21) >= 16,
        "mask": mask,
        "coverage": coverage,
    }


def conventions() -> Names:
    hands = generated(4, 64, seed=3, left_share=0.5)
    return {
        "ta": ta,
        "K": intrinsics(1),
        "points": torch.tensor([[[0.02, -0.01, 0.5]]]),
        "batch": hands,
        "texture_loss": ta.DenseTextureAlignmentLoss.from_pretrained(image_size=64, reduction="none"),
    }


def photographs() -> Names:
    hands = generated(2, 128, seed=1)
    return {"vertices": hands.vertices, "camera": hands.camera, "image": hands.image}


def readme() -> Names:
    pose = torch.zeros(2, 16, 3, requires_grad=True)
    vertices, joints = HandModel()(pose)
    camera = torch.tensor([[6.0, 0.07, 0.0]]).repeat(2, 1).requires_grad_()
    return {
        "pred_pose": pose,
        "pred_cam": camera,
        "pred_vertices": vertices,
        "image": torch.rand(2, 3, 256, 256),
        "other_losses": 10 * joints.square().sum() + camera.square().sum(),
    }


def your_photographs() -> Names:
    import smplx

    from texalign.mano import write_mano

    scenes = generated(1, 128, seed=2)
    return {
        "layer": smplx.MANO(str(write_mano(Path("MANO_RIGHT.pkl"))), is_rhand=True, use_pca=False, flat_hand_mean=True),
        "global_orient": scenes.pose[:, 0],
        "hand_pose": scenes.pose[:, 1:].flatten(1),
        "betas": scenes.betas,
        "translation": scenes.translation + 0.003,
        "camera": scenes.camera,
        "image": scenes.image,
    }


STAND_INS: dict[str, Callable[[], Names]] = {
    "adapters/hamer/attachment.py": hamer_docstring,
    "README.md": readme,
    "conventions.md": conventions,
    "hamer.md": hamer,
    "lightning.md": lightning,
    "metrics.md": metrics,
    "photographs.md": photographs,
    "quick-start.md": quick_start,
    "your-network.md": your_network,
    "your-photographs.md": your_photographs,
}
