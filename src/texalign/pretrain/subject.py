from __future__ import annotations

import copy
import warnings
from collections.abc import Callable

import torch
from torch import Tensor

from texalign._internal import expect, expect_shape
from texalign.hand import HandModel
from texalign.photographs import FittedPhotographs
from texalign.render import TexturedHandRenderer
from texalign.surface import HandSurface

WHO = "pretrain"


class Subject:
    """The hand that a prior is trained for: a surface, its renderer, and the bundled hand that poses it.

    Args:
        surface: copied; None is `HandSurface.mano()`.
        vertices_of: maps vertices of the bundled hand (B, 778, 3) to those of the surface (B, V, 3); None is the
            identity.
        image_size: S, pixels.
        device: where everything lies.

    Raises:
        TypeError: `surface` is not a HandSurface, or `vertices_of` gives no tensor.
        ValueError: a left hand's surface, or another number of vertices than the surface has.
    """

    def __init__(
        self,
        surface: HandSurface | None,
        vertices_of: Callable[[Tensor], Tensor] | None,
        image_size: int,
        device: torch.device,
    ) -> None:
        if surface is None:
            surface = HandSurface.mano()
        if not isinstance(surface, HandSurface):
            raise TypeError(f"{WHO}: expected surface to be a HandSurface, got {type(surface).__name__}")
        expect(surface.is_right, WHO, "a right hand's surface", "a left hand's")
        self.surface = copy.deepcopy(surface).to(device)
        self.model = HandModel().to(device)
        self.renderer = TexturedHandRenderer(self.surface, image_size)
        own, bundled = surface.vertex_count, len(self.model.vertices)
        if vertices_of is None:
            wanted = f"vertices_of for a surface of {own} vertices (the bundled hand has {bundled})"
            expect(own == bundled, WHO, wanted, "none")
            vertices_of = _unchanged
        self.vertices_of = vertices_of
        with torch.no_grad():
            mapped = vertices_of(self.model.vertices.expand(2, -1, -1))
        expect_shape(mapped, WHO, "vertices_of(vertices)", (2, own, 3))

    def check(self, photographs: FittedPhotographs) -> None:
        """Refuse meshes with another number of vertices than they must have; say how many lie nowhere on skin."""
        given = photographs.parameters is None
        count = self.surface.vertex_count if given else len(self.model.vertices)
        name = "the surface" if given else "the bundled hand, which was fitted,"
        expect_shape(photographs.vertices, WHO, f"vertices of {name}", ("B", count, 3))
        images = photographs.photographs
        hidden = int((~images.on_skin(images.camera.project(photographs.vertices)).any(dim=1)).sum())
        where = "in the image and on its mask's skin"
        expect(hidden < len(images), WHO, f"photographs whose mesh lies {where}", f"none of {len(images)}")
        if hidden:
            warnings.warn(f"{WHO}: {hidden} of {len(images)} photographs have no vertex {where}", stacklevel=4)


def _unchanged(vertices: Tensor) -> Tensor:
    return vertices
