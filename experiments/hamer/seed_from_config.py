"""The seed of a run of HaMeR. Its configuration has the key ``seed``, which nothing of its own reads."""

from __future__ import annotations

import importlib
from typing import Any

import pytorch_lightning as pl

_Callback: Any = importlib.import_module("hydra.experimental.callback").Callback


class SeedFromConfig(_Callback):
    """Seeds everything that HaMeR draws through torch, numpy and `random`, before it builds its model.

    That is its initial weights, the paths it drops and its augmentation. Which photographs come next is not among it:
    its loader draws that from the clock and the process's number.
    """

    def on_job_start(self, config: Any, **settings: Any) -> None:
        """Take the seed from ``config.seed``; null seeds nothing."""
        if config.seed is not None:
            pl.seed_everything(int(config.seed), workers=True)
