"""The nvdiffrast backend: its own code around the double on the CPU, and nvdiffrast itself where it runs."""

from __future__ import annotations

import threading

import pytest
import torch

from rasterize import nvdiffrast_double
from rasterize.meshes import two_sheets
from rasterize.own_backends import nvdiffrast_on_the_double
from rasterize.parity import check_parity
from texalign.rasterize import select_backend, unavailable_reason


def test_values_and_gradients_are_those_of_the_torch_backend():
    check_parity(nvdiffrast_on_the_double())


MISTAKES = {
    "y flipped": ("2 * y / height - depth", "depth - 2 * y / height"),
    "half a pixel off": ("2 * x / width - depth", "2 * x / width - depth + depth / width"),
    "height and width swapped": ("(height, width), grad_db", "(width, height), grad_db"),
    "depth reversed": ("(depth * (far + close) - 2 * far * close)", "(2 * far * close - depth * (far + close))"),
    "near plane at the nearest vertex and beyond": ("0.99 * closest", "1.3 * closest"),
    "near plane ignored": ("clamp(min=near), near)", "clamp(min=near), 0.1 * near)"),
    "near plane too far away": ("clamp(min=near), near)", "clamp(min=near), 4 * near)"),
    "far plane before the farthest vertex": ("1.01 * depth.amax", "0.8 * depth.amax"),
    "weights rotated": ("[first, second, 1 - first - second]", "[second, 1 - first - second, first]"),
    "weights swapped": ("[first, second, 1 - first - second]", "[second, first, 1 - first - second]"),
    "weights on the background": ("1 - first - second], dim=-1) * covered", "1 - first - second], dim=-1)"),
    "face not shifted": (".to(torch.int64) - 1", ".to(torch.int64)"),
    "nearness reversed": ("2 - native[..., 2]", "2 + native[..., 2]"),
    "nearness with a gradient": ("native[..., 2].detach()", "native[..., 2]"),
    "points without a gradient": ("_clip_space(points, ", "_clip_space(points.detach(), "),
    "borders wrap": ('boundary_mode="clamp"', 'boundary_mode="wrap"'),
    "boundary mode left out": (', boundary_mode="clamp"', ""),
    "texels not redirected": ("texture.flatten(2).index_select(2, redirect).reshape(texture.shape)", "texture"),
    "texture transposed": ("texture.permute(0, 2, 3, 1)", "texture.permute(0, 3, 2, 1)"),
    "colour on the background": ("values * covered", "values"),
    "texture not contiguous": ("permute(0, 2, 3, 1).contiguous()", "permute(0, 2, 3, 1)"),
    "uv not contiguous": ("uv.contiguous()", "uv"),
    "faces in int64": ("faces.to(torch.int32)", "faces"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_in_the_backend_is_found(mistake):
    passage, other = MISTAKES[mistake]
    mistaken = nvdiffrast_on_the_double({passage: other})
    with pytest.raises((AssertionError, RuntimeError, IndexError)):
        check_parity(mistaken)


def test_every_thread_has_one_context_and_every_surface_one_int32_copy(monkeypatch):
    calls, rasterize = [], nvdiffrast_double.rasterize
    monkeypatch.setattr(nvdiffrast_double, "rasterize", lambda *a, **k: calls.append((*a, k)) or rasterize(*a, **k))
    backend, (points, faces) = nvdiffrast_on_the_double(), two_sheets()
    other = threading.Thread(target=backend.rasterize, args=(points, faces, 4, 4, 0.1))
    backend.rasterize(points, faces, 4, 4, 0.1)
    other.start()
    other.join()
    backend.rasterize(points, faces, 4, 4, 0.1)
    contexts, _, triangles, _, options = zip(*calls)
    assert contexts[0] is contexts[2] is not contexts[1]
    assert triangles[0] is triangles[1] is triangles[2]
    assert options == ({"grad_db": False},) * 3  # derivatives that nobody uses get no gradient


@pytest.mark.parametrize("silhouette", [False, True])
def test_backends_agree_on_values_and_gradients(scene, surface, silhouette):
    """Relative L2 between the two backends on hands, away from silhouettes and at them."""
    cuda = torch.device("cuda", 0)
    reason = unavailable_reason("nvdiffrast", cuda)
    if reason is not None:
        pytest.skip(f"nvdiffrast cannot run on this machine: {reason}")
    vertices, camera = scene(4, 128)
    faces, twins = surface.faces.to(cuda), surface.twins.to(cuda)
    weights = torch.rand(4, 128, 128, 2, generator=torch.Generator().manual_seed(0)).to(cuda)
    leaves, images, indices = [], [], []
    for name in ("torch", "nvdiffrast"):
        backend = select_backend(name, cuda)
        leaves.append(camera.homogeneous(vertices).to(cuda).requires_grad_())
        found = backend.rasterize(leaves[-1], faces, 128, 128, 0.01)
        if silhouette:
            covered = (found.face_index >= 0)[..., None].float().expand(-1, -1, -1, 2)
            images.append(backend.antialias(covered.contiguous(), found, leaves[-1], faces, twins))
        else:
            images.append(backend.interpolate(surface.uv[None].to(cuda), surface.uv_faces.to(cuda), found))
        indices.append(found.face_index)
    agree = indices[0] == indices[1]
    assert agree.float().mean() > 0.999
    # Pixels on which the two see different faces have no gradient in common.
    ours, theirs = (
        torch.autograd.grad((image * weights * agree[..., None]).sum(), leaf)[0].flatten()
        for image, leaf in zip(images, leaves)
    )
    limit = 5e-2 if silhouette else 1e-3
    assert (images[0] - images[1])[agree].norm() < limit * images[1][agree].norm()
    assert (ours - theirs).norm() < limit * theirs.norm()
