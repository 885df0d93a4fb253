"""A fold-free map from MANO's topology to the source hand's surface.

Both hands are two hand-shaped charts, palm and back, joined by a seam along the silhouette. The seams are matched by
anatomical landmarks and by arc length between them. Then every chart is mapped to one disc with the matched seam on its
boundary, and a MANO vertex goes to the place of the source hand that shares its place in the disc.
"""

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from scipy.sparse import coo_matrix, diags
from scipy.sparse.linalg import spsolve

from generic_hand import (
    BACK,
    FINGERS,
    PALM,
    Floats,
    GenericHand,
    Integers,
    Plane,
    clip_hand,
    finger_joints,
    joint_index,
    unit,
)
from mano_layout import LANDMARKS, Chart, Landmark, ManoLayout, make_chart, seam_lengths

SEAM_SAMPLES = 4000
# The share of the disc's circumference given to the seam; the rest is the wrist's.
SEAM_SHARE = 0.85
ON_PLANE = 1e-9
WRIST_LABEL = -1


def generic_charts(hand: GenericHand) -> tuple[Chart, Chart]:
    """The palm and back charts of a hand cut at its wrist plane; raises ValueError where their seams differ."""
    on_wrist = np.abs(hand.wrist_plane.signed_distance(hand.vertices)) < ON_PLANE
    charts = []
    for side in (PALM, BACK):
        kept = np.flatnonzero(hand.chart == side)
        local = np.full(len(hand.vertices), -1)
        local[kept] = np.arange(len(kept))
        faces = local[hand.faces[hand.chart[hand.faces[:, 0]] == side]]
        charts.append(make_chart(hand.vertices[kept], faces, kept, on_wrist[kept], side))
    palm, back = charts
    if not np.allclose(palm.points[palm.seam], back.points[back.seam], atol=1e-6):
        raise ValueError("generic_charts: the palm's and the back's seams differ")
    return palm, back


@dataclass(frozen=True)
class Seam:
    """The source hand's seam, evenly sampled by arc length.

    Attributes:
        length: (S,) arc length in metres from the wrist's thumb side.
        positions: (S, 3) metres.
        label: (S,) index into `FINGERS`, or `WRIST_LABEL`.
    """

    length: Floats
    positions: Floats
    label: Integers


def arc_length(points: Floats) -> Floats:
    """Arc length (N,) along a polyline (N, D), starting at 0."""
    return np.concatenate([[0.0], np.cumsum(np.linalg.norm(np.diff(points, axis=0), axis=1))])


def interpolate(at: Floats, knots: Floats, values: Floats) -> Floats:
    """Piecewise-linear interpolation of values (K, D), given at increasing knots (K,), at places (N,)."""
    return np.stack([np.interp(at, knots, column) for column in values.T], axis=1)


def sample_seam(hand: GenericHand, chart: Chart) -> Seam:
    """Sample the seam and label each sample with the finger of its largest skin weight."""
    knots = arc_length(chart.points[chart.seam])
    length = np.linspace(0.0, knots[-1], SEAM_SAMPLES)
    weights = interpolate(length, knots, hand.weights[chart.vertex[chart.seam]])
    strongest = weights.argmax(axis=1)
    return Seam(
        length,
        interpolate(length, knots, chart.points[chart.seam]),
        np.where(strongest == 0, WRIST_LABEL, (strongest - 1) // 3),
    )


def joint_plane(joints: Floats, tips: Floats, finger: str, number: int) -> Plane:
    """The plane through a joint that halves the angle between its bones; for a knuckle, square to its own bone.

    The bone before a knuckle is a metacarpal that this skeleton does not have.
    """
    chain = np.vstack([joints[finger_joints(finger)], tips[FINGERS.index(finger)]])
    outgoing = unit(chain[number] - chain[number - 1])
    knuckle = number == 1 or (finger == "thumb" and number == 2)
    incoming = np.zeros(3) if knuckle else unit(chain[number - 1] - chain[number - 2])
    return Plane(chain[number - 1], unit(incoming + outgoing))


def _tip_sample(hand: GenericHand, seam: Seam, finger: str) -> int:
    """The finger's sample farthest along its distal bone. (A ball around the tip would take in the next finger.)"""
    own = np.flatnonzero(seam.label == FINGERS.index(finger))
    axis = hand.tips[FINGERS.index(finger)] - hand.joints[joint_index(finger, 3)]
    return int(own[(seam.positions[own] @ axis).argmax()])


def _web_sample(hand: GenericHand, seam: Seam, fingers: tuple[str, str], tips: dict[str, int]) -> int:
    """The sample between two tips that lies deepest between the fingers, along the mean of their directions."""
    between = np.arange(tips[fingers[0]], tips[fingers[1]] + 1)
    direction = sum(unit(hand.tips[FINGERS.index(finger)] - hand.joints[joint_index(finger, 2)]) for finger in fingers)
    return int(between[(seam.positions[between] @ direction).argmin()])


def _joint_length(hand: GenericHand, seam: Seam, landmark: Landmark, tip: int, web: int) -> float:
    """Arc length where the seam, followed from a finger's tip towards a web or the wrist, first crosses the joint."""
    plane = joint_plane(hand.joints, hand.tips, landmark.finger, landmark.joint)
    samples = np.arange(tip, web + 1) if web > tip else np.arange(tip, web - 1, -1)
    allowed = [FINGERS.index(landmark.finger)] + ([WRIST_LABEL] if landmark.joint == 1 else [])
    samples = samples[np.isin(seam.label[samples], allowed)]
    height = plane.signed_distance(seam.positions[samples])
    after = int(np.flatnonzero(height < 0)[0])
    share = height[after - 1] / (height[after - 1] - height[after])
    first, second = seam.length[samples[[after - 1, after]]]
    return float(first + share * (second - first))


def landmark_lengths(hand: GenericHand, seam: Seam) -> Floats:
    """Arc length in metres of every landmark on the source hand's seam, strictly increasing (else ValueError)."""
    order = [landmark.finger for landmark in LANDMARKS if landmark.kind == "tip"]
    tips = {finger: _tip_sample(hand, seam, finger) for finger in order}
    webs = {a: _web_sample(hand, seam, (a, b), tips) for a, b in pairwise(order)}
    fences = [0, *webs.values(), len(seam.length) - 1]
    tip_position = {landmark.finger: landmark.position for landmark in LANDMARKS if landmark.kind == "tip"}
    lengths = []
    for landmark in LANDMARKS:
        if landmark.kind == "end":
            lengths.append(seam.length[0 if landmark.position == 0 else -1])
        elif landmark.kind == "tip":
            lengths.append(seam.length[tips[landmark.finger]])
        elif landmark.kind == "web":
            lengths.append(seam.length[webs[landmark.finger]])
        else:
            beyond = landmark.position > tip_position[landmark.finger]
            fence = fences[order.index(landmark.finger) + beyond]
            lengths.append(_joint_length(hand, seam, landmark, tips[landmark.finger], fence))
    if not (np.diff(lengths) > 0).all():
        raise ValueError(f"landmark_lengths: the landmarks are out of order: {np.round(lengths, 4)}")
    return np.array(lengths)


def mean_value_weights(points: Floats, faces: Integers) -> coo_matrix:
    """Mean-value weights w(i, j) = (tan(alpha / 2) + tan(beta / 2)) / |ij|, all positive.

    alpha and beta are the angles at i in the two triangles at the edge ij (Floater, Mean value coordinates, CAGD 2003).
    """
    rows, columns, values = [], [], []
    for turn in range(3):
        here, first, second = (faces[:, (turn + shift) % 3] for shift in range(3))
        a, b = points[first] - points[here], points[second] - points[here]
        length_a, length_b = np.linalg.norm(a, axis=1), np.linalg.norm(b, axis=1)
        angle = np.arccos(((a * b).sum(axis=1) / (length_a * length_b)).clip(-1.0, 1.0))
        for other, length in ((first, length_a), (second, length_b)):
            rows.append(here)
            columns.append(other)
            values.append(np.tan(angle / 2) / length)
    size = len(points)
    return coo_matrix((np.concatenate(values), (np.concatenate(rows), np.concatenate(columns))), shape=(size, size))


def disc_map(chart: Chart, seam_share: Floats) -> Floats:
    """Map a chart into the unit disc, (N, 2).

    The boundary is convex and the weights are positive, so no triangle is flipped (Tutte, How to draw a graph, 1963;
    Floater, Parametrization and smooth approximation of surface triangulations, CAGD 1997).

    Args:
        chart: the chart.
        seam_share: (len(chart.seam),) place of each seam point, from 0 at the thumb's side to 1 at the other.
    """
    wrist_length = arc_length(chart.points[chart.wrist])
    angle = np.zeros(len(chart.points))
    angle[chart.wrist] = SEAM_SHARE + (1 - SEAM_SHARE) * wrist_length / wrist_length[-1]
    angle[chart.seam] = SEAM_SHARE * seam_share
    angle *= 2 * np.pi
    boundary = np.union1d(chart.seam, chart.wrist)
    disc = np.zeros((len(chart.points), 2))
    disc[boundary] = np.stack([np.cos(angle[boundary]), np.sin(angle[boundary])], axis=1)

    weights = mean_value_weights(chart.points, chart.faces).tocsr()
    laplacian = (diags(np.asarray(weights.sum(axis=1)).ravel()) - weights).tocsr()
    inner = np.setdiff1d(np.arange(len(chart.points)), boundary)
    right_side = -laplacian[inner][:, boundary] @ disc[boundary]
    disc[inner] = spsolve(laplacian[inner][:, inner].tocsc(), right_side)
    return disc


def signed_areas(points: Floats, faces: Integers) -> Floats:
    """Twice the signed area (F,) of triangles in the plane."""
    corner = points[faces]
    first, second = corner[:, 1] - corner[:, 0], corner[:, 2] - corner[:, 0]
    return first[:, 0] * second[:, 1] - first[:, 1] * second[:, 0]


def locate(points: Floats, positions: Floats, faces: Integers) -> tuple[Integers, Floats]:
    """The triangle (N,) of a planar mesh around each point (N, 2), and the point's barycentric coordinates (N, 3)."""
    corner = positions[faces]
    basis = np.linalg.inv(np.stack([corner[:, 1] - corner[:, 0], corner[:, 2] - corner[:, 0]], axis=2))
    pair = np.einsum("fij,nfj->nfi", basis, points[:, None] - corner[None, :, 0])
    barycentric = np.concatenate([1.0 - pair.sum(axis=2, keepdims=True), pair], axis=2)
    face = barycentric.min(axis=2).argmax(axis=1)
    return face, barycentric[np.arange(len(points)), face]


def _lift_chart(mano: Chart, generic: Chart, mano_share: Floats, generic_share: Floats) -> Floats:
    """Positions (N, 3) on the source hand for the points of a MANO chart, through the disc that both are mapped to."""
    mano_disc, generic_disc = disc_map(mano, mano_share), disc_map(generic, generic_share)
    for name, disc, chart in (("MANO", mano_disc, mano), ("source", generic_disc, generic)):
        signs = np.sign(signed_areas(disc, chart.faces))
        if abs(signs.sum()) != len(signs):
            raise ValueError(f"_lift_chart: the disc map of the {name} chart has flipped triangles")
    face, barycentric = locate(mano_disc, generic_disc, generic.faces)
    lifted = (generic.points[generic.faces[face]] * barycentric[:, :, None]).sum(axis=1)

    own, source = arc_length(mano.points[mano.wrist]), arc_length(generic.points[generic.wrist])
    lifted[mano.wrist] = interpolate(own / own[-1], source / source[-1], generic.points[generic.wrist])
    lifted[mano.seam] = interpolate(mano_share, generic_share, generic.points[generic.seam])
    return lifted


@dataclass(frozen=True)
class Correspondence:
    """The first placement: vertices (778, 3) in metres, and the source hand's web points by their first finger."""

    vertices: Floats
    webs: dict[str, Floats]


def place_on_generic_hand(layout: ManoLayout, whole_hand: GenericHand) -> Correspondence:
    """Place MANO's vertices on the source hand's surface without a fold."""
    hand = clip_hand(whole_hand)
    charts = generic_charts(hand)
    seam = sample_seam(hand, charts[PALM])
    at = landmark_lengths(hand, seam)

    mano_length = seam_lengths(layout)
    mano_at = np.interp([landmark.position for landmark in LANDMARKS], np.arange(len(mano_length)), mano_length)
    generic_knots = arc_length(charts[PALM].points[charts[PALM].seam])
    mano_share = mano_length / mano_length[-1]
    generic_share = np.interp(generic_knots, at, mano_at) / mano_length[-1]

    vertices = np.zeros((int(layout.faces.max()) + 1, 3))
    for mano, generic in zip(layout.charts, charts, strict=True):
        vertices[mano.vertex] = _lift_chart(mano, generic, mano_share, generic_share)
    webs = {
        landmark.finger: interpolate(at[[index]], seam.length, seam.positions)[0]
        for index, landmark in enumerate(LANDMARKS)
        if landmark.kind == "web"
    }
    return Correspondence(vertices, webs)
