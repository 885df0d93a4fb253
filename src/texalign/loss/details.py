from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from texalign.render import Rendering


@dataclass(frozen=True, eq=False)
class LossDetails:
    """What a `DenseTextureAlignmentLoss` saw, for logging; all detached but `per_sample` and `rendering`.

    Attributes:
        per_sample: (B,) the unreduced loss, 0 where skipped.
        texture: (B, 3, T, T) the prior's completion, in the canonical right hand's atlas.
        rendering: the texture on the mesh (`Rendering`), before the colour fit.
        fitted: (B, 3, H, W) the colours compared with the image: fitted to its light, extended past the silhouette.
        residual: (B, 3, H, W) absolute difference between `fitted` and the image.
        evidence: (B, 1, H, W) in [-6, 6], negative where the image looks more like this hand than its own background,
            0 outside the valid region (beyond the wrist, in padding).
        coverage: (B, 1, H, W).
        skipped: (B,) bool: dropped by the renderer, out of sight, or without a visible texel; contributes 0.
    """

    per_sample: Tensor
    texture: Tensor
    rendering: Rendering
    fitted: Tensor
    residual: Tensor
    evidence: Tensor
    coverage: Tensor
    skipped: Tensor
