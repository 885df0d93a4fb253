"""A small network with the interface of HaMeR's `HAMER`, so that a training set-up for HaMeR runs anywhere.

The same methods, output keys, shapes, dtypes, losses and manual optimisation as in
https://github.com/geopavlakos/hamer, written anew: the network is four convolutions, the hand is texalign's own, and
nothing is licensed. `hamer_batches.py` makes the batches; `tests/adapters/test_hamer_stand_in.py` holds this network
and the real one to the same contract.

    model, batch = make_model(seed=0), training_batch(4, seed=0)
    output = model.forward_step(batch, train=True)
    model.compute_loss(batch, output).backward()
"""

from __future__ import annotations

from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

# HaMeR imports `pytorch_lightning`. The classes of `lightning.pytorch` are others: a Trainer takes only its own.
import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from texalign import viz
from texalign.adapters import IMAGENET_MEAN, IMAGENET_STD, unnormalised
from texalign.hand import FINGERS_UP, HandModel, rotation_matrices

Batch = dict[str, Any]
SIZE, FOCAL = 256, 5000.0  # pixels


class Config(dict[str, Any]):
    """Settings read as attributes or as items, like the `yacs.config.CfgNode` in `model.cfg` of the real one."""

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError as error:
            raise AttributeError(name) from error

    def __setattr__(self, name: str, value: Any) -> None:
        self[name] = value


def default_config() -> Config:
    """The settings that HaMeR is trained with, as far as its model looks at them."""
    return Config(
        GENERAL=Config(LOG_STEPS=1000),
        TRAIN=Config(LR=1e-5, WEIGHT_DECAY=1e-4),  # GRAD_CLIP_VAL is not set: nothing is clipped
        MODEL=Config(IMAGE_SIZE=SIZE, IMAGE_MEAN=[*IMAGENET_MEAN], IMAGE_STD=[*IMAGENET_STD]),
        EXTRA=Config(FOCAL_LENGTH=FOCAL, NUM_LOG_IMAGES=4),
        LOSS_WEIGHTS=Config(
            KEYPOINTS_3D=0.05, KEYPOINTS_2D=0.01, GLOBAL_ORIENT=0.001, HAND_POSE=0.001, BETAS=0.0005, ADVERSARIAL=0.0005
        ),
    )


def make_model(seed: int = 0) -> StandInHAMER:
    """A model with random weights; change `model.cfg` before its first step."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return StandInHAMER(default_config())


def initial_parameters() -> tuple[Tensor, Tensor, Tensor]:
    """What the network's corrections are added to: pose (96,) as 6D rotations, betas (10,), camera (3,) (s, tx, ty)."""
    pose = torch.eye(3).repeat(16, 1, 1)
    pose[0] = torch.tensor(FINGERS_UP)
    return pose[:, :, :2].transpose(1, 2).flatten(), torch.zeros(10), torch.tensor([9.0, 0.0, 0.07])


class StandInMANO(nn.Module):
    """The bundled hand, called as HaMeR calls its MANO layer: rotation matrices are absolute, no mean pose is added."""

    def __init__(self) -> None:
        super().__init__()
        self.hand = HandModel()
        self.faces = self.hand.faces.numpy()

    def forward(
        self, global_orient: Tensor, hand_pose: Tensor, betas: Tensor, pose2rot: bool = False
    ) -> SimpleNamespace:
        """Rotations (B, 1, 3, 3) and (B, 15, 3, 3), betas (B, 10) → vertices (B, 778, 3), joints (B, 21, 3), metres."""
        assert not pose2rot, "rotation matrices only"
        vertices, joints = self.hand(torch.cat([global_orient, hand_pose], dim=1), betas)
        device = vertices.device.type
        if torch.is_autocast_enabled(device):
            # smplx's products run in half precision then: positions come out as float32, but rounded to about 0.3 mm.
            vertices, joints = (x.to(torch.get_autocast_dtype(device)).float() for x in (vertices, joints))
        return SimpleNamespace(vertices=vertices, joints=joints)


class MANOHead(nn.Module):
    """Features (B, C, 16, 12) → rotations of the 16 joints, betas and a weak-perspective camera."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        last = nn.Linear(128, 96 + 10 + 3)  # begins near the mean hand
        nn.init.xavier_uniform_(last.weight, gain=0.01)
        nn.init.zeros_(last.bias)
        self.layers = nn.Sequential(nn.AvgPool2d(4), nn.Flatten(), nn.Linear(12 * channels, 128), nn.GELU(), last)
        for name, value in zip(("init_hand_pose", "init_betas", "init_cam"), initial_parameters()):
            self.register_buffer(name, value[None])

    def forward(self, features: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        """Features → MANO parameters by name, and pred_cam (B, 3)."""
        pose, betas, cam = self.layers(features).split([96, 10, 3], dim=1)
        first, second = (pose + self.init_hand_pose).unflatten(1, (16, 2, 3)).unbind(dim=2)
        # Gram and Schmidt's way from six numbers to a rotation (Zhou et al., CVPR 2019).
        first = normalize(first, dim=-1)
        second = normalize(second - (first * second).sum(-1, keepdim=True) * first, dim=-1)
        rotations = torch.stack([first, second, torch.linalg.cross(first, second)], dim=-1)
        parameters = {
            "global_orient": rotations[:, :1],
            "hand_pose": rotations[:, 1:],
            "betas": betas + self.init_betas,
        }
        return parameters, cam + self.init_cam


class StandInHAMER(pl.LightningModule):
    """What a training set-up sees of HaMeR. Manual optimisation; the second optimiser is the discriminator's."""

    def __init__(self, cfg: Config) -> None:
        super().__init__()
        self.save_hyperparameters(logger=False)
        self.cfg = cfg
        self.backbone = nn.Sequential(
            nn.Conv2d(3, 16, 7, stride=4, padding=3), nn.GELU(),
            nn.Conv2d(16, 32, 3, stride=2, padding=1), nn.GELU(),
            nn.Conv2d(32, 64, 3, stride=2, padding=1), nn.GELU(),
            nn.Conv2d(64, 64, 3, padding=1), nn.GELU(),
        )  # fmt: skip
        self.mano_head = MANOHead(64)
        if cfg.LOSS_WEIGHTS.ADVERSARIAL > 0:
            self.discriminator = nn.Sequential(nn.Linear(135 + 10, 64), nn.ReLU(), nn.Linear(64, 17))
        self.mano = StandInMANO()
        self.automatic_optimization = False

    def get_parameters(self) -> list[nn.Parameter]:
        """What the first optimiser trains and what is clipped: not the discriminator, nor anything attached later."""
        return [*self.mano_head.parameters(), *self.backbone.parameters()]

    def configure_optimizers(self) -> list[torch.optim.Optimizer]:
        """AdamW for the network and, if there is a discriminator, one for it."""
        settings = {"lr": self.cfg.TRAIN.LR, "weight_decay": self.cfg.TRAIN.WEIGHT_DECAY}
        trained = [self.get_parameters()]
        if self.cfg.LOSS_WEIGHTS.ADVERSARIAL > 0:
            trained.append(list(self.discriminator.parameters()))
        return [torch.optim.AdamW(parameters, **settings) for parameters in trained]

    def forward_step(self, batch: Batch, train: bool = False) -> Batch:
        """Predict from ``batch["img"]``; the backbone sees the middle 192 of its 256 columns."""
        parameters, pred_cam = self.mano_head(self.backbone(batch["img"][:, :, :, 32:-32]))
        return outputs(self.mano, parameters, pred_cam)

    def compute_loss(self, batch: Batch, output: Batch, train: bool = True) -> Tensor:
        """HaMeR's losses, each a sum over the batch; puts their values into ``output["losses"]``."""
        weights = self.cfg.LOSS_WEIGHTS
        truth_2d, truth_3d = batch["keypoints_2d"], batch["keypoints_3d"]
        error_2d = (output["pred_keypoints_2d"] - truth_2d[..., :2]).abs()
        joints, true_joints = output["pred_keypoints_3d"], truth_3d[..., :3]
        error_3d = ((joints - joints[:, :1]) - (true_joints - true_joints[:, :1])).abs()
        parts = {
            "keypoints_2d": (truth_2d[..., 2:] * error_2d).sum(),
            "keypoints_3d": (truth_3d[..., 3:] * error_3d).sum(),
        }
        for name, predicted in output["pred_mano_params"].items():
            target = batch["mano_params"][name]
            if batch["mano_params_is_axis_angle"][name].all():
                target = rotation_matrices(target.unflatten(1, (-1, 3)))
            known = batch["has_mano_params"][name].to(predicted.dtype)[:, None]  # comes as float64
            parts[name] = (known * (predicted.flatten(1) - target.flatten(1)).square()).sum()
        loss = torch.stack([weights[name.upper()] * value for name, value in parts.items()]).sum()
        output["losses"] = {"loss": loss.detach(), **{f"loss_{name}": value.detach() for name, value in parts.items()}}
        return loss

    @pl.utilities.rank_zero.rank_zero_only
    def tensorboard_logging(
        self, batch: Batch, output: Batch, step_count: int, train: bool = True, write_to_summary_writer: bool = True
    ) -> Tensor:
        """Every entry of ``output["losses"]`` and a picture of the keypoints, to the logger's TensorBoard writer."""
        mode, count = "train" if train else "val", min(len(batch["img"]), self.cfg.EXTRA.NUM_LOG_IMAGES)
        truth = batch["keypoints_2d"][:count, :, :2]
        truth.add_(0.5).mul_(SIZE)  # HaMeR does this to its batch too, on a CPU: whoever reads it later finds pixels
        predicted = SIZE * (output["pred_keypoints_2d"][:count].detach().float() + 0.5)
        pictures = viz.mark(unnormalised(batch["img"][:count]), truth + 0.5, colour=(0.2, 1.0, 0.2))
        predictions = torch.cat([*viz.mark(pictures, predicted + 0.5)], dim=2)
        if write_to_summary_writer:
            logger: Any = self.logger
            writer = logger.experiment
            for name, value in output["losses"].items():
                writer.add_scalar(f"{mode}/{name}", value.detach().item(), step_count)
            writer.add_image(f"{mode}/predictions", predictions, step_count)
        return predictions

    def forward(self, batch: Batch) -> Batch:
        """`forward_step`, not in training."""
        return self.forward_step(batch, train=False)

    def training_step_discriminator(
        self, batch: Batch, hand_pose: Tensor, betas: Tensor, optimizer: torch.optim.Optimizer
    ) -> Tensor:
        """Train the discriminator to tell predictions, detached, from the poses and betas of motion capture."""
        real_pose = rotation_matrices(batch["hand_pose"].unflatten(1, (15, 3))).flatten(1)
        fake = self.discriminator(torch.cat([hand_pose, betas], dim=1).detach()).square().sum()
        real = (self.discriminator(torch.cat([real_pose, batch["betas"]], dim=1)) - 1).square().sum()
        loss = (fake + real) / len(hand_pose)
        optimizer.zero_grad()
        self.manual_backward(self.cfg.LOSS_WEIGHTS.ADVERSARIAL * loss)
        optimizer.step()
        return loss.detach()

    def training_step(self, joint_batch: Batch, batch_idx: int) -> Batch:
        """One step of both optimisers; `global_step` counts each of them."""
        batch, weight = joint_batch["img"], self.cfg.LOSS_WEIGHTS.ADVERSARIAL
        optimizers: Any = self.optimizers(use_pl_optimizer=True)
        optimizer, *others = optimizers if isinstance(optimizers, list) else [optimizers]
        output = self.forward_step(batch, train=True)
        loss = self.compute_loss(batch, output, train=True)
        hand_pose, betas = output["pred_mano_params"]["hand_pose"].flatten(1), output["pred_mano_params"]["betas"]
        if weight > 0:
            judged = self.discriminator(torch.cat([hand_pose, betas], dim=1))
            adversarial = (judged - 1).square().sum() / len(betas)
            loss = loss + weight * adversarial
        if torch.isnan(loss):
            raise ValueError("Loss is NaN")
        optimizer.zero_grad()
        self.manual_backward(loss)
        if self.cfg.TRAIN.get("GRAD_CLIP_VAL", 0) > 0:
            norm = nn.utils.clip_grad_norm_(
                self.get_parameters(), self.cfg.TRAIN.GRAD_CLIP_VAL, error_if_nonfinite=True
            )
            self.log("train/grad_norm", norm, on_step=True, on_epoch=True, prog_bar=True, logger=True)
        optimizer.step()
        if weight > 0:
            disc = self.training_step_discriminator(joint_batch["mocap"], hand_pose, betas, others[0])
            output["losses"].update(loss_gen=adversarial, loss_disc=disc)
        if self.global_step > 0 and self.global_step % self.cfg.GENERAL.LOG_STEPS == 0:
            self.tensorboard_logging(batch, output, self.global_step, train=True)
        self.log("train/loss", output["losses"]["loss"], on_step=True, on_epoch=True, prog_bar=True, logger=False)
        return output

    def validation_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> Batch:
        """Predict, compare and log."""
        output = self.forward_step(batch, train=False)
        output["loss"] = self.compute_loss(batch, output, train=False)
        self.tensorboard_logging(batch, output, self.global_step, train=False)
        return output


def outputs(mano: nn.Module, parameters: Mapping[str, Tensor], pred_cam: Tensor) -> Batch:
    """The output dictionary of `forward_step`, from rotations, betas and a camera (s, tx, ty).

    pixel = 5000 (X + pred_cam_t)_xy / (Z + pred_cam_t_z) + 128 in the 256 × 256 crop, where integer coordinates are
    pixel centres; pred_keypoints_2d are the joints' pixels / 256 − 0.5.
    """
    scale, x, y = pred_cam.unbind(dim=1)
    pred_cam_t = torch.stack([x, y, 2 * FOCAL / (SIZE * scale + 1e-9)], dim=1)  # s ≤ 0 is nowhere caught
    hand = mano(**{name: value.float() for name, value in parameters.items()}, pose2rot=False)
    points = hand.joints + pred_cam_t[:, None]
    points = points / points[..., 2:]
    # A product of matrices, as HaMeR has it: autocast makes half precision of it.
    intrinsics = torch.diag(points.new_tensor([FOCAL / SIZE, FOCAL / SIZE, 1.0])).expand(len(points), 3, 3)
    return {
        "pred_cam": pred_cam,
        "pred_mano_params": {name: value.clone() for name, value in parameters.items()},
        "pred_cam_t": pred_cam_t,
        "focal_length": torch.full_like(pred_cam[:, :2], FOCAL),
        "pred_keypoints_3d": hand.joints,
        "pred_vertices": hand.vertices,
        "pred_keypoints_2d": torch.einsum("bij,bnj->bni", intrinsics, points)[..., :2],
    }
