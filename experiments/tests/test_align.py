"""Predictions of MANO parameters, of the experiment on photographs."""

from __future__ import annotations

import smplx
import torch
from on_photographs import mano_of

from texalign.hand import HandModel, HandParameters, mano_hand, pose_hand
from texalign.mano import write_mano


def test_a_fit_as_mano_parameters_is_the_same_hand(tmp_path):
    layer = smplx.MANOLayer(str(write_mano(tmp_path / "MANO_RIGHT.pkl")), is_rhand=True)
    fit = HandParameters(0.2 * torch.randn(2, 15, 3), torch.randn(2, 3), torch.rand(2, 3) + 0.5, torch.randn(2, 6))
    vertices, joints = mano_hand(layer, mano_of(fit))
    hand = pose_hand(HandModel(), fit)
    # A coordinate of up to 1.5 m in float32, after some thirty roundings.
    torch.testing.assert_close(vertices, hand.vertices, atol=5e-6, rtol=0)
    torch.testing.assert_close(joints, hand.joints, atol=5e-6, rtol=0)
