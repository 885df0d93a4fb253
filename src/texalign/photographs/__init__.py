"""Photographs of hands, their masks and keypoints, the hands found in them, and meshes fitted to them."""

from texalign.photographs.detect import DetectedHand, detect_hands
from texalign.photographs.fitted import FARTHEST, NEAREST, FittedPhotographs, fit_photographs
from texalign.photographs.focal_length import read_focal
from texalign.photographs.folder import Photographs, photograph_ids, read_photographs
from texalign.photographs.image_files import read_image, read_mask
from texalign.photographs.keypoints import HandKeypoints, read_keypoints

__all__ = [
    "FARTHEST",
    "NEAREST",
    "DetectedHand",
    "FittedPhotographs",
    "HandKeypoints",
    "Photographs",
    "detect_hands",
    "fit_photographs",
    "photograph_ids",
    "read_focal",
    "read_image",
    "read_keypoints",
    "read_mask",
    "read_photographs",
]
