"""Photographs of hands, their masks and keypoints, and meshes fitted to them."""

from texalign.photographs.fitted import FittedPhotographs, fit_photographs
from texalign.photographs.folder import Photographs, photograph_ids, read_photographs
from texalign.photographs.image_files import read_image, read_mask
from texalign.photographs.keypoints import HandKeypoints, read_keypoints

__all__ = [
    "FittedPhotographs",
    "HandKeypoints",
    "Photographs",
    "fit_photographs",
    "photograph_ids",
    "read_image",
    "read_keypoints",
    "read_mask",
    "read_photographs",
]
