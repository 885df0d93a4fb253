"""From the outputs of known hand networks to what the loss takes: one file per family."""

from texalign.adapters.inputs import IMAGENET_MEAN, IMAGENET_STD, LossInputs, unnormalised

__all__ = [
    "IMAGENET_MEAN",
    "IMAGENET_STD",
    "LossInputs",
    "unnormalised",
]
