"""Folders of photographs with keypoints, and meshes fitted to them."""

from texalign.photographs.detect import DetectedHand, detect_hands
from texalign.photographs.fitted import FittedPhotographs, fit_photographs
from texalign.photographs.folder import Photographs, photograph_ids, read_photographs

__all__ = [
    "DetectedHand",
    "FittedPhotographs",
    "Photographs",
    "detect_hands",
    "fit_photographs",
    "photograph_ids",
    "read_photographs",
]
