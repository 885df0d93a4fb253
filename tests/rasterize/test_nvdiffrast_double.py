"""The double of nvdiffrast does and refuses what nvdiffrast's documentation says."""

from __future__ import annotations

import copy

import pytest
import torch

from rasterize import nvdiffrast_double as dr

CPU = dr.RasterizeCudaContext(device="cpu")
POSITIONS = torch.tensor([[[-1.0, -1, 0, 1], [1, -1, 0, 1], [-1, 1, 0, 1]]])
TRIANGLES = torch.tensor([[0, 1, 2]], dtype=torch.int32)
NATIVE = dr.rasterize(CPU, POSITIONS, TRIANGLES, (4, 6))[0]
TEXELS, UV = torch.rand(1, 4, 4, 3), torch.zeros(1, 2, 2, 2)


@pytest.mark.parametrize(
    "function, message",
    [
        (lambda: dr.rasterize(CPU, POSITIONS.half(), TRIANGLES, (4, 6)), "must be torch.float32"),
        (lambda: dr.rasterize(CPU, POSITIONS, TRIANGLES.long(), (4, 6)), "must be torch.int32"),
        (lambda: dr.rasterize(CPU, POSITIONS.mT.contiguous().mT, TRIANGLES, (4, 6)), "must be contiguous"),
        (lambda: dr.rasterize(CPU, POSITIONS[:0], TRIANGLES, (4, 6)), "must have shape"),
        (lambda: dr.rasterize(CPU, POSITIONS[0], TRIANGLES, (4, 6)), "must have shape"),
        (lambda: dr.rasterize(dr.RasterizeCudaContext("meta"), POSITIONS, TRIANGLES, (4, 6)), "same device"),
        (lambda: dr.interpolate(POSITIONS, NATIVE, TRIANGLES.long()), "must be torch.int32"),
        (lambda: dr.interpolate(POSITIONS.repeat(2, 1, 1), NATIVE, TRIANGLES), "minibatch size mismatch"),
        (lambda: dr.texture(TEXELS.permute(0, 2, 1, 3), UV), "must be contiguous"),
        (lambda: dr.texture(TEXELS, UV.half()), "must be torch.float32"),
        (lambda: copy.deepcopy(CPU), "cannot pickle"),
    ],
)
def test_it_refuses_what_nvdiffrast_refuses(function, message):
    with pytest.raises((RuntimeError, TypeError), match=message):
        function()


def test_row_0_is_at_the_bottom_and_u_weighs_the_first_corner():
    assert (NATIVE[0, :, 0, 3] == 1).all() and NATIVE[0, 0, :5, 3].all() and not NATIVE[0, 3, 2:].any()
    # In the lower left pixel the second and third corner weigh half a pixel of 6 and of 4.
    torch.testing.assert_close(NATIVE[0, 0, 0], torch.tensor([1 - 1 / 12 - 1 / 8, 1 / 12, 0.0, 1.0]))


@pytest.mark.parametrize("z, covered", [(-1.01, False), (-1.0, True), (1.0, True), (1.01, False)])
def test_what_lies_beyond_the_frustum_is_clipped_and_depth_has_no_gradient(z, covered):
    positions = POSITIONS.clone()
    positions[..., 2] = z
    native, _ = dr.rasterize(CPU, positions.requires_grad_(), TRIANGLES, (4, 6))
    assert native[..., 3].any() == covered and native[0, 0, 0, 2] == z * covered
    for output, has_gradient in ((native[..., :2], covered), (native[..., 2:], False)):
        (gradient,) = torch.autograd.grad(output.square().sum(), positions, retain_graph=True)
        assert gradient[..., [0, 1, 3]].any() == has_gradient and not gradient[..., 2].any()


@pytest.mark.parametrize("boundary, expected", [({}, [1.5, 2.5, 1.5]), ({"boundary_mode": "clamp"}, [0.0, 2.5, 3.0])])
def test_textures_wrap_unless_clamped(boundary, expected):
    u = torch.tensor([0.0, 0.75, 1.0], requires_grad=True)
    uv = torch.stack([u, torch.full_like(u, 0.5)], dim=-1)[None, None]
    found = dr.texture(torch.arange(4.0).reshape(1, 1, 4, 1), uv, **boundary)[0, 0, :, 0]
    torch.testing.assert_close(found, torch.tensor(expected))
    (slope,) = torch.autograd.grad(found.sum(), u)
    assert slope[1] == 4 and (slope[2] == 0) == bool(boundary)
