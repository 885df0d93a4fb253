"""The double of nvdiffrast does and refuses what nvdiffrast's documentation says."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest
import torch

import reference
from rasterize import nvdiffrast_double as dr
from rasterize.meshes import random_mesh

CPU = dr.RasterizeCudaContext(device="cpu")
POSITIONS = torch.tensor([[[-1.0, -1, 0, 1], [1, -1, 0, 1], [-1, 1, 0, 1]]])
TRIANGLES = torch.tensor([[0, 1, 2]], dtype=torch.int32)
NATIVE = dr.rasterize(CPU, POSITIONS, TRIANGLES, (4, 6))[0]
TEXELS, UV = torch.rand(1, 4, 4, 3, generator=torch.Generator().manual_seed(0)), torch.zeros(1, 2, 2, 2)


@pytest.mark.parametrize(
    "function, message",
    [
        (lambda: dr.rasterize(CPU, POSITIONS.half(), TRIANGLES, (4, 6)), "must be torch.float32"),
        (lambda: dr.rasterize(CPU, POSITIONS.double(), TRIANGLES, (4, 6)), "must be torch.float32"),
        (lambda: dr.rasterize(CPU, POSITIONS, TRIANGLES.long(), (4, 6)), "must be torch.int32"),
        (lambda: dr.rasterize(CPU, POSITIONS.mT.contiguous().mT, TRIANGLES, (4, 6)), "must be contiguous"),
        (lambda: dr.rasterize(CPU, POSITIONS[:0], TRIANGLES, (4, 6)), "must have shape"),
        (lambda: dr.rasterize(CPU, POSITIONS[:, :0], TRIANGLES, (4, 6)), "must have shape"),
        (lambda: dr.rasterize(CPU, POSITIONS[0], TRIANGLES, (4, 6)), "must have shape"),
        (lambda: dr.rasterize(CPU, POSITIONS[..., :3].contiguous(), TRIANGLES, (4, 6)), "must have shape"),
        (lambda: dr.rasterize(CPU, POSITIONS, TRIANGLES[:0], (4, 6)), "must have shape"),
        (lambda: dr.rasterize(CPU, POSITIONS, TRIANGLES, (0, 6)), "resolution"),
        (lambda: dr.rasterize(dr.RasterizeCudaContext("meta"), POSITIONS, TRIANGLES, (4, 6)), "same device"),
        (lambda: dr.interpolate(POSITIONS.half(), NATIVE, TRIANGLES), "must be torch.float32"),
        (lambda: dr.interpolate(POSITIONS, NATIVE, TRIANGLES.long()), "must be torch.int32"),
        (lambda: dr.interpolate(POSITIONS.mT.contiguous().mT, NATIVE, TRIANGLES), "must be contiguous"),
        (lambda: dr.interpolate(POSITIONS.repeat(2, 1, 1), NATIVE, TRIANGLES), "minibatch size mismatch"),
        (lambda: dr.texture(TEXELS.half(), UV), "must be torch.float32"),
        (lambda: dr.texture(TEXELS.permute(0, 2, 1, 3), UV), "must be contiguous"),
        (lambda: dr.texture(TEXELS, UV.half()), "must be torch.float32"),
        (lambda: dr.texture(TEXELS, UV[..., :1].contiguous()), "must have shape"),
        (lambda: dr.texture(TEXELS.repeat(2, 1, 1, 1), UV), "minibatch size mismatch"),
        (lambda: pickle.dumps(CPU), "cannot pickle"),
        (lambda: copy.deepcopy(CPU), "cannot pickle"),
    ],
)
def test_it_refuses_what_nvdiffrast_refuses(function, message):
    with pytest.raises((RuntimeError, TypeError), match=message):
        function()


def test_it_says_what_it_cannot_do():
    for function in (
        lambda: dr.rasterize(CPU, POSITIONS[0], TRIANGLES, (4, 6), ranges=torch.zeros(1, 2, dtype=torch.int32)),
        lambda: dr.interpolate(POSITIONS, NATIVE, TRIANGLES, diff_attrs="all"),
        lambda: dr.texture(TEXELS, UV, filter_mode="linear-mipmap-linear"),
        lambda: dr.texture(TEXELS, UV, max_mip_level=0),
    ):
        with pytest.raises(NotImplementedError):
            function()


def test_row_0_is_at_the_bottom_and_u_weighs_the_first_corner():
    native, derivatives = dr.rasterize(CPU, POSITIONS, TRIANGLES, (4, 6))
    assert (native[0, :, 0, 3] == 1).all() and native[0, 0, :5, 3].all() and not native[0, 3, 2:, 3].any()
    # In the lower left pixel the second and third corner weigh half a pixel of 6 and of 4.
    expected = torch.tensor([1 - 1 / 12 - 1 / 8, 1 / 12, 0.0, 1.0])
    torch.testing.assert_close(native[0, 0, 0], expected)
    torch.testing.assert_close(derivatives[0, 0, 0], torch.tensor([-1 / 6, -1 / 4, 1 / 6, 0.0]))
    assert (native[0, 3, 5] == 0).all() and (derivatives[0, 3, 5] == 0).all()


def test_values_are_those_of_the_reference():
    points, faces = random_mesh(2, behind=0.3)
    x, y, w = points.unbind(-1)
    near, far = 0.1, 3.0
    z = (w * (far + near) - 2 * far * near) / (far - near)
    clip = torch.stack([2 * x / 28 - w, 2 * y / 20 - w, z, w], dim=-1)
    native, _ = dr.rasterize(CPU, clip, faces.int(), (20, 28))
    index, barycentric, safety = reference.rasterize(points[0].numpy(), faces.numpy(), 20, 28, near)
    safe = safety > 1e-4
    np.testing.assert_array_equal(native[0, ..., 3].numpy()[safe], index[safe] + 1)
    np.testing.assert_allclose(native[0, ..., :2].numpy()[safe], barycentric[safe][:, :2], atol=1e-5)


@pytest.mark.parametrize("z, covered", [(-1.01, False), (-1.0, True), (1.0, True), (1.01, False)])
def test_what_lies_beyond_the_frustum_is_clipped(z, covered):
    positions = POSITIONS.clone()
    positions[..., 2] = z
    native, _ = dr.rasterize(CPU, positions, TRIANGLES, (4, 6))
    assert native[..., 3].any() == covered and native[0, 0, 0, 2] == z * covered


def test_the_smaller_z_over_w_is_in_front():
    positions = torch.cat([POSITIONS, POSITIONS], dim=1)
    positions[:, :3, 2] = 0.5
    native, _ = dr.rasterize(CPU, positions, torch.arange(6, dtype=torch.int32).reshape(2, 3), (4, 6))
    assert (native[0, 0, :4, 3] == 2).all()


def test_positions_get_gradients_through_u_and_v_only_and_on_demand_through_derivatives():
    positions = POSITIONS.clone().requires_grad_()
    native, derivatives = dr.rasterize(CPU, positions, TRIANGLES, (4, 6))
    for output, expected in ((native[..., :2], True), (native[..., 2:], False), (derivatives, True)):
        (gradient,) = torch.autograd.grad(output.square().sum(), positions, retain_graph=True)
        assert (gradient[..., [0, 1, 3]] != 0).any() == expected and not gradient[..., 2].any()
    assert not dr.rasterize(CPU, positions, TRIANGLES, (4, 6), grad_db=False)[1].requires_grad


def test_gradients_equal_central_differences():
    # Corners far outside the frame: every pixel stays covered.
    positions = torch.tensor([[[-4.0, -4, 0, 1], [7, -3, 0, 1.5], [-3, 6, 0, 1.2]]], requires_grad=True)
    weights = torch.rand(2, 1, 4, 6, 4, generator=torch.Generator().manual_seed(0))

    def total(positions):
        native, derivatives = dr.rasterize(CPU, positions, TRIANGLES, (4, 6))
        values, _ = dr.interpolate(TEXELS[0, :1, :3].contiguous(), native, TRIANGLES)
        return (values * weights[0, ..., :3]).sum() + (derivatives * weights[1]).sum()

    (gradient,) = torch.autograd.grad(total(positions), positions)
    step = 1e-2
    for index in np.ndindex(1, 3, 4):
        moved = torch.zeros_like(positions)
        moved[index] = step
        with torch.no_grad():
            numeric = (total(positions + moved) - total(positions - moved)) / (2 * step)
        # Sums of 200 numbers below 1 are rounded by 1e-5, the third derivative adds step².
        assert abs(gradient[index] - numeric) < 5e-3


@pytest.mark.parametrize(
    "boundary, expected",
    [("wrap", [1.5, 0.0, 2.5, 1.5]), ("clamp", [0.0, 0.0, 2.5, 3.0]), ("zero", [0.0, 0.0, 2.5, 1.5])],
)
def test_boundary_modes(boundary, expected):
    texels = torch.arange(4.0).reshape(1, 1, 4, 1).requires_grad_()
    u = torch.tensor([0.0, 0.125, 0.75, 1.0], requires_grad=True)
    uv = torch.stack([u, torch.full_like(u, 0.5)], dim=-1)[None, None]
    found = dr.texture(texels, uv, boundary_mode=boundary)[0, 0, :, 0]
    torch.testing.assert_close(found, torch.tensor(expected))
    assert torch.equal(dr.texture(texels, uv, boundary_mode="wrap"), dr.texture(texels, uv))
    (slope,) = torch.autograd.grad(found.sum(), u)
    assert slope[2] == 4 and (slope[3] != 0) == (boundary != "clamp")


def test_the_nearest_texel_has_a_gradient_but_uv_has_none():
    texels, uv = TEXELS.clone().requires_grad_(), torch.full((1, 2, 2, 2), 0.6, requires_grad=True)
    found = dr.texture(texels, uv, filter_mode="nearest")
    torch.testing.assert_close(found, TEXELS[:, 2:3, 2:3].expand(1, 2, 2, 3))
    found.sum().backward()
    assert texels.grad[0, 2, 2].tolist() == [4, 4, 4] and uv.grad is None
