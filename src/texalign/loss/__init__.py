"""The dense texture alignment loss and its pieces."""

from texalign.loss.background import background_cost
from texalign.loss.dense_texture_alignment_loss import DenseTextureAlignmentLoss
from texalign.loss.details import LossDetails
from texalign.loss.evidence import EVIDENCE_LIMIT, Evidence, dilation_radius, region_competition
from texalign.loss.forearm import beyond_wrist
from texalign.loss.inputs import LossInputs
from texalign.loss.likelihoods import ResidualCost, hand_cost, laplace_cost
from texalign.loss.watch import LossWatch, Sighting
from texalign.loss.weight_balance import balanced_weight

__all__ = [
    "EVIDENCE_LIMIT",
    "DenseTextureAlignmentLoss",
    "Evidence",
    "LossDetails",
    "LossInputs",
    "LossWatch",
    "ResidualCost",
    "Sighting",
    "background_cost",
    "balanced_weight",
    "beyond_wrist",
    "dilation_radius",
    "hand_cost",
    "laplace_cost",
    "region_competition",
]
