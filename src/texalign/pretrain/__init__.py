"""Training the texture prior: to predict texels of a hand from others. No ground-truth textures are used."""

from texalign.pretrain.objective import read_texture
from texalign.pretrain.settings import PretrainSettings
from texalign.pretrain.training import pretrain

__all__ = ["PretrainSettings", "pretrain", "read_texture"]
