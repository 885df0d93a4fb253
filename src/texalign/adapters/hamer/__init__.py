"""The loss added to HaMeR's own training, without changing the model."""

from texalign.adapters.hamer.attachment import DEFAULT_WEIGHT, HamerAttachment, attach
from texalign.adapters.hamer.inputs import loss_inputs

__all__ = ["DEFAULT_WEIGHT", "HamerAttachment", "attach", "loss_inputs"]
