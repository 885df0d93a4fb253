"""From the outputs of known hand networks to the loss's inputs: one function for each family of networks."""

from texalign.adapters import hamer
from texalign.adapters.checking import CheckReport, MeanColour, check
from texalign.adapters.full_image_camera import full_image
from texalign.adapters.inputs import IMAGENET_MEAN, IMAGENET_STD, unnormalised
from texalign.adapters.joint_translation import translation_from_joints
from texalign.adapters.orthographic_camera import orthographic
from texalign.adapters.root_relative_vertices import root_relative
from texalign.adapters.weak_perspective_camera import weak_perspective

__all__ = [
    "IMAGENET_MEAN",
    "IMAGENET_STD",
    "CheckReport",
    "MeanColour",
    "check",
    "full_image",
    "hamer",
    "orthographic",
    "root_relative",
    "translation_from_joints",
    "unnormalised",
    "weak_perspective",
]
