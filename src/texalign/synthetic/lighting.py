from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import grid_sample

from texalign._internal import Draws
from texalign.camera import PinholeCamera
from texalign.rasterize import select_backend
from texalign.surface import HandSurface
from texalign.synthetic.colour import tint


class Light(NamedTuple):
    """The light of a scene, in the camera's frame and linear colour.

    Attributes:
        towards: (B, 2, 3) unit vectors to the two distant lights; the first casts shadows.
        colour: (B, 2, 3) of those.
        sky, ground: (B, 3) of light from above and from below, which comes from everywhere on its side.
        up: (B, 3) unit vector.
        wrap: (B, 3) how far light reaches round the edge of a shadow, red farther than blue, as skin lets it.
        shadow_softness: (B,) metres.
        gloss: (B,) how much the surface mirrors, and
        sharpness: (B,) how narrow the highlight is, Blinn's exponent.
    """

    towards: Tensor
    colour: Tensor
    sky: Tensor
    ground: Tensor
    up: Tensor
    wrap: Tensor
    shadow_softness: Tensor
    gloss: Tensor
    sharpness: Tensor


def unit(vectors: Tensor) -> Tensor:
    """Vectors (..., 3) of length 1, zero for zero. On images held by channel ten times as fast as `normalize`."""
    return vectors / vectors.square().sum(-1, keepdim=True).sqrt().clamp(min=1e-12)


def draw_light(draws: Draws) -> Light:
    """From overcast sky to a lone lamp, mostly from above or from the camera's side; one in six is neon."""
    bias = draws.directions(2)
    towards = unit(bias + draws.uniform(2, 1, low=0.0, high=1.0) * bias.new_tensor([0.0, -0.7, -0.7]))
    diffuse = 0.08 + 0.87 * draws.uniform(1) ** 1.4
    colour = tint(0.4 * draws.normal(4), 0.2 * draws.normal(4))
    neon = draws.chance(0.17, 1, 1) * draws.chance(0.6, 4, 1)
    colour = torch.lerp(colour, 2 * draws.uniform(4, 3) ** 1.5 + 0.05, neon)
    second = draws.chance(0.5, 1) * draws.uniform(1, low=0.1, high=0.8)
    direct = 1.5 * (1 - diffuse)
    below = draws.uniform(1, low=0.15, high=1.0)
    return Light(
        towards=towards,
        colour=torch.stack([direct * (1 - 0.5 * second) * colour[:, 0], direct * second * colour[:, 1]], dim=1),
        sky=diffuse * colour[:, 2],
        ground=diffuse * below * colour[:, 3],
        up=unit(0.5 * draws.normal(3) + bias.new_tensor([0.0, -1.0, 0.0])),
        wrap=draws.uniform(1, high=1.5) * bias.new_tensor([0.30, 0.18, 0.14]),
        shadow_softness=draws.log_uniform(low=0.001, high=0.02),
        gloss=draws.uniform() ** 3 * 0.35,
        sharpness=draws.log_uniform(low=6.0, high=60.0),
    )


def shaded(
    albedo: Tensor, normal: Tensor, point: Tensor, open_share: Tensor | float, lit: Tensor | float, light: Light
) -> Tensor:
    """Linear radiance (B, N, 3) of a surface: two wrapped Lambert lights, light from above and below, a highlight.

    Args:
        albedo: (B, N, 3) linear.
        normal: (B, N, 3) of any length, towards the camera's side.
        point: (B, N, 3) metres, in the camera's frame.
        open_share: (B, N, 1) in [0, 1], the share of ambient light that reaches the point.
        lit: (B, N, 1) in [0, 1], the share of the first light that does.
        light: of the B scenes.
    """
    normal = unit(normal)
    # Light bounced between skin and skin keeps its colour (Jimenez et al., "Practical realtime strategies for accurate
    # indirect occlusion", 2016, as a geometric series).
    bounced = open_share / (1 - albedo * (1 - open_share))
    above = 0.5 + 0.5 * (normal * light.up[:, None]).sum(-1, keepdim=True)
    arriving = torch.lerp(light.ground[:, None], light.sky[:, None], above) * bounced
    towards_camera = -unit(point)
    highlights = torch.zeros_like(albedo)
    wrap = light.wrap[:, None]
    for number in range(2):
        towards = light.towards[:, None, number]
        colour = light.colour[:, None, number] * (lit if number == 0 else open_share)
        facing = ((normal * towards).sum(-1, keepdim=True) + wrap) / (1 + wrap)
        arriving = arriving + facing.clamp(min=0) * colour
        halfway = unit(towards + towards_camera)
        highlight = (normal * halfway).sum(-1).clamp(min=1e-4) ** light.sharpness[:, None]
        highlights = highlights + (light.gloss[:, None] * highlight)[..., None] * colour
    return albedo * arriving + highlights


def openness(vertices: Tensor, normals: Tensor, faces: Tensor) -> Tensor:
    """Share of the hemisphere over each vertex that the rest of the mesh leaves open, (B, V), about.

    Every second vertex is a disc of its faces' area; what discs cover is summed by their form factors (Bunnell,
    "Dynamic ambient occlusion and indirect lighting", GPU Gems 2, 2005). Discs in each other's shadow count twice,
    hence the exponential instead of a subtraction.

    Args:
        vertices, normals: (B, V, 3).
        faces: (F, 3).
    """
    corners = vertices[:, faces]
    area = torch.linalg.cross(corners[:, :, 1] - corners[:, :, 0], corners[:, :, 2] - corners[:, :, 0]).norm(dim=-1) / 6
    disc_area = torch.zeros_like(vertices[..., 0])
    for corner in range(3):
        disc_area = disc_area.index_add(1, faces[:, corner], area)
    centred = vertices - vertices.mean(dim=1, keepdim=True)
    # One hand at a time: its 300,000 pairs fit into a processor's cache.
    covered = [_covered(*hand) for hand in zip(centred, normals, disc_area)]
    return torch.exp(-1.3 * torch.stack(covered)) if covered else torch.ones_like(disc_area)


def _covered(points: Tensor, normals: Tensor, disc_area: Tensor) -> Tensor:
    """Sum of the discs' form factors at the vertices (V,) of one mesh: points and normals (V, 3), areas (V,)."""
    discs, disc_normals, disc_area = points[::2], normals[::2], 2 * disc_area[::2]
    # n · (q − p) and |q − p|² for all pairs, by products of matrices.
    rising = normals @ discs.t() - (normals * points).sum(-1)[:, None]
    falling = points @ disc_normals.t() - (discs * disc_normals).sum(-1)
    square = points.square().sum(-1)[:, None] + discs.square().sum(-1) - 2 * points @ discs.t()
    square = square.clamp_(min=1e-7)
    factor = rising.clamp_(min=0).mul_(falling.clamp_(min=0)).mul_(disc_area)
    return factor.div_(square * (torch.pi * square + disc_area)).sum(-1)


def reached(
    surface: HandSurface, vertices: Tensor, points: Tensor, normals: Tensor, light: Light, offsets: Tensor
) -> Tensor:
    """Share of the first light that reaches each point (B, N, 1), from a shadow map of the hand.

    Args:
        surface: of the vertices.
        vertices: (B, V, 3) metres.
        points: (B, N, 3) metres, on the hand.
        normals: (B, N, 3) there. Where they turn away from the light, the map cannot say what is in the hand's own
            shadow: light that skin carries round the edge is dimmed evenly instead.
        light: of the B scenes.
        offsets: (B, S, 2) unit offsets; the map is looked up so often, at offsets times the light's softness.
    """
    size = 96
    centre = vertices.mean(dim=1, keepdim=True)
    centred = vertices - centre
    radius = centred.norm(dim=-1).amax(dim=1).clamp(min=1e-6)
    ray = light.towards[:, 0]
    across = unit(torch.linalg.cross(ray, ray.roll(1, dims=1) + ray.new_tensor([0.3, 0.0, 0.0])))
    frame = torch.stack([across, torch.linalg.cross(ray, across, dim=-1), -ray], dim=2)  # z runs with the light
    # Seen from twenty metres: parallel light, nearly.
    away = ray.new_tensor([0.0, 0.0, 20.0])
    turned = centred @ frame + away
    focal = (20 * 0.47 * size / radius)[:, None].expand(-1, 2)
    camera = PinholeCamera(focal, torch.full_like(focal, size / 2))
    backend = select_backend("auto", vertices.device)
    homogeneous = camera.homogeneous(turned)
    found = backend.rasterize(homogeneous, surface.faces, size, size, 0.01)
    depth = backend.interpolate(turned[..., 2:], surface.faces, found).permute(0, 3, 1, 2)
    depth = torch.where(found.face_index[:, None] >= 0, depth, 1e3)
    seen = (points - centre) @ frame + away
    step = offsets * (light.shadow_softness / radius)[:, None, None]
    grid = (camera.project(seen) / (size / 2) - 1)[:, None] + 0.47 * step[:, :, None]
    nearest = grid_sample(depth, grid, mode="nearest", padding_mode="border", align_corners=False)[:, 0]
    margin = (0.003 + 1.5 * light.shadow_softness)[:, None, None]
    clear = ((nearest + margin - seen[:, None, :, 2]) / 0.002).clamp(0, 1)
    facing = (unit(normals) * ray[:, None]).sum(-1)
    return torch.lerp(clear.new_tensor(0.3), clear.mean(dim=1), (facing / 0.2).clamp(0, 1))[..., None]
