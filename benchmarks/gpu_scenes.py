"""Hands on a device for the CUDA benchmark, and the steps that are measured on them."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor

import texalign as ta
from renderer import scene
from texalign.hand import HandModel, sample_pose
from texalign.loss import beyond_wrist, region_competition

TEXTURE_SIZE = 256


@cache
def zoom() -> float:
    """Focal length over image size at which an open hand half a metre away covers a third of the image."""
    return float(scene(8, 64)[1].focal[0, 0]) / 64


class Scene:
    """A batch of open hands, images of noise and textures of noise.

    Attributes:
        vertices: (B, 778, 3) metres, a leaf.
        camera: B cameras.
        image: (B, 3, S, S).
        texture: (B, 3, 256, 256), a leaf.
    """

    def __init__(self, count: int, size: int, seed: int, device: torch.device) -> None:
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            vertices = HandModel()(sample_pose(count, generator, kind="spread")).vertices
        vertices = vertices - vertices.mean(dim=1, keepdim=True) + torch.tensor([0.0, 0.0, 0.5])
        self.vertices = vertices.to(device).requires_grad_()
        focal = torch.full((count, 2), zoom() * size, device=device)
        self.camera = ta.PinholeCamera(focal, torch.full((count, 2), size / 2, device=device))
        self.image = torch.rand(count, 3, size, size, generator=generator).to(device)
        texture = torch.rand(count, 3, TEXTURE_SIZE, TEXTURE_SIZE, generator=generator)
        self.texture = texture.to(device).requires_grad_()
        self.count, self.size, self.device = count, size, device


def rendering(renderer: ta.TexturedHandRenderer, scene: Scene, backward: bool) -> Callable[[], None]:
    """Draw, and go back from image and coverage to vertices and texture."""

    def run() -> None:
        with torch.set_grad_enabled(backward):
            drawn = renderer(scene.vertices, scene.camera, scene.texture)
            if backward:
                total = (drawn.image * scene.image).sum() + drawn.coverage.sum()
                torch.autograd.grad(total, (scene.vertices, scene.texture))

    return run


def bare_nvdiffrast(surface: ta.HandSurface, scene: Scene, backward: bool) -> Callable[[], None]:
    """The same picture by nvdiffrast's own calls alone: rasterize, interpolate, texture, antialias.

    Clip coordinates, triangles and the mesh's hash are made beforehand; the gradient ends at the clip coordinates.
    """
    dr: Any = importlib.import_module("nvdiffrast.torch")
    backend: Any = importlib.import_module("texalign.rasterize.nvdiffrast_backend")
    context = dr.RasterizeCudaContext(device=scene.device)
    points = scene.camera.homogeneous(scene.vertices.detach())
    clip = backend._clip_space(points, scene.size, scene.size, 0.01).detach().requires_grad_()
    triangles, uv_triangles = surface.faces.int().contiguous(), surface.uv_faces.int().contiguous()
    mesh = dr.antialias_construct_topology_hash(triangles)
    texture = scene.texture.detach().permute(0, 2, 3, 1).contiguous().requires_grad_()
    probe = torch.cat([scene.image, torch.ones_like(scene.image[:, :1])], dim=1).permute(0, 2, 3, 1).contiguous()

    def run() -> None:
        with torch.set_grad_enabled(backward):
            native, _ = dr.rasterize(context, clip, triangles, (scene.size, scene.size))
            uv, _ = dr.interpolate(surface.uv[None], native, uv_triangles)
            colour = dr.texture(texture, uv, filter_mode="linear", boundary_mode="clamp")
            covered = (native[..., 3:] > 0).float()
            layers = torch.cat([colour * covered, covered], dim=-1)
            layers = dr.antialias(layers, native, clip, triangles, topology_hash=mesh)
            if backward:
                torch.autograd.grad((layers * probe).sum(), (clip, texture))

    return run


def whole_loss(loss_fn: ta.DenseTextureAlignmentLoss, scene: Scene) -> Callable[[], None]:
    """The loss forward and backward, the encoder in bfloat16."""

    def run() -> None:
        with torch.autocast(scene.device.type, dtype=torch.bfloat16):
            total = loss_fn(scene.vertices, scene.camera, scene.image)
        torch.autograd.grad(total, scene.vertices)

    return run


def stages(loss_fn: ta.DenseTextureAlignmentLoss, scene: Scene) -> dict[str, tuple[Callable[[], Any], int]]:
    """The loss's parts, each on what the one before gave, with the bytes each must at least read and write.

    These bytes are those of its inputs and outputs, each touched once: what a single fused kernel would move.
    """
    renderer, encoder = loss_fn.renderer, loss_fn.encoder
    with torch.no_grad():
        found = renderer.scene(scene.vertices, scene.camera)
        seen = found.observe(scene.image, count=loss_fn.token_count)
    # Graphs that can be gone back through many times.
    found_again = renderer.scene(scene.vertices, scene.camera)

    def encode() -> Any:
        with torch.no_grad(), torch.autocast(scene.device.type, dtype=torch.bfloat16):
            return encoder(seen)

    texture = encode().float()
    drawn = found_again.draw(texture)
    screen = (found.points[..., :2] / found.points[..., 2:]).detach()
    region = 1 - beyond_wrist(screen[:, loss_fn.wrist], screen.mean(dim=1), scene.size, scene.size)

    def compare() -> Any:
        return region_competition(drawn.image, drawn.coverage, scene.image, region)

    evidence = compare()
    compared = [evidence.per_sample, evidence.fitted, evidence.residual, evidence.evidence]

    def back() -> Any:
        return torch.autograd.grad(evidence.per_sample.sum(), scene.vertices, retain_graph=True)

    pixels = [found.found.face_index, found.uv, found.depth]
    tokens = [seen.uv, seen.rgb, seen.valid]
    picture = [drawn.image.detach(), drawn.coverage.detach()]
    weights = list(encoder.parameters())
    return {
        "rasterize, uv, depth": (
            lambda: renderer.scene(scene.vertices, scene.camera),
            size_of(scene.vertices, *pixels),
        ),
        "observe": (
            lambda: found.observe(scene.image, count=loss_fn.token_count),
            size_of(*pixels, scene.image, *tokens),
        ),
        "encode": (encode, size_of(*tokens, *weights, texture)),
        "texture, antialias": (lambda: found_again.draw(texture), size_of(*pixels, texture, *picture)),
        "evidence": (compare, size_of(*picture, region, scene.image, *compared)),
        "backward": (back, size_of(*picture, *pixels, scene.image, *compared, texture, scene.vertices)),
    }


def size_of(*tensors: Tensor) -> int:
    """Bytes."""
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)
