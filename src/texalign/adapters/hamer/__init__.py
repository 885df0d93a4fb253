"""The loss in HaMeR's own training, beside the model and not in it."""

from texalign.adapters.hamer.attachment import DEFAULT_WEIGHT, HamerAttachment, attach
from texalign.adapters.hamer.inputs import loss_inputs

__all__ = ["DEFAULT_WEIGHT", "HamerAttachment", "attach", "loss_inputs"]
