"""A prior for a surface that is not MANO's, from outside the package: surface, renderer, training, loading and loss."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

import texalign as ta
from texalign import synthetic
from texalign.pretrain import PretrainSettings, pretrain

SETTINGS = PretrainSettings(steps=2, batch_size=6, image_size=64, token_count=64, target_count=64)
MIXED = replace(SETTINGS, image_size=32, photograph_share=0.5)
TINY = {"texture_size": 32, "latent_grid": 8, "width": 24, "layers": 1, "heads": 2}
RINGS, AROUND = 10, 12


def divided(faces):
    """Every triangle in four: the pairs of corners whose middles are new, and the new triangles (4 F, 3)."""
    edges = torch.stack([faces, faces.roll(-1, dims=1)], dim=-1).sort(dim=-1).values.flatten(0, 1)
    pairs, number = edges.unique(dim=0, return_inverse=True)
    middle = int(faces.max()) + 1 + number.view(-1, 3)
    corners = [torch.stack([faces[:, i], middle[:, i], middle[:, i - 1]], dim=1) for i in range(3)]
    return pairs, torch.cat([*corners, middle])


def subdivided_hand():
    hand = ta.HandSurface.mano()
    pairs, faces = divided(hand.faces)
    uv_pairs, uv_faces = divided(hand.uv_faces)
    uv = torch.cat([hand.uv, hand.uv[uv_pairs].mean(dim=1)])
    return ta.HandSurface(faces, uv, uv_faces), lambda vertices: torch.cat([vertices, vertices[:, pairs].mean(2)], 1)


def tube():
    """A tube from the wrist to the tip of the middle finger, in one chart that is cut along its side."""
    ring, step = torch.meshgrid(torch.arange(RINGS - 1), torch.arange(AROUND), indexing="ij")

    def triangles(around, columns):
        a, b = ring * columns + step, ring * columns + (step + 1) % around
        return torch.stack([a, b, a + columns, b, b + columns, a + columns], dim=-1).view(-1, 3)

    v, u = torch.meshgrid(torch.linspace(0.1, 0.9, RINGS), torch.linspace(0.1, 0.9, AROUND + 1), indexing="ij")
    surface = ta.HandSurface(
        triangles(AROUND, AROUND), torch.stack([u, v], -1).view(-1, 2), triangles(10**6, AROUND + 1)
    )
    wrist = torch.tensor(ta.HandSurface.mano().boundary_loops[0])
    cross, normalize = torch.linalg.cross, torch.nn.functional.normalize

    def vertices_of(vertices):
        start, end, side = vertices[:, wrist].mean(1), vertices[:, 443], vertices[:, 744]
        axis = normalize(end - start, dim=-1)
        first = normalize(cross(axis, side - start), dim=-1)
        angle = torch.arange(AROUND)[:, None] * 2 * math.pi / AROUND
        circle = angle.cos() * first[:, None] + angle.sin() * cross(axis, first)[:, None]
        along = torch.linspace(0, 1, RINGS)[:, None] * (end - start)[:, None] + start[:, None]
        return (along[:, :, None] + 0.02 * circle[:, None]).flatten(1, 2)

    return surface, vertices_of


@pytest.fixture(scope="module")
def batch():
    return synthetic.generate(3, 64, torch.Generator().manual_seed(0), left_share=0)


def test_a_subdivided_hand_is_drawn_as_the_hand(batch, smooth_texture):
    surface, vertices_of = subdivided_hand()
    fine = ta.TexturedHandRenderer(surface, 64)(vertices_of(batch.vertices), batch.camera, smooth_texture)
    plain = ta.TexturedHandRenderer(ta.HandSurface.mano(), 64)(batch.vertices, batch.camera, smooth_texture)
    assert len(surface.faces) == 4 * 1538 and surface.vertex_count > 3000
    # The same triangles in smaller pieces; rounding may give an edge's pixel to either side.
    assert (fine.coverage - plain.coverage).abs().mean() < 1e-3 and (fine.image - plain.image).abs().mean() < 1e-3


@pytest.mark.slow
@pytest.mark.parametrize("other", [subdivided_hand, tube])
def test_a_prior_is_trained_saved_loaded_and_used(other, batch, fitted, meshed, tmp_path):
    surface, vertices_of = other()
    # Meshes that come with photographs are the surface's; those that are fitted are the bundled hand's.
    photographs = fitted if other is tube else replace(meshed, vertices=vertices_of(meshed.vertices))
    trained = pretrain(tmp_path, MIXED, photographs=photographs, surface=surface, vertices_of=vertices_of)
    assert trained.atlas_id == surface.atlas_id != ta.HandSurface.mano().atlas_id
    assert all(math.isfinite(value) for value in trained.provenance["metrics"].values())
    encoder = ta.UVTextureEncoder.from_pretrained(tmp_path, surface)
    with pytest.raises(ValueError, match="expected weights for the surface's atlas"):
        ta.UVTextureEncoder.from_pretrained(tmp_path, ta.HandSurface.mano())

    renderer = ta.TexturedHandRenderer(surface, 64)
    vertices = vertices_of(batch.vertices).requires_grad_()
    assert renderer.observe(vertices, batch.camera, batch.image).valid.any(dim=1).all()
    ta.DenseTextureAlignmentLoss(renderer, encoder)(vertices, batch.camera, batch.image).backward()
    assert vertices.grad.isfinite().all() and vertices.grad.abs().sum() > 0


def test_what_does_not_fit_the_surface_refused_before_anything_is_computed(meshed, tmp_path):
    surface, vertices_of = subdivided_hand()
    count = surface.vertex_count
    fine = {"surface": surface, "vertices_of": vertices_of}
    start = ta.UVTextureEncoder(ta.HandSurface.mano(), **TINY)
    wrong = [
        ({"surface": surface}, rf"vertices_of for a surface of {count} vertices .*has 778\), got none"),
        ({"vertices_of": vertices_of}, rf"vertices_of\(vertices\) \(2, 778, 3\), got \(2, {count}, 3\)"),
        ({"surface": ta.HandSurface.mano().mirrored()}, "a right hand's surface, got a left hand's"),
        ({**fine, "start": start}, f"start, .* atlas {surface.atlas_id}, got one for atlas {start.atlas_id}"),
        ({"surface": "arm"}, "surface to be a HandSurface, got str"),
    ]
    for arguments, message in wrong:
        with pytest.raises((TypeError, ValueError), match=f"pretrain: expected {message}"):
            pretrain(tmp_path / "run", SETTINGS, **arguments)
    with pytest.raises(ValueError, match=rf"vertices of the surface \(B, {count}, 3\), got \(5, 778, 3\)"):
        pretrain(tmp_path / "run", MIXED, photographs=meshed, **fine)
    assert not (tmp_path / "run").exists()
