from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from texalign._internal import expect, expect_floating
from texalign.adapters.orthographic_camera import orthographic
from texalign.loss import LossInputs


def weak_perspective(
    vertices: Tensor,
    cam: Tensor,
    image: Tensor,
    mask: Tensor | None = None,
    valid: Tensor | None = None,
    *,
    vertex_order: Tensor | None = None,
    mean: Sequence[float] = (0.5, 0.5, 0.5),
    std: Sequence[float] = (0.5, 0.5, 0.5),
    bgr: bool = True,
    pixel_offset: float = 0.0,
) -> LossInputs:
    """From FrankMocap's hand module: `pred_verts` and `cams` of its `H3DWModel`, and the image it is given.

    It draws a vertex at px = (X + tx) · s · 112 + 112 of its 224 × 224 crop. That is a parallel projection, so the
    camera is that of `texalign.adapters.orthographic`, less than 0.13 pixels from it. The crop of a left hand is
    mirrored before the network, which sees right hands only: pass what it outputs, before the demo mirrors it back.

    Args:
        vertices: (B, N, 3) float, metres.
        cam: (B, 3) float, (s, tx, ty), tx and ty in metres, multiplied by s after they are added.
        image: (B, 3, 224, 224) float, as the network takes it: (x − 0.5) / 0.5.
        mask: (B, 1, 224, 224) in [0, 1], 1 = visible hand skin, or None; handed on.
        valid: (B, 1, 224, 224) in [0, 1], 0 = padding, or None; handed on.
        vertex_order: (778,) int64: for each vertex of MANO its row in `vertices`. FrankMocap's hand is cut out of
            SMPL-X, whose hand vertices come in another order; without it faces and texture fit only a mesh in MANO's
            order.
        mean: by channel, in the image's own order of channels.
        std: as mean.
        bgr: the image's channels are blue, green, red, as OpenCV reads them. FrankMocap's demo feeds them so.
        pixel_offset: pixels added to the principal point. 0 by default: the crop is resized by its edges, which keeps
            them where they are, and the training code, which would tell where its labels put a pixel's centre, is not
            public. Labels at whole numbers would ask for half a photograph's pixel, 0.5 · 224 / (side of the box).

    Returns:
        `LossInputs`; vertices (B, 778, 3) where `vertex_order` is given, differentiable in `vertices` and `cam`.

    Raises:
        ValueError: another shape or dtype, or a vertex order that names a row that `vertices` does not have.

    Example:
        >>> from torch import ones, zeros
        >>> inputs = weak_perspective(zeros(1, 778, 3), cam=ones(1, 3), image=zeros(1, 3, 224, 224))
        >>> inputs.camera.project(inputs.vertices)[0, 0].round()
        tensor([224., 224.])
    """
    who = "weak_perspective"
    expect_floating(vertices, who, "vertices", ("B", "N", 3))
    expect_floating(cam, who, "cam", (len(vertices), 3))
    expect_floating(image, who, "image", (len(vertices), 3, "S", "S"))
    if vertex_order is not None:
        expect(
            vertex_order.dim() == 1 and vertex_order.dtype == torch.int64,
            who,
            "vertex_order (V,) int64",
            f"{tuple(vertex_order.shape)} {vertex_order.dtype}",
        )
        highest = int(vertex_order.max()) if vertex_order.device.type == "cpu" and len(vertex_order) else 0
        expect(highest < vertices.shape[1], who, f"vertex_order below {vertices.shape[1]}", highest)
        vertices = vertices[:, vertex_order.to(vertices.device)]
    if bgr:
        image, mean, std = image.flip(1), tuple(mean)[::-1], tuple(std)[::-1]
    return orthographic(vertices, cam, image, mask, valid, mean=mean, std=std, pixel_offset=pixel_offset)
