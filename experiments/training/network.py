"""A small network from an image to the bundled hand, trained from scratch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

import texalign as ta
from texalign.hand import FINGERS_UP, FITTED_SHAPE, HandModel, HandParameters, resting, rotation_matrices

# Metres: how far the joints of a relaxed hand lie from their middle, root mean square.
SPREAD = 0.06
# Maps of places, the joints among them.
MAPS = 48
# What one unit of the last layer's outputs is: radians, betas, spreads, logarithms.
ANGLE_STEP, SHAPE_STEP, PLACE_STEP, SIZE_STEP = 0.3, 1.0, 0.2, 0.3
# Of guided networks: spreads beyond which a joint's distance from its keypoint is squashed, finely and coarsely.
SQUASHED = (0.15, 0.6)
# Of each resolution's features, what is read at the joints.
READ = 16
# Slopes along the hand's description beyond which they are squashed, finely for angles and coarsely for place and size.
SLOPES = (2e-3, 3e-2)
# Wrist (B, 2), spread (B, 1) and turn (B, 2, 2) of a hand in the image.
Position = tuple[Tensor, Tensor, Tensor]


class Prediction(NamedTuple):
    """Hands in the camera's frame.

    Attributes:
        vertices: (B, 778, 3) metres.
        joints: (B, 21, 3) metres.
        maps: (B, 21, H, W) logits of where in the image each joint is: an intermediate, learned from keypoints too.
        parameters: angles, translation and shape; the orientation is not among them, see `HandNetwork`.
    """

    vertices: Tensor
    joints: Tensor
    maps: Tensor
    parameters: HandParameters


class Block(nn.Module):
    """Two 3 × 3 convolutions around which the input passes (He et al., 2016), with group normalisation.

    Args:
        channels_in: of the input.
        channels: of the output.
        stride: of the first convolution.
    """

    def __init__(self, channels_in: int, channels: int, stride: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels_in, channels, 3, stride, padding=1, bias=False)
        self.second = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.norms = nn.ModuleList([nn.GroupNorm(8, channels), nn.GroupNorm(8, channels)])
        self.beside = nn.Identity() if channels_in == channels else nn.Conv2d(channels_in, channels, 1, bias=False)
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) → (B, C', H / stride, W / stride)."""
        y = functional.relu(self.norms[0](self.first(x)))
        y = self.norms[1](self.second(y))
        shortcut = x if self.stride == 1 else functional.avg_pool2d(x, self.stride)
        return functional.relu(y + self.beside(shortcut))


class Correction(nn.Module):
    """What the keypoints and the image say where the hand is thought to be, made a change of it; at first hardly any.

    Args:
        size: of the hand's description.
        read: features at each joint.
        context: features of the whole image.
    """

    def __init__(self, size: int, read: int, context: int) -> None:
        super().__init__()
        self.inputs = nn.Linear((1 + len(SLOPES)) * size + 21 * (2 * len(SQUASHED) + read) + context, 512)
        self.hidden = nn.Linear(512, 512)
        self.out = nn.Linear(512, size)
        nn.init.normal_(self.out.weight, std=1e-3)
        nn.init.zeros_(self.out.bias)

    def forward(self, hand: Tensor, slope: Tensor, distances: Tensor, read: Tensor, context: Tensor) -> Tensor:
        """(B, size).

        Args:
            hand: (B, size), as it is.
            slope: (B, size), which way of it leads away from the keypoints.
            distances: (B, 21, 2) of the keypoints from its joints, in spreads, the hand upright; 0 where unknown.
            read: (B, 21, R), features at its joints.
            context: (B, C), features of the whole image.
        """
        squashed = [torch.tanh(distances / reach).flatten(1) for reach in SQUASHED]
        slopes = [torch.tanh(slope / unit) for unit in SLOPES]
        x = functional.relu(self.inputs(torch.cat([hand, *slopes, *squashed, read.flatten(1), context], dim=1)))
        change: Tensor = self.out(functional.relu(x + self.hidden(x)))
        return change


class HandDescription(nn.Module):
    """Outputs (B, 60) of a network, relative to a `position` in the image, as the bundled hand; and their corrections.

    Args:
        image_size: pixels of the square images.
        corrections: how often a description is corrected, by the module `correction`.
    """

    correction: Correction

    def __init__(self, image_size: int, corrections: int) -> None:
        super().__init__()
        self.image_size, self.corrections = image_size, corrections
        self.sizes = (45, 6, len(FITTED_SHAPE), 2, 1)
        self.hand = HandModel()
        rest = resting(self.hand, 1)
        self.resting_angles: Tensor
        self.fingers_up: Tensor
        self.register_buffer("resting_angles", rest.angles, persistent=False)
        self.register_buffer("fingers_up", torch.tensor(FINGERS_UP), persistent=False)

    def corrected(
        self,
        hand: Tensor,
        where: Position,
        camera: ta.PinholeCamera,
        joints: Tensor,
        seen: Tensor,
        context: Tensor,
        local: Sequence[Tensor] = (),
    ) -> Tensor:
        """(B, 60): a description brought to where joints are seen.

        Args:
            hand: (B, 60), as it is.
            where: the position that it is relative to.
            camera: of the images.
            joints: (B, 21, 2), the image from -1 to 1.
            seen: (B, 21, 1) bool, which of them are.
            context: (B, C).
            local: maps (B, R, H, W) that are read at the hand's joints.
        """
        _, spread, roll = where
        for _ in range(self.corrections):
            now = self.places(hand, where, camera)
            distances = torch.where(seen, (joints - now) @ roll / spread[:, None], 0)
            read = [functional.grid_sample(each, now[:, None], align_corners=False)[:, :, 0] for each in local]
            at_joints = torch.cat(read, dim=1).transpose(1, 2) if read else now[:, :, :0]
            slope = self.slope(hand, where, camera, joints, seen)
            hand = hand + self.correction(hand, slope, distances, at_joints, context)
        return hand

    def predicted(self, x: Tensor, where: Position, camera: ta.PinholeCamera, maps: Tensor) -> Prediction:
        """The hands that outputs (B, 60) describe."""
        pose, parameters = self.described(x, where, camera)
        vertices, posed = self.hand(pose, parameters.betas())
        move = parameters.translation[:, None]
        return Prediction(vertices + move, posed + move, maps, parameters)

    @torch.enable_grad()
    def slope(self, hand: Tensor, where: Position, camera: ta.PinholeCamera, joints: Tensor, seen: Tensor) -> Tensor:
        """(B, size): gradient of the robust mean distance of the joints from where they are seen; itself a constant."""
        wrist, spread, roll = (each.detach() for each in where)
        leaf = hand.detach().requires_grad_()
        now = self.places(leaf, (wrist, spread, roll), camera)
        squared = ((joints.detach() - now) / spread[:, None]).square().sum(dim=-1)
        robust = squared / (squared + SQUASHED[1] ** 2) * seen[..., 0]
        (gradient,) = torch.autograd.grad(robust.mean(dim=1).sum(), leaf)
        return gradient.detach()

    def places(self, x: Tensor, where: Position, camera: ta.PinholeCamera) -> Tensor:
        """(B, 21, 2): where in the image the joints are of the hand that outputs describe, the image from -1 to 1."""
        pose, parameters = self.described(x, where, camera)
        joints = self.hand.joints(pose, parameters.betas()) + parameters.translation[:, None]
        return 2 * camera.project(joints) / self.image_size - 1

    def described(self, x: Tensor, where: Position, camera: ta.PinholeCamera) -> tuple[Tensor, HandParameters]:
        """Pose (B, 16, 3, 3) and parameters of the hand that outputs (B, 60) describe, relative to a `position`."""
        wrist, spread, roll = where
        angles, turn, shape, place, size = x.split(self.sizes, dim=1)
        angles = self.resting_angles + ANGLE_STEP * angles.unflatten(1, (15, 3))
        shape = SHAPE_STEP * shape
        wrist = wrist + PLACE_STEP * spread * (roll @ place[..., None])[..., 0]
        pixels = self.image_size / 2 * (1 + wrist)
        depth = camera.focal[:, :1] * SPREAD / (self.image_size / 2 * spread * (SIZE_STEP * size).exp())
        ray = torch.cat([(pixels - camera.principal) / camera.focal, torch.ones_like(depth)], dim=1)
        translation = ray * depth
        rolled = torch.eye(3, device=x.device).repeat(len(x), 1, 1)
        rolled[:, :2, :2] = roll
        local = rolled @ orthonormal(turn) @ self.fingers_up
        pose = self.hand.pose_from_angles(angles, angles.new_zeros(len(angles), 3))
        pose = torch.cat([(towards(ray) @ local)[:, None], pose[:, 1:]], dim=1)
        return pose, HandParameters(angles, local, translation, shape)


class HandNetwork(HandDescription):
    """Image and camera to pose, shape and place of the bundled hand; 3.4 million parameters.

    Maps of where things are (the mean place under a softmax: Finn et al., 2016), of which the first 21 are taught to be
    the joints, say where the hand is, how large it looks and how it is turned in the image. What remains is lifted from
    the places, brought into the same position, and from coarse features (as from 2D joints by Martinez et al., 2017).
    Without that a few thousand steps from random weights hardly learn more than the mean hand.

    The crop's intrinsics are known: the network says where in the image the wrist is and how large the hand looks, and
    the camera makes metres of it. The orientation is predicted relative to the viewing ray through the wrist, since a
    crop far from the middle of a photograph looks the same for another orientation.

    A guided network is shown a detector's keypoints too, as the second stage of a detector would be. They take the
    place of the taught maps in saying where the hand is. Then it corrects itself a few times, from how far its joints
    are from the keypoints and from the features at its joints (as Zhang et al., 2021, PyMAF): without that, it does not
    learn in a few thousand steps to put joints where it was told they are. It is also told which way leads there, the
    gradient along its own description (as Song et al., 2020): what need not be learned holds for unseen gestures too.

    Args:
        image_size: pixels of the square images, a multiple of 32.
        guided: whether it is shown keypoints.
        corrections: how often a guided network corrects itself. The weights do not depend on it: one that was trained
            with few follows keypoints of unfamiliar gestures farther with more.
    """

    def __init__(self, image_size: int = 128, guided: bool = False, corrections: int = 5) -> None:
        super().__init__(image_size, corrections)
        self.stem = nn.Conv2d(3, 32, 5, stride=2, padding=2, bias=False)
        self.norm = nn.GroupNorm(8, 32)
        self.fine = nn.Sequential(Block(32, 48, 2), Block(48, 96, 2))
        self.coarse = nn.Sequential(Block(96, 192, 2), Block(192, 256, 2))
        self.lateral = nn.Conv2d(256, 96, 1)
        self.maps = nn.Sequential(Block(96, 96, 1), nn.Conv2d(96, MAPS, 1))
        self.squeeze = nn.Conv2d(256, 128, 1)
        side = image_size // 32
        self.from_coarse = nn.Linear(128 * side * side, 384)
        self.from_places = nn.Linear(3 * MAPS, 384)
        self.hidden = nn.Linear(384, 384)
        self.out = nn.Linear(384, sum(self.sizes))
        # The first prediction is nearly a resting hand in the middle of the image.
        nn.init.normal_(self.out.weight, std=0.02)
        nn.init.zeros_(self.out.bias)
        self.from_detections: nn.Linear | None = None
        if guided:
            self.from_detections = nn.Linear(2 * 21, 384, bias=False)
            nn.init.zeros_(self.from_detections.weight)
            self.local = nn.ModuleList([nn.Conv2d(48, READ, 1), nn.Conv2d(96, READ, 1)])
            self.correction = Correction(sum(self.sizes), 2 * READ, 384)

    def begin_with(self, state: dict[str, Tensor]) -> None:
        """Take another network's weights, whether or not it is guided too."""
        guide = ("from_detections.", "local.", "correction.")
        kept = {name: value for name, value in state.items() if self.from_detections or not name.startswith(guide)}
        missing, unknown = self.load_state_dict(kept, strict=False)
        if unknown or not all(name.startswith(guide) for name in missing):
            raise ValueError(f"begin_with: expected a HandNetwork's weights, got {missing} missing, {unknown} unknown")

    def features(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Of images (B, 3, S, S): two resolutions that are read at joints, a coarse one, and the logits of all maps."""
        x = functional.relu(self.norm(self.stem(4 * (image - 0.45))))
        finest = self.fine[0](x)
        fine = self.fine[1](finest)
        coarse = self.coarse(fine)
        pyramid = fine + functional.interpolate(self.lateral(coarse), size=fine.shape[2:], mode="bilinear")
        return finest, pyramid, coarse, self.maps(pyramid).float()

    def forward(self, image: Tensor, camera: ta.PinholeCamera, detections: Tensor | None = None) -> Prediction:
        """Predict the hands.

        Args:
            image: (B, 3, S, S) in [0, 1].
            camera: of these images.
            detections: (B, 21, 2) pixels, for a guided network; where NaN, its own maps say where the joint is.
        """
        finest, pyramid, coarse, maps = self.features(image)
        places, heights = mean_places(maps)
        joints = places[:, :21]
        if self.from_detections is not None:
            if detections is None:
                raise ValueError("HandNetwork: expected detections, for a guided network, got None")
            seen = torch.isfinite(detections).all(dim=2, keepdim=True)
            joints = torch.where(seen, 2 * detections.nan_to_num() / self.image_size - 1, joints)
        wrist, spread, roll = position(joints)

        def level(where: Tensor) -> Tensor:
            return (((where - wrist[:, None]) @ roll) / spread[:, None]).flatten(1)

        x = self.from_coarse(functional.relu(self.squeeze(coarse)).flatten(1))
        x = x + self.from_places(torch.cat([level(places), heights], dim=1))
        if self.from_detections is not None:
            x = x + self.from_detections(level(joints))
        x = functional.relu(x)
        x = functional.relu(self.hidden(x))
        hand = self.out(x)
        where = (wrist, spread, roll)
        if self.from_detections is not None:
            local = [reading(features) for reading, features in zip(self.local, (finest, pyramid))]
            hand = self.corrected(hand, where, camera, joints, seen, x, local)
        return self.predicted(hand, where, camera, maps[:, :21])


def position(joints: Tensor) -> Position:
    """Of joints (B, 21, 2): the wrist (B, 2), the spread (B, 1), and the turn (B, 2, 2) of fingers that point up."""
    wrist = joints[:, 0]
    spread = (joints - joints.mean(dim=1, keepdim=True)).square().sum(dim=(1, 2)).div(21).add(0.01).sqrt()
    # Towards the middle of the knuckles. Were they over the wrist, the hand counts as upright.
    up = joints[:, 5::4].mean(dim=1) - wrist + 1e-3 * joints.new_tensor([0.0, -1.0])
    up = functional.normalize(up, dim=1, eps=1e-2)
    return wrist, spread[:, None], torch.stack([torch.stack([-up[:, 1], up[:, 0]], dim=1), -up], dim=1).transpose(1, 2)


def mean_places(maps: Tensor) -> tuple[Tensor, Tensor]:
    """Where maps (B, M, H, W) are high: (B, M, 2), x and y, the image from -1 to 1; and how sure, (B, M) in [0, 1]."""
    share = maps.flatten(2).softmax(dim=2).unflatten(2, maps.shape[2:])
    height, width = maps.shape[2:]
    x = (2 * torch.arange(width, device=maps.device) + 1) / width - 1
    y = (2 * torch.arange(height, device=maps.device) + 1) / height - 1
    places = torch.stack([(share.sum(dim=2) * x).sum(dim=2), (share.sum(dim=3) * y).sum(dim=2)], dim=2)
    return places, share.flatten(2).amax(dim=2)


def orthonormal(turn: Tensor) -> Tensor:
    """Rotations (B, 3, 3) from offsets (B, 6) of their first two columns from the identity's (Zhou et al., 2019)."""
    first = functional.normalize(turn[:, :3] + turn.new_tensor([1.0, 0.0, 0.0]), dim=1)
    second = turn[:, 3:] + turn.new_tensor([0.0, 1.0, 0.0])
    second = functional.normalize(second - (first * second).sum(dim=1, keepdim=True) * first, dim=1)
    return torch.stack([first, second, torch.linalg.cross(first, second)], dim=2)


def towards(ray: Tensor) -> Tensor:
    """(B, 3, 3): the smallest rotation that turns the optical axis into rays (B, 3) with z = 1."""
    across = torch.stack([-ray[:, 1], ray[:, 0]], dim=1)
    # Safe for a ray along the axis, where its gradient would be that of a norm at zero.
    sine = across.square().sum(dim=1, keepdim=True).add(1e-12).sqrt()
    axis = torch.cat([across, torch.zeros_like(sine)], dim=1) / sine
    return rotation_matrices(axis * torch.atan(sine))
