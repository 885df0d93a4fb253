from __future__ import annotations

import pytest
import torch

import texalign as ta
from loss_parts import PLAIN, WALL, seeded


@pytest.fixture(scope="session")
def photographs(surface, scene):
    """A function: count, size, seed → vertices, camera, image of skin-coloured hands before a bluish wall."""

    def make(count=2, size=48, seed=0, texture=PLAIN, noise=0.02):
        vertices, camera = scene(count, size, seed=seed)
        camera = ta.PinholeCamera(camera.focal * 0.7, camera.principal)  # room to move
        out = ta.TexturedHandRenderer(surface, size, backend="torch")(vertices, camera, texture)
        image = out.image + (1 - out.coverage) * WALL[:, None, None]
        image = image + noise * torch.randn(image.shape, generator=seeded(seed))
        return vertices, camera, image.clamp(0, 1)

    return make
