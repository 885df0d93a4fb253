"""Networks that see an image alone: what they have in common, and the one of frozen stem, tail and mesh head."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn

import texalign as ta
from image_only.backbone import Crop, landmarks_of
from image_only.mesh_head import MeshHead
from training.network import Prediction

if TYPE_CHECKING:
    from image_only.train import Settings


class Said(NamedTuple):
    """What the network says of B photographs.

    Attributes:
        prediction: the hands.
        world: (B, 21, 3) world landmarks in the photographs' axes, or None of a network that has none.
    """

    prediction: Prediction
    world: Tensor | None


class Shown(NamedTuple):
    """What a network is shown of B photographs.

    Attributes:
        image: (B, C, H, W), pixels of crops, or what a frozen stem makes of them.
        crop: where they lie.
        view: (B,) number of the crop among a photograph's.
        world: (B, 21, 3) the untrained network's world landmarks, or None.
    """

    image: Tensor
    crop: Crop
    view: Tensor
    world: Tensor | None


class Views(Protocol):
    """What networks are shown of N photographs: `FrozenViews`, `PhotographViews`."""

    def select(self, rows: Tensor) -> Views:
        """Of some photographs."""

    def plain(self, rows: Tensor) -> Shown:
        """Photographs (B,) as they are."""

    def drawn(self, rows: Tensor, generator: torch.Generator) -> Shown:
        """Photographs (B,) seen otherwise, to train on."""


class Network(nn.Module):
    """From what is shown of photographs to hands in the photographs' cameras: `ImageOnly`, `Encoder`."""

    head: MeshHead

    def groups(self, settings: Settings) -> list[dict[str, Any]]:
        """Parameters that are trained, each group with its "rate"."""
        raise NotImplementedError

    def forward(self, image: Tensor, crop: Crop, camera: ta.PinholeCamera) -> Said:
        """The hands.

        Args:
            image: (B, C, H, W), see `Shown`.
            crop: that it saw.
            camera: of the photographs.
        """
        raise NotImplementedError


class ImageOnly(Network):
    """The trained part: a tail that finds landmarks in maps, and a head that lays a hand on them.

    Args:
        tail: of a `Backbone`.
        head: from landmarks to the hand.
    """

    def __init__(self, tail: nn.Module, head: MeshHead) -> None:
        super().__init__()
        self.tail, self.head = tail.requires_grad_(), head

    def groups(self, settings: Settings) -> list[dict[str, Any]]:
        """The tail's and the head's parameters."""
        parts = ((self.tail, settings.rate), (self.head, settings.head_rate))
        return [{"params": list(part.parameters()), "rate": rate} for part, rate in parts]

    def forward(self, image: Tensor, crop: Crop, camera: ta.PinholeCamera) -> Said:
        """See `Network.forward`; the image is what the frozen stem makes of it."""
        landmarks, world = landmarks_of(self.tail(image), crop)
        return Said(self.head(landmarks, world, camera), world)
