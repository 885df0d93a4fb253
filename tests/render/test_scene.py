"""A scene is rasterized once and does what the renderer's own methods do."""

from __future__ import annotations

import pytest
import torch

import texalign as ta
from texalign.rasterize import select_backend
from texalign.render import Scene


@pytest.fixture
def rasterized(monkeypatch):
    """The sizes of the batches that were rasterized so far; an atlas, whose batch is 1, does not count."""
    backend, batches = select_backend("torch", torch.device("cpu")), []
    rasterize = backend.rasterize

    def counting(points, *args, **kwargs):
        batches.extend([len(points)] * (len(points) > 1))
        return rasterize(points, *args, **kwargs)

    monkeypatch.setattr(backend, "rasterize", counting)
    return batches


def test_once_rasterized_it_equals_every_single_call(surface, scene, smooth_texture, rasterized):
    render = ta.TexturedHandRenderer(surface, 48, backend="torch")
    vertices, camera = scene(2, 48)
    image = torch.rand(2, 3, 48, 48)
    mask = torch.ones(2, 1, 48, 48)
    mask[..., :24] = 0

    def draws():
        return torch.Generator().manual_seed(3)

    def all_of(leaf, draw, observe, unwrap):
        drawn, seen = draw(smooth_texture), observe(image, mask, 64, draws())
        texture, visibility = unwrap(image, mask, 32)
        (gradient,) = torch.autograd.grad(drawn.image.square().sum() + seen.uv.sum() + texture.sum(), leaf)
        return [*vars(drawn).values(), *vars(seen).values(), texture, visibility, gradient]

    leaf = vertices.clone().requires_grad_()
    made = render.scene(leaf, camera)
    assert isinstance(made, Scene)
    once = all_of(leaf, made.draw, made.observe, made.unwrap)
    assert rasterized == [2]
    leaf = vertices.clone().requires_grad_()
    methods = (render.__call__, render.observe, render.unwrap)
    single = all_of(leaf, *(lambda *args, method=method: method(leaf, camera, *args) for method in methods))
    assert rasterized == [2] * 4
    *values, gradient = zip(once, single)
    assert all(torch.equal(first, second) for first, second in values)
    # Gradients of three uses meet in another order: 1e-5 is a hundred roundings.
    assert (gradient[0] - gradient[1]).norm() < 1e-5 * gradient[1].norm()


def test_the_loss_rasterizes_once(surface, scene, rasterized):
    vertices, camera = scene(2, 48)
    loss_fn = ta.DenseTextureAlignmentLoss.from_pretrained(image_size=48, token_count=64)
    loss_fn(vertices, camera, torch.rand(2, 3, 48, 48))
    assert rasterized == [2]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda scene: scene.draw(torch.zeros(3, 3, 8, 8)), r"texture \(2 or 1, 3, T, T\), got \(3, 3, 8, 8\)"),
        (lambda scene: scene.draw(torch.zeros(1, 3, 8, 8, device="meta")), "texture on the device of vertices"),
        (lambda scene: scene.observe(torch.zeros(2, 3, 8, 8)), r"image \(2, 3, 32, 32\), got \(2, 3, 8, 8\)"),
        (lambda scene: scene.observe(torch.zeros(2, 3, 32, 32), count=0), "count > 0 or None, got 0"),
        (lambda scene: scene.unwrap(torch.zeros(2, 3, 32, 32), texture_size=0), "texture_size > 0, got 0"),
    ],
)
def test_what_does_not_fit_is_refused(surface, scene, call, message):
    made = ta.TexturedHandRenderer(surface, 32, backend="torch").scene(*scene(2, 32))
    with pytest.raises(ValueError, match="^Scene: expected " + message):
        call(made)
