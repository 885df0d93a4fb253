"""Plain images of hands: random skin under one light before a noisy background, nothing in front.

The set-up in which the loss was first tried: 128 pixels, focal length 330, any pose from any side.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import interpolate, normalize

import texalign as ta
from texalign._internal import Draws
from texalign.hand import HandModel, rotation_vectors, sample_pose
from texalign.surface import vertex_normals
from texalign.synthetic import linear_to_srgb, skin_textures

SIZE, FOCAL = 128, 330.0


@dataclass(frozen=True)
class Scenes:
    """B images and what made them: the fields of `texalign.synthetic.SyntheticBatch`.

    But for the texture, (B, 3, 128, 128): it has the light in it.
    """

    image: Tensor
    mask: Tensor
    occluder_mask: Tensor
    vertices: Tensor
    joints: Tensor
    camera: ta.PinholeCamera
    pose: Tensor
    betas: Tensor
    translation: Tensor
    texture: Tensor


def plain_scenes(count: int, generator: torch.Generator) -> Scenes:
    """Right hands, 45 to 65 cm away."""
    surface, model = ta.HandSurface.mano(), HandModel()
    pose = sample_pose(count, generator)
    pose[:, 0] = _any_orientation(count, generator)
    betas = torch.randn(count, 10, generator=generator).clamp(-2, 2)
    hand = model(pose, betas)
    place = torch.randn(count, 3, generator=generator) * torch.tensor([0.02, 0.02, 0.0])
    place[:, 2] = 0.45 + 0.2 * torch.rand(count, generator=generator)
    translation = place - hand.vertices.mean(dim=1)
    vertices = hand.vertices + translation[:, None]
    camera = ta.PinholeCamera(torch.full((count, 2), FOCAL), torch.full((count, 2), SIZE / 2))
    albedo = skin_textures(Draws(count, generator, torch.device("cpu")), 128)
    renderer = ta.TexturedHandRenderer(surface, SIZE, backend="torch")
    texture = linear_to_srgb((albedo * _light(surface, vertices, generator)).clamp(0, 1))
    rendering = renderer(vertices, camera, texture)
    image = rendering.image + (1 - rendering.coverage) * _noise(count, generator)
    image = image + 0.01 * torch.randn(image.shape, generator=generator)
    return Scenes(
        image=image.clamp(0, 1),
        mask=rendering.coverage,
        occluder_mask=torch.zeros_like(rendering.coverage),
        vertices=vertices,
        joints=hand.joints + translation[:, None],
        camera=camera,
        pose=pose,
        betas=betas,
        translation=translation,
        texture=texture,
    )


def _any_orientation(count: int, generator: torch.Generator) -> Tensor:
    """(B, 3) axis-angle, even over all orientations: QR of a Gaussian matrix."""
    q, r = torch.linalg.qr(torch.randn(count, 3, 3, generator=generator))
    q = q * torch.sign(torch.diagonal(r, dim1=1, dim2=2))[:, None]
    q[:, :, 2] *= torch.linalg.det(q)[:, None]
    return rotation_vectors(q)


def _light(surface: ta.HandSurface, vertices: Tensor, generator: torch.Generator) -> Tensor:
    """(B, 1, 128, 128): Lambert's law for one distant light, and as much from everywhere."""
    count = len(vertices)
    direction = torch.randn(count, 1, 3, generator=generator) + torch.tensor([0.0, -0.7, -0.7])
    facing = (vertex_normals(vertices, surface.faces) * normalize(direction, dim=-1)).sum(dim=-1).clamp(min=0)
    ambient = 0.3 + 0.3 * torch.rand(count, 1, generator=generator)
    light = ambient + 1.2 * (1 - ambient) * facing
    texels = surface.texel_map(128)
    face = texels.face_index.flatten()
    weighted = light[:, surface.faces[face.clamp(min=0)]] * texels.barycentric.reshape(1, -1, 3)
    return torch.where(face >= 0, weighted.sum(dim=-1), 1.0).unflatten(1, (1, 128, 128))


def _noise(count: int, generator: torch.Generator) -> Tensor:
    """(B, 3, S, S) between two random colours, by smooth noise of three sizes."""
    mixed = torch.zeros(count, 3, SIZE, SIZE)
    for cells, share in ((6, 0.75), (20, 0.45), (60, 0.3)):
        coarse = share * (2 * torch.rand(count, 3, cells, cells, generator=generator) - 1)
        mixed = mixed + interpolate(coarse, size=SIZE, mode="bilinear", align_corners=False)
    first, second = torch.rand(2, count, 3, 1, 1, generator=generator)
    return torch.lerp(first, second, 0.5 + 0.5 * mixed).clamp(0, 1)
