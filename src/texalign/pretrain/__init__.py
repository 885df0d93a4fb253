"""Training the texture prior: what some pixels of a hand say about the others. No ground-truth textures are used."""

from texalign.pretrain.training import PretrainSettings, pretrain

__all__ = ["PretrainSettings", "pretrain"]
