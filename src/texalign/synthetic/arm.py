from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from texalign._internal import Draws, computes_constants
from texalign.hand import rotation_matrices
from texalign.surface import HandSurface, twin_edges

_RINGS = 7  # of each tube
# Metres from the wrist's edge to each ring of the forearm.
_STATIONS = (-0.004, 0.012, 0.03, 0.06, 0.11, 0.18, 0.28)


class Arm(NamedTuple):
    """Forearm and sleeve that continue a hand: two tubes of 7 rings on the wrist's boundary loop of L vertices.

    Attributes:
        vertices: (B, 14 L, 3) metres, in the hand's frame: forearm, then sleeve. A tube that is not there lies behind
            the camera, at z = −1.
        faces, twins: (F, 3) int64, as in `HandSurface`.
        albedo: (B, 14 L, 3) linear.
    """

    vertices: Tensor
    faces: Tensor
    twins: Tensor
    albedo: Tensor


def wrist_loop(surface: HandSurface) -> Tensor:
    """(L,) int64: the vertices around the open wrist, in order."""
    return torch.tensor(surface.boundary_loops[0], device=surface.faces.device)


def draw_arm(draws: Draws, loop: Tensor, wrist: Tensor, turn: Tensor, skin: Tensor, colours: Tensor) -> Arm:
    """A forearm bent at the wrist, bare, in a sleeve that may reach over the hand, with a strap, or none at all.

    Args:
        draws: of the B images.
        loop: (B, L, 3) metres, in the camera's frame: the wrist's edge.
        wrist: (B, 3) the wrist joint.
        turn: (B, 3, 3) the hand's global orientation.
        skin: (B, L, 3) linear albedo of the hand at the loop.
        colours: (B, 2, 3) linear, the sleeve's.
    """
    batch, around = loop.shape[:2]
    local = (loop - wrist[:, None]) @ turn  # the frame of the hand at rest: the arm runs towards +x
    middle = local.mean(dim=1, keepdim=True)
    bend = draws.normal(3).clamp(-2, 2) * local.new_tensor([0.15, 0.22, 0.40])  # twist, deviation, flexion
    growth = draws.uniform(1, low=0.0, high=3.0)
    bare = _tube(local, middle, local.new_tensor(_STATIONS).expand(batch, -1), 0.975, bend, growth)
    start = draws.uniform(1, low=-0.018, high=0.09)
    # A short sleeve is a bracelet, or a watch's strap.
    strap = draws.chance(0.18, 1)
    stations = start + (local.new_tensor(_STATIONS) - _STATIONS[0]) * (1 - 0.93 * strap)
    thickness = 1.08 + (1 - strap) * draws.uniform(1, low=0.02, high=0.6)
    sleeve = _tube(local, middle, stations, thickness[..., None, None], bend, growth)
    present = draws.uniform()
    tubes = torch.stack([bare, sleeve], dim=1).flatten(2, 3) @ turn[:, None].transpose(2, 3)
    tubes = tubes + wrist[:, None, None]
    # An arm that reaches past the camera is squashed before it; it fills the frame either way.
    tubes = torch.cat([tubes[..., :2], torch.maximum(tubes[..., 2:], 0.35 * wrist[:, None, None, 2:])], dim=-1)
    shown = torch.stack([present > 0.06, present > 0.45], dim=1)
    tubes = torch.where(shown[:, :, None, None], tubes, tubes.new_tensor([0.0, 0.0, -1.0]))
    return Arm(tubes.flatten(1, 2), *_topology(around, loop.device), _albedo(draws, skin, colours))


def _tube(
    loop: Tensor, middle: Tensor, stations: Tensor, thickness: float | Tensor, bend: Tensor, growth: Tensor
) -> Tensor:
    """Rings (B, 7, L, 3) around a path that leaves the wrist along +x and bends over the first centimetres.

    Args:
        loop: (B, L, 3) the wrist's edge, metres, in the frame of the hand at rest.
        middle: (B, 1, 3) of it.
        stations: (B, 7) metres along the path.
        thickness: of the tube against the wrist.
        bend: (B, 3) axis-angle of the arm against the hand.
        growth: (B, 1) how much thicker the arm becomes, per metre.
    """
    turned = (stations / 0.03).clamp(0, 1)
    rotation = rotation_matrices(turned[..., None] * bend[:, None])
    direction = rotation[..., 0]  # where +x goes
    steps = stations.diff(dim=1)[..., None] * 0.5 * (direction[:, 1:] + direction[:, :-1])
    start = stations[:, :1, None] * direction[:, :1]
    path = torch.cat([start, start + steps.cumsum(dim=1)], dim=1)
    rings = torch.einsum("brij,blj->brli", rotation, loop - middle)
    width = (1 + growth * stations.clamp(min=0))[..., None, None] * thickness
    return rings * width + (path + middle)[:, :, None]


@lru_cache(maxsize=4)
@computes_constants
def _topology(around: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Faces and twins (F, 3) of the two tubes."""
    ring, step = torch.meshgrid(torch.arange(_RINGS - 1), torch.arange(around), indexing="ij")
    a, b = ring * around + step, ring * around + (step + 1) % around
    tube = torch.cat([torch.stack([a, b, a + around], -1), torch.stack([b, b + around, a + around], -1)]).reshape(-1, 3)
    faces = torch.cat([tube, tube + _RINGS * around])
    return faces.to(device), torch.from_numpy(twin_edges(faces.numpy())).to(device)


def _albedo(draws: Draws, skin: Tensor, colours: Tensor) -> Tensor:
    """(B, 14 L, 3): skin that slowly changes away from the wrist (B, L, 3); cloth, plain, striped or patched."""
    around = skin.shape[1]
    change = torch.exp(0.06 * draws.normal(_RINGS, 1, 3).cumsum(dim=1))
    even = skin.mean(dim=1, keepdim=True)[:, None]
    arm = torch.lerp(skin[:, None].expand(-1, _RINGS, -1, -1), even, 0.3) * change
    pattern = torch.stack(
        [
            draws.chance(0.5, _RINGS, 1).expand(-1, -1, around),
            draws.chance(0.5, 1, around).expand(-1, _RINGS, -1),
            draws.uniform(_RINGS, around),
        ],
        dim=-1,
    )
    kind = torch.nn.functional.one_hot(draws.integers(high=3), 3).to(pattern)[:, None, None]
    strength = draws.chance(0.5, 1, 1) * draws.uniform(1, 1) + 0.1
    mixture = ((pattern * kind).sum(-1) * strength)[..., None].clamp(0, 1)
    cloth = torch.lerp(colours[:, 0, None, None], colours[:, 1, None, None], mixture)
    return torch.cat([arm.flatten(1, 2), cloth.flatten(1, 2)], dim=1).clamp(0.002, 0.97)


def outward(normals: Tensor, points: Tensor) -> Tensor:
    """Normals (B, N, 3) turned to the camera's side: a tube is seen from inside as well."""
    return torch.where((normals * points).sum(-1, keepdim=True) > 0, -normals, normals)
