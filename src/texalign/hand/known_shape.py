from __future__ import annotations

from torch import Tensor

from texalign._internal import expect_tensor
from texalign.hand.hand_model import Hand, HandModel


class KnownShape(HandModel):
    """The bundled hand with the shapes of B known hands: a fit changes pose and place only.

    Args:
        betas: (B, 10). Those given to a call are ignored.

    Example:
        >>> import torch
        >>> model = KnownShape(torch.zeros(2, 10))
        >>> model(torch.zeros(2, 16, 3)).vertices.shape
        torch.Size([2, 778, 3])
    """

    betas: Tensor

    def __init__(self, betas: Tensor) -> None:
        super().__init__()
        self.register_buffer("betas", expect_tensor(betas, "KnownShape", "betas").detach(), persistent=False)

    def forward(self, pose: Tensor, betas: Tensor | None = None) -> Hand:
        """As `HandModel`, of B poses."""
        return super().forward(pose, self.betas)
