"""The bundled hand: posing, sampling and fitting it."""

from texalign.hand.fitting import fit_to_joints, fit_to_keypoints, refine
from texalign.hand.hand_model import SHAPE_NAMES, Hand, HandModel
from texalign.hand.joints import FINGERS, JOINT_NAMES, JOINT_ORDER, PARENTS, POSE_JOINT_NAMES, TIP_VERTICES
from texalign.hand.known_shape import KnownShape
from texalign.hand.mano_refinement import ManoParameters, mano_hand, refine_mano
from texalign.hand.objectives import KEYPOINT_WEIGHT, anatomy_loss, keypoint_loss, keypoint_objective
from texalign.hand.parameters import (
    FITTED_SHAPE,
    HandParameters,
    disturbed,
    parameters_of_pose,
    pose_hand,
    resting,
)
from texalign.hand.poses import FINGERS_UP, POSE_KINDS, relaxed_pose, sample_pose
from texalign.hand.rotations import best_rotation, rotation_matrices, rotation_vectors, turned_leaned_rolled

__all__ = [
    "FINGERS",
    "FINGERS_UP",
    "FITTED_SHAPE",
    "JOINT_NAMES",
    "JOINT_ORDER",
    "KEYPOINT_WEIGHT",
    "PARENTS",
    "POSE_JOINT_NAMES",
    "POSE_KINDS",
    "SHAPE_NAMES",
    "TIP_VERTICES",
    "Hand",
    "HandModel",
    "HandParameters",
    "KnownShape",
    "ManoParameters",
    "anatomy_loss",
    "best_rotation",
    "disturbed",
    "fit_to_joints",
    "fit_to_keypoints",
    "keypoint_loss",
    "keypoint_objective",
    "mano_hand",
    "parameters_of_pose",
    "pose_hand",
    "refine",
    "refine_mano",
    "relaxed_pose",
    "resting",
    "rotation_matrices",
    "rotation_vectors",
    "sample_pose",
    "turned_leaned_rolled",
]
