"""A network that sees an image alone: frozen stem, trained tail, trained mesh head."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor, nn

import texalign as ta
from image_only.backbone import Crop, landmarks_of
from image_only.mesh_head import MeshHead
from training.network import Prediction


class Said(NamedTuple):
    """What the network says of B photographs.

    Attributes:
        prediction: the hands.
        world: (B, 21, 3) world landmarks in the photographs' axes.
    """

    prediction: Prediction
    world: Tensor


class ImageOnly(nn.Module):
    """The trained part: a tail that finds landmarks in maps, and a head that lays a hand on them.

    Args:
        tail: of a `Backbone`.
        head: from landmarks to the hand.
    """

    def __init__(self, tail: nn.Module, head: MeshHead) -> None:
        super().__init__()
        self.tail, self.head = tail.requires_grad_(), head

    def forward(self, maps: Tensor, crop: Crop, camera: ta.PinholeCamera) -> Said:
        """The hands.

        Args:
            maps: (B, C, H, W) of the frozen stem.
            crop: that it saw.
            camera: of the photographs.
        """
        landmarks, world = landmarks_of(self.tail(maps), crop)
        return Said(self.head(landmarks, world, camera), world)
