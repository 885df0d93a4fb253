"""The loss added to HaMeR's own training, without changing the model."""

from texalign.adapters.hamer.attachment import HamerAttachment, attach
from texalign.adapters.hamer.inputs import loss_inputs

__all__ = ["HamerAttachment", "attach", "loss_inputs"]
