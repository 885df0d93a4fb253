"""A look at a first batch: what is wired wrongly in a new network, in words."""

from texalign.adapters.checking.check_batch import CheckReport, check

__all__ = ["CheckReport", "check"]
