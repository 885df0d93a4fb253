from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import grid_sample

from texalign._internal import Draws
from texalign.hand import rotation_matrices
from texalign.rasterize import select_backend
from texalign.surface import HandSurface, vertex_normals
from texalign.synthetic.arm import draw_arm, outward, wrist_loop
from texalign.synthetic.lighting import Light, openness, reached, shaded
from texalign.synthetic.placement import Placed
from texalign.synthetic.scenery import palette

_NEAR = 0.01  # metres, as the renderer's
_NOTHING = 1e3  # metres: the depth of an empty pixel


class Layer(NamedTuple):
    """Something drawn on nothing: colour times alpha (B, 3, S, S), alpha (B, 1, S, S), depth (B, 1, S, S), metres.

    The depth is 1e3 where there is nothing.
    """

    colour: Tensor
    alpha: Tensor
    depth: Tensor

    def over(self, image: Tensor, visible: Tensor | float = 1.0) -> Tensor:
        """The image with this layer, or the visible share of it, before it."""
        return self.colour * visible + (1 - self.alpha * visible) * image


def hand_layer(draws: Draws, surface: HandSurface, placed: Placed, albedo: Tensor, light: Light, size: int) -> Layer:
    """The hand, lit, in its own shadow. `albedo` (B, 3, T, T) is linear."""
    vertices = placed.vertices
    normals = vertex_normals(vertices, surface.faces)
    # How dark crevices look depends on what is around, of which the approximation knows nothing.
    open_share = openness(vertices, normals, surface.faces)[..., None] ** draws.uniform(1, 1, low=0.8, high=2.0)
    offsets = draws.normal(5, 2)
    points = placed.camera.homogeneous(vertices)
    backend = select_backend("auto", vertices.device)
    found = backend.rasterize(points, surface.faces, size, size, _NEAR)
    at_vertices = torch.cat([normals, vertices, open_share], dim=-1)
    at_pixels = backend.interpolate(at_vertices, surface.faces, found).flatten(1, 2)
    uv = backend.interpolate(surface.uv[None], surface.uv_faces, found)
    colour = grid_sample(surface.dilated(albedo), 2 * uv - 1, padding_mode="border", align_corners=False)
    colour = colour.flatten(2).transpose(1, 2)
    normal, point, open_share = at_pixels[..., :3], at_pixels[..., 3:6], at_pixels[..., 6:].clamp(0, 1)
    normal = outward(normal, point)
    lit = reached(surface, vertices, point, normal, light, offsets)
    radiance = shaded(colour, normal, point, open_share, lit, light)
    return _layer(found, points, surface.faces, surface.twins, radiance, point[..., 2:])


def arm_layer(draws: Draws, surface: HandSurface, placed: Placed, albedo: Tensor, light: Light, size: int) -> Layer:
    """Forearm and sleeve. `albedo` (B, 3, T, T), linear, is the hand's."""
    loop = wrist_loop(surface)
    corner = torch.stack([(surface.faces == vertex).flatten().nonzero()[0, 0] for vertex in loop])
    uv = surface.uv[surface.uv_faces.flatten()[corner]]
    grid = (2 * uv - 1)[None, None].expand(draws.count, -1, -1, -1)
    skin = grid_sample(albedo, grid, align_corners=False)[:, :, 0].transpose(1, 2)
    sleeve = palette(draws, skin.mean(dim=1), 2)
    turn = rotation_matrices(placed.pose[:, 0])
    arm = draw_arm(draws, placed.vertices[:, loop], placed.joints[:, 0], turn, skin, sleeve)
    points = placed.camera.homogeneous(arm.vertices)
    backend = select_backend("auto", points.device)
    found = backend.rasterize(points, arm.faces, size, size, _NEAR)
    normals = vertex_normals(arm.vertices, arm.faces)
    at_vertices = torch.cat([normals, arm.vertices, arm.albedo], dim=-1)
    at_pixels = backend.interpolate(at_vertices, arm.faces, found).flatten(1, 2)
    normal, point, colour = at_pixels.split(3, dim=-1)
    radiance = shaded(colour, outward(normal, point), point, 0.9, 1.0, light)
    return _layer(found, points, arm.faces, arm.twins, radiance, point[..., 2:])


def _layer(found: Any, points: Tensor, faces: Tensor, twins: Tensor, radiance: Tensor, depth: Tensor) -> Layer:
    """Antialias radiance (B, S · S, 3) and collect depth (B, S · S, 1)."""
    covered = (found.face_index >= 0)[..., None]
    drawn = radiance.reshape(*covered.shape[:3], 3) * covered
    drawn = torch.cat([drawn, covered.to(radiance.dtype)], dim=-1)
    drawn = select_backend("auto", points.device).antialias(drawn, found, points, faces, twins).permute(0, 3, 1, 2)
    nearest = torch.where(covered, depth.reshape(covered.shape), _NOTHING).permute(0, 3, 1, 2)
    return Layer(drawn[:, :3].clamp(min=0), drawn[:, 3:].clamp(0, 1), nearest)
