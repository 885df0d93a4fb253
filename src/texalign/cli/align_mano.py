"""MANO's pose of aligned hands, by the user's own file of it."""

from __future__ import annotations

import tempfile
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from texalign._internal import MissingExtraError, expect
from texalign.camera import PinholeCamera
from texalign.hand import Hand, ManoParameters, best_rotation, mano_hand, refine_mano, rotation_vectors
from texalign.mano import load, write_mano_fields

_STEPS = 200


def mano_layer(path: Path) -> Any:
    """The layer of smplx for a right hand's MANO file.

    Raises:
        MissingExtraError: smplx is not installed.
        ValueError, OSError: another file, or a left hand's.
    """
    try:
        import smplx
    except ImportError as error:
        raise MissingExtraError("align: --mano needs smplx: pip install smplx") from error
    model = load(path)
    expect(model.side == "right", "align", f"MANO_RIGHT.pkl in {path}", f"a {model.side} hand's file")
    with tempfile.TemporaryDirectory() as folder:  # smplx reads genuine files only with chumpy
        plain = write_mano_fields(Path(folder) / "MANO_RIGHT.pkl", model.fields())
        with redirect_stdout(None):  # it prints a warning of ten betas, which are what MANO has
            return smplx.MANO(str(plain), is_rhand=True, use_pca=False, flat_hand_mean=True)


def mano_parameters(layer: Any, hand: Hand) -> tuple[ManoParameters, Tensor]:
    """Fit MANO to the vertices of right hands (B): absolute axis-angles, and the mean distance left (B,), metres."""
    batch = len(hand.vertices)
    zero = hand.vertices.new_zeros
    rest = ManoParameters(zero(batch, 3), zero(batch, 45), zero(batch, layer.num_betas), zero(batch, 3))
    with torch.no_grad():
        _, joints = mano_hand(layer, rest)
        palm = [0, 1, 5, 9, 13, 17]
        source, target = (
            points[:, palm] - points[:, palm].mean(dim=1, keepdim=True) for points in (joints, hand.joints)
        )
        turn = rotation_vectors(best_rotation(source, target))
        # The layer turns about its wrist.
        start = ManoParameters(turn, rest.hand_pose, rest.betas, hand.joints[:, 0] - joints[:, 0])

    def distance(vertices: Tensor, *inputs: Any, **options: Any) -> Tensor:
        return 100 * (vertices - hand.vertices).norm(dim=-1).mean(dim=1)

    camera, image = PinholeCamera(torch.ones(batch, 2), torch.zeros(batch, 2)), zero(batch, 3, 1, 1)
    found = refine_mano(layer, start, camera, image, distance, fit_shape=True, anchor=1e-3, steps=_STEPS, rate=0.3)
    with torch.no_grad():
        return found, (mano_hand(layer, found)[0] - hand.vertices).norm(dim=-1).mean(dim=1)
