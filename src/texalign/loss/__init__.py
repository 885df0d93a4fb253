"""The dense texture alignment loss and its pieces."""

from texalign.loss.dense_texture_alignment_loss import (
    EVIDENCE_LIMIT,
    DenseTextureAlignmentLoss,
    LossDetails,
    carried,
    mirrored_unless,
)
from texalign.loss.photometric import structural_similarity
from texalign.loss.watch import LossWatch, Sighting

__all__ = [
    "EVIDENCE_LIMIT",
    "DenseTextureAlignmentLoss",
    "LossDetails",
    "LossWatch",
    "Sighting",
    "carried",
    "mirrored_unless",
    "structural_similarity",
]
