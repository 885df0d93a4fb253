from __future__ import annotations

import pytest
import torch

import texalign as ta

SIZE = 64


@pytest.fixture(scope="module")
def render(surface):
    return ta.TexturedHandRenderer(surface, SIZE, backend="torch")


def turned(hand, count: int):
    """The open hand seen from `count` directions all round, 0.5 m away."""
    vertices = hand(torch.zeros(1, 16, 3)).vertices
    vertices = vertices - vertices.mean(dim=1, keepdim=True)
    views = []
    for index in range(count):
        angle = torch.tensor(2 * torch.pi * index / count)
        tilt = torch.tensor(0.5 if index % 2 else -0.5)
        c, s, ct, st = angle.cos(), angle.sin(), tilt.cos(), tilt.sin()
        about_fingers = torch.tensor([[1, 0, 0], [0, c, -s], [0, s, c]])
        about_palm = torch.tensor([[ct, 0, st], [0, 1, 0], [-st, 0, ct]])
        views.append(vertices[0] @ about_fingers.T @ about_palm.T)
    vertices = torch.stack(views) + torch.tensor([0.0, 0.0, 0.5])
    return vertices, ta.PinholeCamera(torch.full((count, 2), 2.1 * SIZE), torch.full((count, 2), SIZE / 2))


def test_observed_colours_are_the_textures(surface, hand, render, smooth_texture):
    """texture → render from 12 views → observe: at each observed uv the texture has the observed colour."""
    vertices, camera = turned(hand, 12)
    with torch.no_grad():
        image = render(vertices, camera, smooth_texture).image
        seen = render.observe(vertices, camera, image)
        read = torch.nn.functional.grid_sample(
            surface.dilated(smooth_texture).expand(12, -1, -1, -1), 2 * seen.uv[:, None] - 1, align_corners=False
        )[:, :, 0].transpose(1, 2)
    error = (read - seen.rgb).abs().mean(dim=-1)
    assert seen.valid.sum(dim=1).min() > 125
    assert error[seen.valid].mean() < 0.02


def test_round_trip_by_unwrapping(surface, hand, render, smooth_texture):
    vertices, camera = turned(hand, 12)
    with torch.no_grad():
        image = render(vertices, camera, smooth_texture).image
        textures, visibility = render.unwrap(vertices, camera, image, texture_size=128)
    total = visibility.sum(dim=0)
    inside = surface.texel_map(128).face_index >= 0
    assert (total[0] > 0).sum() > 0.85 * inside.sum()
    assert (total[0][~inside] == 0).all()
    mean = textures.sum(dim=0) / total.clamp(min=1)
    error = (mean - smooth_texture[0]).abs().mean(dim=0)[total[0] > 0]
    assert error.mean() < 0.02
    # One view is right by itself, too.
    seen = visibility[0, 0] > 0
    assert (textures[0] - smooth_texture[0]).abs().mean(dim=0)[seen].mean() < 0.02


def test_observations_carry_the_colour_under_their_pixel(render, scene):
    vertices, camera = scene(2, SIZE)
    image = torch.rand(2, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(0))
    every = render.observe(vertices, camera, image)
    assert every.valid.sum(dim=1).min() > 75
    uv = render(vertices, camera, image[:1]).uv
    for sample in range(2):
        match = (every.uv[sample, :50, None] - uv[sample].reshape(1, -1, 2)).abs().sum(dim=-1).argmin(dim=1)
        torch.testing.assert_close(every.rgb[sample, :50], image[sample].flatten(1)[:, match].T)


def test_depth_edges_grazing_faces_and_the_background_are_left_out(render, scene, surface):
    vertices, camera = scene(4, SIZE)
    out = render(vertices, camera, torch.ones(1, 3, 8, 8))
    # Paint the world red: nothing of it may be observed, nor any pixel mixed with it.
    background = torch.tensor([1.0, 0, 0])[None, :, None, None]
    image = torch.tensor([0.0, 0, 1])[None, :, None, None] * out.coverage + background * (1 - out.coverage)
    seen = render.observe(vertices, camera, image)
    assert (seen.rgb[..., 0] * seen.valid).max() < 1e-5  # 1 − coverage, where coverage is 1 but for rounding
    assert seen.valid.sum() > 0.4 * (out.face_index >= 0).sum()


def test_the_inside_of_the_wrist_is_not_observed(surface, hand, render):
    """Seen along the forearm, the open wrist shows the hand's inside."""
    vertices = hand(torch.zeros(1, 16, 3)).vertices
    # MANO's axes: fingers along −x. Turn them away from the camera (+z).
    turn = torch.tensor([[0.0, 0, 1], [0, 1, 0], [-1, 0, 0]])
    vertices = (vertices - vertices.mean(dim=1, keepdim=True)) @ turn.T + torch.tensor([0.0, 0.0, 0.4])
    camera = ta.PinholeCamera(torch.full((1, 2), 3.1 * SIZE), torch.full((1, 2), SIZE / 2))
    out = render(vertices, camera, torch.ones(1, 3, 8, 8))
    corner = vertices[0][surface.faces]
    normal = torch.linalg.cross(corner[:, 1] - corner[:, 0], corner[:, 2] - corner[:, 0])
    inside_faces = (normal * corner.mean(dim=1)).sum(dim=1) > 0
    face = out.face_index[0]
    shown_inside = inside_faces[face.clamp(min=0)] & (face >= 0)
    assert shown_inside.sum() > 12
    image = torch.where(shown_inside, 1.0, 0.0)[None, None].expand(1, 3, -1, -1)
    seen = render.observe(vertices, camera, image)
    assert (seen.rgb * seen.valid[..., None]).max() == 0


def test_mask_is_respected(render, scene):
    vertices, camera = scene(2, SIZE)
    image = torch.rand(2, 3, SIZE, SIZE)
    mask = torch.zeros(2, 1, SIZE, SIZE)
    mask[0, :, : SIZE // 2] = 1
    seen = render.observe(vertices, camera, torch.where(mask > 0, image, torch.full_like(image, 9.0)), mask)
    assert seen.rgb.max() <= 1
    assert seen.valid[0].any()
    assert not seen.valid[1].any()
    assert (seen.uv[1] == 0).all()


def test_count_pads_and_seeds(render, scene):
    vertices, camera = scene(2, SIZE)
    image = torch.rand(2, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(0))
    first, second, third = (
        render.observe(vertices, camera, image, count=64, generator=torch.Generator().manual_seed(seed))
        for seed in (1, 1, 2)
    )
    assert first.uv.shape == (2, 64, 2)
    assert first.valid.all()
    assert torch.equal(first.rgb, second.rgb)
    assert not torch.equal(first.rgb, third.rgb)
    assert len({tuple(uv) for uv in first.uv[0].tolist()}) == 64  # without replacement
    many = render.observe(vertices, camera, image, count=5_000)
    every = render.observe(vertices, camera, image)
    assert many.valid.shape == (2, 5_000)
    assert torch.equal(many.valid.sum(dim=1), every.valid.sum(dim=1))
    assert (many.uv[~many.valid] == 0).all()


def test_the_draw_is_even_over_the_surface_not_over_the_image(surface):
    """Two quads of equal size, one three times as far: drawn from alike, though it covers a ninth of the pixels."""
    faces = torch.tensor([[0, 1, 2], [0, 2, 3], [4, 5, 6], [4, 6, 7]])
    uv = torch.tensor([[0.1, 0.1], [0.1, 0.4], [0.4, 0.4], [0.4, 0.1], [0.6, 0.6], [0.6, 0.9], [0.9, 0.9], [0.9, 0.6]])
    quad = torch.tensor([[-1.0, -1, 0], [-1, 1, 0], [1, 1, 0], [1, -1, 0]])
    vertices = torch.cat([quad + torch.tensor([-1.1, 0, 4.0]), quad + torch.tensor([3.5, 0, 12.0])])[None]
    two = ta.HandSurface(faces, uv, faces)
    render = ta.TexturedHandRenderer(two, SIZE, backend="torch")
    camera = ta.PinholeCamera(torch.full((1, 2), 0.8 * SIZE), torch.full((1, 2), SIZE / 2))
    image = torch.zeros(1, 3, SIZE, SIZE)
    pixels = render.observe(vertices, camera, image)
    near_pixels = (pixels.uv[0, :, 0] < 0.5).sum()
    assert near_pixels > 6 * (len(pixels.uv[0]) - near_pixels)
    drawn = render.observe(vertices, camera, image, count=40, generator=torch.Generator().manual_seed(0))
    share = (drawn.uv[0, :, 0] < 0.5).float().mean()
    assert abs(share - 0.5) < 4 * 0.5 / 40**0.5  # four standard errors of 40 draws; even over the image it were 0.4


def test_observations_are_differentiable_in_vertices_and_image(render, scene):
    vertices, camera = scene(1, SIZE)
    vertices.requires_grad_()
    image = torch.rand(1, 3, SIZE, SIZE, requires_grad=True)
    seen = render.observe(vertices, camera, image, count=64)
    grads = torch.autograd.grad(seen.uv.sum() + seen.rgb.sum(), [vertices, image])
    assert all(g.abs().sum() > 0 and torch.isfinite(g).all() for g in grads)
    assert not seen.detach().uv.requires_grad
    texture, _ = render.unwrap(vertices, camera, image, texture_size=32)
    grads = torch.autograd.grad(texture.square().sum(), [vertices, image])
    assert all(g.abs().sum() > 0 and torch.isfinite(g).all() for g in grads)


def test_nothing_visible_gives_empty_observations(render, scene):
    vertices, camera = scene(2, SIZE)
    image = torch.rand(2, 3, SIZE, SIZE)
    away = vertices + torch.tensor([9.0, 0, 0])
    assert render.observe(away, camera, image).valid.shape == (2, 0)
    drawn = render.observe(away, camera, image, count=16)
    assert not drawn.valid.any()
    texture, visibility = render.unwrap(torch.full_like(vertices, torch.nan), camera, image)
    assert (texture == 0).all()
    assert (visibility == 0).all()
