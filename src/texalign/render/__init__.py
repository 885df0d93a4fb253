"""Drawing a textured hand, differentiably, and lifting images into its atlas."""

from texalign.render.observations import UVObservations
from texalign.render.textured_hand_renderer import Rendering, Scene, TexturedHandRenderer, check_values

__all__ = ["Rendering", "Scene", "TexturedHandRenderer", "UVObservations", "check_values"]
