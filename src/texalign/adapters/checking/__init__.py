"""`check`: what looks wrong in a first batch, in words."""

from texalign.adapters.checking.agreement import MeanColour
from texalign.adapters.checking.check_batch import CheckReport, check

__all__ = ["CheckReport", "MeanColour", "check"]
