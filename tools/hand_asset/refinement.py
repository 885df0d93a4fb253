"""Even out the first placement: keep to the surface, approach the UV layout's shapes, lead joint rows to the joints."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from correspondence import Correspondence, joint_plane
from generic_hand import BACK, FINGERS, Floats, GenericHand, Integers, joint_index, unit, vertex_normals
from mano_layout import TIP_VERTICES, WRIST_LOOP, ManoLayout, directed_edges, joint_rings, web_vertices
from surface_projection import SurfaceProjector

ITERATIONS = 1000
LEARNING_RATE = 1.5e-4
PROJECTION_INTERVAL = 5
# The share of the iterations in which joint rows and tips are led to their targets. At once, they would crush what
# lies between.
RAMP_SHARE = 0.6
# The tip vertices sit slightly to the nail side of the bone's axis in the UV layout.
NAIL_TILT_DEGREES = 15.0

# Distances to the surface are measured at the vertices and inside the faces: at the centre and at the three points of
# the degree-2 quadrature (Strang and Fix, An Analysis of the Finite Element Method, 1973). With the vertices alone, the
# faces would be chords below a convex surface.
FACE_SAMPLES = np.array([[2, 2, 2], [4, 1, 1], [1, 4, 1], [1, 1, 4]]) / 6.0
VERTEX_SHARE = 0.4

# Weights of the loss terms, which are squared metres or pure numbers.
CONFORMAL_WEIGHT = 2e-6
AREA_WEIGHT = 5e-7
PLANE_WEIGHT = 1.5
POINT_WEIGHT = 0.3
NORMAL_WEIGHT = 3e-5
ANGLE_WEIGHT = 5e-4
RING_WEIGHT = 0.3
TIP_WEIGHT = 0.2
WEB_WEIGHT = 0.01
WRIST_WEIGHT = 3.0

# Cosines below which two normals start to cost, and the corner angle below which a corner does.
SURFACE_COSINE = 0.6
NEIGHBOUR_COSINE = 0.4
SMALL_ANGLE_DEGREES = 20.0


def adjacent_faces(faces: Integers) -> Integers:
    """Pairs (P, 2) of faces that share an edge."""
    owner: dict[tuple[int, int], int] = {}
    pairs = []
    for index, (a, b) in enumerate(directed_edges(faces).tolist()):
        face = index % len(faces)
        if (b, a) in owner:
            pairs.append((owner[b, a], face))
        owner[a, b] = face
    return np.array(pairs)


def nail_direction(hand: GenericHand, finger: str) -> Floats:
    """The mean direction in which the back of a finger's last segment faces, square to the distal bone."""
    share = hand.weights[:, joint_index(finger, 3)] * (hand.chart == BACK)
    mean = (vertex_normals(hand.vertices, hand.faces) * share[:, None]).sum(axis=0)
    bone = unit(hand.tips[FINGERS.index(finger)] - hand.joints[joint_index(finger, 3)])
    return unit(mean - (mean @ bone) * bone)


def first_exit(hand: GenericHand, origin: Floats, direction: Floats) -> Floats:
    """The point (3,) where a ray leaves the hand (Moeller and Trumbore, Fast ray-triangle intersection, 1997)."""
    corner = hand.vertices[hand.faces]
    first, second = corner[:, 1] - corner[:, 0], corner[:, 2] - corner[:, 0]
    cross = np.cross(direction, second)
    determinant = (first * cross).sum(axis=1)
    determinant[np.abs(determinant) < 1e-18] = np.inf
    offset = origin - corner[:, 0]
    u = (offset * cross).sum(axis=1) / determinant
    other = np.cross(offset, first)
    v = other @ direction / determinant
    distance = (second * other).sum(axis=1) / determinant
    hit = (u >= 0) & (v >= 0) & (u + v <= 1) & (distance > 0)
    return origin + distance[hit].min() * direction


def tip_targets(hand: GenericHand) -> Floats:
    """Where each finger's pair of tip vertices should have its middle, (5, 3), in the order of `FINGERS`."""
    angle = np.radians(NAIL_TILT_DEGREES)
    targets = []
    for index, finger in enumerate(FINGERS):
        bone = unit(hand.tips[index] - hand.joints[joint_index(finger, 3)])
        direction = np.cos(angle) * bone + np.sin(angle) * nail_direction(hand, finger)
        targets.append(first_exit(hand, hand.tips[index], direction))
    return np.array(targets)


class Ring(NamedTuple):
    """A joint's row of vertices (N,), a plane (point and normal, (3,)) and its first distances (N,) to that plane."""

    vertices: Tensor
    point: Tensor
    normal: Tensor
    first_distance: Tensor


@dataclass(frozen=True)
class Goal:
    """All that stays the same during the refinement, as tensors."""

    faces: Tensor
    pairs: Tensor
    inverse_uv: Tensor
    face_share: Tensor
    rings: list[Ring]
    tip_vertices: Tensor
    first_tips: Tensor
    tip_targets: Tensor
    web_vertices: Tensor
    web_targets: Tensor
    wrist_vertices: Tensor
    wrist_point: Tensor
    wrist_normal: Tensor


def make_goal(layout: ManoLayout, hand: GenericHand, start: Correspondence) -> Goal:
    """Collect the targets."""
    corner = layout.uv[layout.uv_faces]
    uv_edges = np.stack([corner[:, 1] - corner[:, 0], corner[:, 2] - corner[:, 0]], axis=2)
    root_area = np.sqrt(np.abs(np.linalg.det(uv_edges)))
    rings = []
    for (finger, number), vertices in joint_rings(layout).items():
        plane = joint_plane(hand.joints, hand.tips, finger, number)
        distance = plane.signed_distance(start.vertices[vertices])
        rings.append(Ring(*(torch.as_tensor(array) for array in (vertices, plane.point, plane.normal, distance))))
    tips = np.array([TIP_VERTICES[finger] for finger in FINGERS])
    # A web is one vertex or the middle of two: write one vertex twice.
    webs = {finger: np.resize(vertices, 2) for finger, vertices in web_vertices(layout).items()}
    return Goal(
        faces=torch.as_tensor(layout.faces),
        pairs=torch.as_tensor(adjacent_faces(layout.faces)),
        inverse_uv=torch.as_tensor(np.linalg.inv(uv_edges)),
        face_share=torch.as_tensor(root_area / root_area.sum()),
        rings=rings,
        tip_vertices=torch.as_tensor(tips),
        first_tips=torch.as_tensor(start.vertices[tips].mean(axis=1)),
        tip_targets=torch.as_tensor(tip_targets(hand)),
        web_vertices=torch.as_tensor(np.array(list(webs.values()))),
        web_targets=torch.as_tensor(np.array([start.webs[finger] for finger in webs])),
        wrist_vertices=torch.as_tensor(np.array(WRIST_LOOP)),
        wrist_point=torch.as_tensor(hand.wrist_plane.point),
        wrist_normal=torch.as_tensor(hand.wrist_plane.normal),
    )


def face_crosses(vertices: Tensor, faces: Tensor) -> Tensor:
    """Face normals (F, 3) of twice the face's area."""
    corner = vertices[faces]
    return torch.linalg.cross(corner[:, 1] - corner[:, 0], corner[:, 2] - corner[:, 0])


def shape_terms(vertices: Tensor, goal: Goal) -> Tensor:
    """How far faces are from a similarity of their UV shape, and how unevenly the layout is scaled.

    The first is the MIPS energy (Hormann and Greiner, MIPS: an efficient global parametrization method, 2000) of the
    metric tensor of the map from UV to space, squared: (trace / (2 sqrt(det)))^2, 1 for a similarity. The second is
    the mean squared difference of the logarithm of the scale across edges.
    """
    corner = vertices[goal.faces]
    edges = torch.stack([corner[:, 1] - corner[:, 0], corner[:, 2] - corner[:, 0]], dim=2)
    jacobian = edges @ goal.inverse_uv
    metric = jacobian.transpose(1, 2) @ jacobian
    scale = torch.linalg.det(metric).clamp_min(1e-14).sqrt()
    trace = metric.diagonal(dim1=1, dim2=2).sum(dim=1)
    conformal = (goal.face_share * (trace / (2 * scale)) ** 2).sum()
    log_scale = 0.5 * scale.log()
    area = (log_scale[goal.pairs[:, 0]] - log_scale[goal.pairs[:, 1]]).square().mean()
    return CONFORMAL_WEIGHT * conformal + AREA_WEIGHT * area


def angle_term(vertices: Tensor, faces: Tensor) -> Tensor:
    """Mean square, in radians, of how much corner angles fall short of the small angle."""
    corner = vertices[faces]
    first, second = corner.roll(-1, 1) - corner, corner.roll(-2, 1) - corner
    angle = torch.atan2(torch.linalg.cross(first, second).norm(dim=2), (first * second).sum(dim=2))
    return ANGLE_WEIGHT * (np.radians(SMALL_ANGLE_DEGREES) - angle).clamp_min(0).square().mean()


def surface_samples(vertices: Tensor, faces: Tensor) -> Tensor:
    """The vertices, then every sample of `FACE_SAMPLES` on all faces, (V + 4F, 3)."""
    corner = vertices[faces]
    inside = [(corner * share[:, None]).sum(dim=1) for share in torch.as_tensor(FACE_SAMPLES)]
    return torch.cat([vertices, *inside])


def surface_terms(vertices: Tensor, goal: Goal, closest: Tensor, normals: Tensor) -> Tensor:
    """Distance to the surface and agreement with its normals.

    Args:
        vertices: (V, 3).
        goal: the targets.
        closest: (V + 4F, 3) the closest surface point of each of the `surface_samples`.
        normals: (V + 4F, 3) unit normals there.
    """
    count, face_count = len(vertices), len(goal.faces)
    offset = surface_samples(vertices, goal.faces) - closest
    to_plane, to_point = (offset * normals).sum(dim=1).square(), offset.square().sum(dim=1)
    cost = PLANE_WEIGHT * to_plane + POINT_WEIGHT * to_point
    crosses = face_crosses(vertices, goal.faces)
    # Half of a face's say is its area, half is the same for all, so that fingertips with their small faces count too.
    area = crosses.detach().norm(dim=1)
    share = 0.5 * area / area.sum() + 0.5 / face_count
    on_faces = (cost[count:].reshape(-1, face_count).mean(dim=0) * share).sum()

    face_normal = torch.nn.functional.normalize(crosses, dim=1, eps=1e-18)
    facing = (face_normal * normals[count : count + face_count]).sum(dim=1)
    neighbour = (face_normal[goal.pairs[:, 0]] * face_normal[goal.pairs[:, 1]]).sum(dim=1)
    tilt = (SURFACE_COSINE - facing).clamp_min(0).square().mean()
    fold = (NEIGHBOUR_COSINE - neighbour).clamp_min(0).square().mean()
    return VERTEX_SHARE * cost[:count].mean() + (1 - VERTEX_SHARE) * on_faces + NORMAL_WEIGHT * (tilt + fold)


def anatomy_terms(vertices: Tensor, goal: Goal, progress: float) -> Tensor:
    """Joint rows on joint planes, tips, webs and the wrist; progress in [0, 1] leads the first two to their targets."""
    left = 1.0 - progress
    off_plane = [
        (vertices[ring.vertices] - ring.point) @ ring.normal - left * ring.first_distance for ring in goal.rings
    ]
    tips = goal.tip_targets + left * (goal.first_tips - goal.tip_targets)
    tip = (vertices[goal.tip_vertices].mean(dim=1) - tips).square().sum(dim=1).mean()
    web = (vertices[goal.web_vertices].mean(dim=1) - goal.web_targets).square().sum(dim=1).mean()
    wrist = ((vertices[goal.wrist_vertices] - goal.wrist_point) @ goal.wrist_normal).square().mean()
    ring = torch.cat(off_plane).square().mean()
    return RING_WEIGHT * ring + TIP_WEIGHT * tip + WEB_WEIGHT * web + WRIST_WEIGHT * wrist


def project(vertices: Tensor, faces: Tensor, projector: SurfaceProjector) -> tuple[Tensor, Tensor]:
    """Closest points and their normals, (V + 4F, 3) each, for the `surface_samples`."""
    fixed = vertices.detach()
    at_vertices = vertex_normals(fixed.numpy(), faces.numpy())
    on_faces = np.tile(unit(face_crosses(fixed, faces).numpy()), (len(FACE_SAMPLES), 1))
    found = projector(surface_samples(fixed, faces).numpy(), np.concatenate([at_vertices, on_faces]))
    return torch.as_tensor(found.positions), torch.as_tensor(found.normals)


def refine(layout: ManoLayout, hand: GenericHand, start: Correspondence, projector: SurfaceProjector) -> Floats:
    """Minimise all terms by Adam from the first placement and put the wrist exactly on its plane; (778, 3) metres."""
    goal = make_goal(layout, hand, start)
    vertices = torch.tensor(start.vertices, requires_grad=True)
    optimizer = torch.optim.Adam([vertices], lr=LEARNING_RATE)
    decay = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1.0 - step / ITERATIONS)
    for step in range(ITERATIONS):
        if step % PROJECTION_INTERVAL == 0:
            closest, normals = project(vertices, goal.faces, projector)
        progress = min(1.0, step / (RAMP_SHARE * ITERATIONS))
        optimizer.zero_grad()
        loss = shape_terms(vertices, goal) + angle_term(vertices, goal.faces)
        loss = loss + surface_terms(vertices, goal, closest, normals) + anatomy_terms(vertices, goal, progress)
        loss.backward()
        optimizer.step()
        decay.step()
    result = vertices.detach().numpy().copy()
    loop = np.array(WRIST_LOOP)
    result[loop] -= hand.wrist_plane.signed_distance(result[loop])[:, None] * hand.wrist_plane.normal
    return result
