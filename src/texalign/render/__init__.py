"""Drawing a textured hand, differentiably, and lifting images into its atlas."""

from texalign.render.observations import UVObservations
from texalign.render.rendering import Rendering
from texalign.render.scene import Scene
from texalign.render.textured_hand_renderer import TexturedHandRenderer
from texalign.render.usable_points import check_values

__all__ = ["Rendering", "Scene", "TexturedHandRenderer", "UVObservations", "check_values"]
