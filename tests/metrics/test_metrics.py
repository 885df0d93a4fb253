from __future__ import annotations

import math
from functools import partial

import pytest
import torch
from scipy.spatial import procrustes

from metric_data import FREIHAND, hands, images, keypoints, masks
from texalign import metrics
from texalign.hand import rotation_matrices
from texalign.metrics import mask_iou, point_error, procrustes_aligned

# Reference numbers below are what the evaluation code that is named gives for these arrays, in float64.


def approximately(values):
    return pytest.approx(values, rel=1e-7, nan_ok=True)


def points(batch=3, count=21, seed=0):
    return torch.randn(batch, count, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def moved(values):
    turn = rotation_matrices(torch.tensor([[0.3, -1.1, 2.0]], dtype=values.dtype))
    return 1.7 * values @ turn.transpose(1, 2) + torch.tensor([0.4, -2.0, 5.0], dtype=values.dtype)


@pytest.mark.parametrize("prefix", ["", "pa_"])
def test_scores_are_those_of_freihand_and_ho3d(prefix):
    (joints, vertices), (true_joints, true_vertices) = hands()
    if prefix:
        joints = procrustes_aligned(joints, true_joints, reflection=True)
        vertices = procrustes_aligned(vertices, true_vertices, reflection=True)
    scores = {
        "mpjpe_mm": metrics.mpjpe_mm(joints, true_joints),
        "mpvpe_mm": metrics.mpvpe_mm(vertices, true_vertices),
        "joint_auc": metrics.pck_auc(joints, true_joints),
        "vertex_auc": metrics.pck_auc(vertices, true_vertices),
        "f_5mm": metrics.f_score(vertices, true_vertices, 0.005),
        "f_15mm": metrics.f_score(vertices, true_vertices, 0.015),
    }
    for name, value in scores.items():
        assert value.shape == (8,)
        assert value.mean().item() == pytest.approx(FREIHAND[prefix + name], rel=1e-5), name


# Means over the samples by eval_pose and Evaluator of HaMeR's pose_utils.py.
HAMER = {
    "pa_mpjpe_mm": 19.696598082173,
    "root_relative_mpjpe_mm": 34.446016741796,
    "pa_mpvpe_mm": 21.048083063292,
}


@pytest.mark.parametrize("name", HAMER)
def test_errors_are_those_of_hamer(name):
    predicted, true = (pair["vpe" in name] for pair in hands())
    assert getattr(metrics, name)(predicted, true).mean().item() == approximately(HAMER[name])


# kpAvg_pck_0.05, 0.1 and 0.15 of HaMeR's EvaluatorPCK, as eval.py makes it for HInt.
HINT = {
    "all": [0.2124734097760235, 0.6578921154871527, 0.9304159997903669],
    "visible": [0.19684716118840115, 0.655582562290108, 0.9228404290778096],
    "occluded": [0.23496448818761953, 0.6605347668041166, 0.9400260476333011],
}


@pytest.mark.parametrize("which", HINT)
def test_pck_is_that_of_hamer_on_hint(which):
    predicted, true, side, annotated, visible = keypoints()
    among = {"all": annotated, "visible": visible, "occluded": annotated & ~visible}[which]
    for threshold, expected in zip((0.05, 0.1, 0.15), HINT[which]):
        by_joint = metrics.correct_joints(predicted, true, side, threshold, among).nanmean(dim=0)
        assert by_joint.mean().item() == pytest.approx(expected, rel=1e-6)


def test_pck_by_hand():
    true = torch.zeros(3, 2, 2)
    predicted = torch.tensor([[[3.0, 4.0], [0.0, 5.1]], [[3.0, 4.0], [0.0, 5.1]], [[0.0, 0.0], [0.0, 0.0]]])
    among = torch.tensor([[True, True], [False, True], [False, False]])
    result = metrics.pck(predicted, true, torch.full((3,), 100.0), 0.05, among)
    assert result.tolist() == pytest.approx([0.5, 0, math.nan], nan_ok=True)  # 5 px is not too far at 5 px
    assert metrics.pck(predicted, true, torch.tensor([100.0, 102.0, 1.0]), 0.05).tolist() == [0.5, 1, 1]
    true[0, 1] = torch.nan  # not known, not counted
    assert metrics.pck(predicted, true, torch.full((3,), 100.0), 0.05)[0] == 1


def test_area_under_the_curve_by_hand():
    predicted = torch.tensor([[[0.0], [1.5]], [[4.0], [2.0]]])
    curve = metrics.pck_curve(predicted, torch.zeros(2, 2, 1), [0, 1, 3])
    assert curve.tolist() == [[0.5, 0.5, 1], [0, 0, 0.5]]
    areas = metrics.pck_auc(predicted, torch.zeros(2, 2, 1), [0, 1, 3])
    assert areas.tolist() == pytest.approx([(0.5 + 1.5) / 3, 0.5 / 3])


def test_f_score_by_hand():
    true = torch.tensor([[[0.0, 0, 0], [1, 0, 0], [2, 0, 0], [3, 0, 0]]])
    predicted = torch.tensor([[[0.0, 0.1, 0], [0.1, 0, 0], [9, 0, 0]]])
    # Two of three lie near, near one of four.
    assert metrics.f_score(predicted, true, 0.2).item() == pytest.approx(2 * (2 / 3) * (1 / 4) / (2 / 3 + 1 / 4))
    assert metrics.f_score(predicted, true, 0.05).item() == 0
    assert metrics.f_score(true, true + torch.tensor([0.0, 0.25, 0.0]), 0.25).item() == 0  # nearer than, not as near as
    # Metres from the camera: a matrix product would round squared distances, and lose half a millimetre.
    true = torch.rand(1, 100, 3) * 0.1 + 20
    assert metrics.f_score(true, true, 1e-6).item() == 1


def test_outlines_agree_as_in_davis():
    predicted, true = masks()
    # db_eval_boundary of the evaluation of DAVIS 2017, with its own tolerance and with 0.05.
    expected = [0.2429305912596401, 0.0, 0.2635135135135135, 0.0, 0.0, 1.0]
    assert metrics.boundary_f_score(predicted, true).tolist() == pytest.approx(expected, rel=1e-6)
    expected = [0.8109525196621031, 0.5622489959839357, 0.7157894736842105, 0.0273972602739726, 0.0, 1.0]
    assert metrics.boundary_f_score(predicted, true, 0.05).tolist() == pytest.approx(expected, rel=1e-6)
    # A mask that touches the frame's edges, which are no outlines.
    first, second = torch.zeros(2, 1, 1, 48, 64, dtype=torch.bool)
    first[..., 30:, 40:], second[..., 28:, 41:] = True, True
    assert metrics.boundary_f_score(first, second).item() == pytest.approx(0.47085202, abs=1e-7)
    # And its db_eval_iou; masks of numbers count from a half.
    expected = [0.6621803499327052, 0.46551724137931033, 0.6046511627906976, 0.3981762917933131, 0.0, 1.0]
    assert mask_iou(0.9 * predicted, 0.4 + 0.3 * true).tolist() == pytest.approx(expected, rel=1e-6)


def test_psnr_is_that_of_scikit_image_inside_the_mask():
    predicted, true = images()
    # peak_signal_noise_ratio of 0.26.
    expected = [25.988963458719653, 26.038113233901857, 26.013521137614855]
    assert metrics.psnr_db(predicted, true).tolist() == approximately(expected)
    mask = torch.zeros(3, 1, 40, 56)
    mask[0, :, 12:25, 20:44], mask[1] = 1, 1
    painted = torch.where(mask > 0.5, true + 0.1, torch.nan)
    assert metrics.psnr_db(painted, true, mask > 0.5).tolist() == approximately([20, 20, math.nan])
    assert metrics.psnr_db(painted, true, mask)[0].item() == approximately(20)
    assert metrics.psnr_db(true, true).tolist() == [math.inf] * 3


def test_alignment_agrees_with_scipy():
    true, predicted = points(), points() + 0.4 * points(seed=2)
    aligned = procrustes_aligned(predicted, true)
    for sample in range(3):
        _, _, disparity = procrustes(true[sample].numpy(), predicted[sample].numpy())
        centred = true[sample] - true[sample].mean(dim=0)
        mine = (aligned[sample] - true[sample]).square().sum() / centred.square().sum()
        assert mine.item() == pytest.approx(disparity, rel=1e-9)


def test_points_in_one_place_stay_finite():
    true = points()
    aligned = procrustes_aligned(torch.ones_like(true), true)
    assert torch.isfinite(aligned).all()
    torch.testing.assert_close(aligned, true.mean(dim=1, keepdim=True).expand_as(true))


def test_alignment_undoes_a_similarity_and_a_reflection_where_allowed():
    true = points()
    torch.testing.assert_close(procrustes_aligned(moved(true), true), true)
    mirrored = moved(true * torch.tensor([-1.0, 1.0, 1.0], dtype=torch.float64))
    torch.testing.assert_close(procrustes_aligned(mirrored, true, reflection=True), true)
    assert (
        metrics.pa_mpjpe_mm(mirrored, true).min()
        > 100
        > 1e-6
        > metrics.pa_mpjpe_mm(mirrored, true, reflection=True).max()
    )


def test_errors_among_some_points():
    predicted, true = points(), points(seed=1)
    among = torch.zeros(3, 21, dtype=torch.bool)
    among[0, 4:9], among[1, 3] = True, True
    distance = (predicted - true).norm(dim=-1)
    expected = [distance[0, 4:9].mean().item(), distance[1, 3].item(), math.nan]
    assert point_error(predicted, true, among).tolist() == approximately(expected)
    # Alignment, too, is to the joints that count.
    aligned = 1000 * point_error(procrustes_aligned(predicted, true, among=among), true, among)
    found = metrics.pa_mpjpe_mm(predicted, true, among)
    torch.testing.assert_close(found, aligned, equal_nan=True)
    alone = metrics.pa_mpjpe_mm(predicted[:1, 4:9], true[:1, 4:9])
    torch.testing.assert_close(found[:1], alone)
    result = metrics.pck_auc(predicted, true, [0.0, 5.0], among)
    assert result[:2].isfinite().all() and result[2].isnan()
    # What is left out may be unknown.
    true[~among] = torch.nan
    assert point_error(predicted, true, among).tolist() == approximately(expected)
    torch.testing.assert_close(metrics.pa_mpjpe_mm(predicted, true, among), found, equal_nan=True)


POINT_METRICS = {
    "point_error": (point_error, math.inf),
    "root-relative": (metrics.root_relative_mpjpe_mm, math.inf),
    "aligned, reflection": (partial(metrics.pa_mpvpe_mm, reflection=True), math.inf),
    "auc": (partial(metrics.pck_auc, thresholds=(0.0, 9.0)), 0),
    "f": (partial(metrics.f_score, threshold=9.0), 0),
}


@pytest.mark.parametrize("name", POINT_METRICS)
def test_numbers_that_are_not_finite(name):
    """A prediction without any is as wrong as can be; where the truth is unknown nothing is measured."""
    metric, worst = POINT_METRICS[name]
    alone = metric(points(), points(seed=1))
    for value in (math.nan, math.inf, -math.inf):
        predicted, true = points(), points(seed=1)
        predicted[1], true[2, 4] = value, math.nan
        result = metric(predicted, true)
        assert result[0] == alone[0] and result[1] == worst and result[2].isnan()
        predicted, true, side, annotated, _ = keypoints(2)
        predicted[0] = value
        assert metrics.pck(predicted, true, side, 0.5, annotated)[0] == 0


def every_metric(dtype=torch.float64, count=3):
    (joints, vertices), (true_joints, true_vertices) = (tuple(part[:count, :60] for part in pair) for pair in hands())
    points_2d = tuple(part[:count] for part in keypoints())
    mask_pair, image_pair = (tuple(part[:count].to(dtype) for part in pair) for pair in (masks(), images()))
    three = [tensor.to(dtype) for tensor in (joints, true_joints, vertices, true_vertices)]
    two = [tensor.to(dtype) for tensor in points_2d[:3]]
    return {
        "pa_mpvpe": metrics.pa_mpvpe_mm(*three[2:], reflection=True),
        "auc": metrics.pck_auc(*three[:2]),
        "f_5mm": metrics.f_score(*three[2:], 0.005),
        "root": metrics.root_relative_mpjpe_mm(*three[:2]),
        "root, vertices": metrics.root_relative_mpvpe_mm(*three[2:], three[0][:, 0], three[1][:, 0]),
        "pck": metrics.pck(*two, 0.1, points_2d[3]),
        "iou": mask_iou(*mask_pair),
        "outline": metrics.boundary_f_score(*mask_pair, 0.05),
        "psnr": metrics.psnr_db(*image_pair),
    }


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_every_dtype_without_gradients_and_under_autocast(dtype):
    alone, exact = every_metric(dtype), every_metric()
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        within = every_metric(dtype)
    for name, value in alone.items():
        assert value.shape == (3,) and (value.dtype == torch.float32 or name in ("iou", "outline"))
        torch.testing.assert_close(within[name], value, rtol=1e-6, atol=1e-6)
        if dtype == torch.float32:
            # A distance may fall on the other side of a threshold, and then one of 60 vertices or of 21 joints counts.
            counted = any(part in name for part in ("auc", "f_", "pck"))
            torch.testing.assert_close(value.double(), exact[name].double(), rtol=1e-5, atol=0.05 if counted else 1e-6)
    assert all(value.shape == (0,) for value in every_metric(dtype, count=0).values())


def test_what_is_checked():
    cube, pixels = torch.zeros(2, 21, 3), torch.zeros(2, 21, 2)
    image, mask = torch.zeros(2, 3, 16, 16), torch.zeros(2, 1, 16, 16)
    side, some = torch.ones(2), torch.ones(2, 21, dtype=torch.bool)
    mistakes = {
        "point_error: expected predicted (2, 21, 3) like true, got (2, 20, 3)": lambda: point_error(cube[:, 1:], cube),
        "point_error: expected among of dtype bool, got torch.float32": lambda: point_error(cube, cube, some.float()),
        "f_score: expected true (2, M, 3), got (1, 21, 3)": lambda: metrics.f_score(cube, cube[:1], 0.005),
        "correct_joints: expected box_size (2,), got (2, 1)": lambda: metrics.pck(pixels, pixels, side[:, None], 0.1),
        "pck_auc: expected two thresholds or more that ascend, got [0, 0]": lambda: metrics.pck_auc(cube, cube, [0, 0]),
        "mask_iou: expected predicted (B, 1, H, W), got (2, 3, 16, 16)": lambda: mask_iou(image, mask),
        "psnr_db: expected mask (2, 1, 16, 16), got (2, 16, 16)": lambda: metrics.psnr_db(image, image, mask[:, 0]),
    }
    for message, mistake in mistakes.items():
        with pytest.raises(ValueError) as caught:
            mistake()
        assert str(caught.value) == message
    with pytest.raises(ValueError, match="expected true on the device of predicted"):
        point_error(cube, cube.to("meta"))
