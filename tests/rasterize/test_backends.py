from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import reference
from texalign.rasterize import nearest, select_backend, torch_backend, unavailable_reason
from texalign.rasterize.functions import edge_functions

NEAR = 0.1


def random_mesh(seed: int, face_count: int = 12, height: int = 20, width: int = 28, behind: float = 0.0):
    """Points (1, V, 3) in homogeneous pixels, around the frame; a share of the vertices lies behind the camera."""
    generator = torch.Generator().manual_seed(seed)
    vertex_count = face_count + 2
    pixel = torch.rand(vertex_count, 2, generator=generator) * torch.tensor([width, height]) * 1.6
    pixel = pixel - 0.3 * torch.tensor([width, height])
    depth = 0.5 + torch.rand(vertex_count, 1, generator=generator)
    depth = torch.where(torch.rand(vertex_count, 1, generator=generator) < behind, -0.7 * depth, depth)
    faces = torch.stack([torch.randperm(vertex_count, generator=generator)[:3] for _ in range(face_count)])
    return torch.cat([pixel * depth, depth], dim=1)[None], faces


def grid_mesh(columns: int, rows: int, width: float, height: float, seed: int = 0):
    """A wavy sheet over the whole frame with shared vertices."""
    generator = torch.Generator().manual_seed(seed)
    y, x = torch.meshgrid(torch.linspace(0, height, rows + 1), torch.linspace(0, width, columns + 1), indexing="ij")
    depth = 1 + 0.3 * torch.rand(rows + 1, columns + 1, generator=generator)
    points = torch.stack([x * depth, y * depth, depth], dim=-1).reshape(1, -1, 3)
    index = torch.arange((rows + 1) * (columns + 1)).reshape(rows + 1, columns + 1)
    a, b, c, d = index[:-1, :-1], index[:-1, 1:], index[1:, :-1], index[1:, 1:]
    faces = torch.cat([torch.stack([a, d, b], -1).reshape(-1, 3), torch.stack([a, c, d], -1).reshape(-1, 3)])
    return points, faces


def neighbours(faces: torch.Tensor) -> torch.Tensor:
    from texalign.surface import twin_edges

    return torch.from_numpy(twin_edges(faces.numpy()))


# --- values ----------------------------------------------------------------


@pytest.mark.parametrize("behind", [0.0, 0.3])
@pytest.mark.parametrize("seed", range(6))
def test_values_equal_the_brute_force_reference(backend, seed, behind):
    module, device = backend
    points, faces = random_mesh(seed, behind=behind)
    found = module.rasterize(points.to(device), faces.to(device), 20, 28, NEAR)
    index, barycentric, safety = reference.rasterize(points[0].numpy(), faces.numpy(), 20, 28, NEAR)
    safe = safety > (1e-3 if module.name != "nvdiffrast" else 2e-2)  # nvdiffrast snaps corners to 1/16 pixel
    assert safe.mean() > (0.8 if module.name != "nvdiffrast" else 0.5)
    np.testing.assert_array_equal(found.face_index[0].cpu().numpy()[safe], index[safe])
    same = safe & (index >= 0)
    assert same.sum() > 20
    np.testing.assert_allclose(found.barycentric[0].cpu().numpy()[same], barycentric[same], atol=2e-4)
    assert (found.barycentric[0].cpu().numpy()[safe & (index < 0)] == 0).all()
    weights = found.barycentric.sum(-1)[found.face_index >= 0]
    torch.testing.assert_close(weights, torch.ones_like(weights))


def test_pixels_lists_the_covered_pixels(backend):
    module, device = backend
    points, faces = random_mesh(1)
    found = module.rasterize(points.to(device), faces.to(device), 20, 28, NEAR)
    assert torch.equal(found.pixels.cpu(), (found.face_index.cpu().reshape(-1) >= 0).nonzero()[:, 0])


def test_one_pixel_triangle_lights_one_pixel(backend):
    module, device = backend
    row, column = 3, 5
    corners = torch.tensor([[column + 0.5, row + 0.1, 1], [column + 0.1, row + 0.9, 1], [column + 0.9, row + 0.9, 1]])
    found = module.rasterize(corners[None].to(device), torch.tensor([[0, 1, 2]], device=device), 7, 9, NEAR)
    lit = (found.face_index[0] == 0).nonzero()
    assert lit.tolist() == [[row, column]]


def test_interpolation_is_perspective_correct(backend):
    """Halfway across the screen between depths 1 and 3, the surface point is a quarter of the way: 1/z is linear."""
    module, device = backend
    depth = torch.tensor([1.0, 3.0, 1.0, 3.0])
    pixel = torch.tensor([[0.0, 0.0], [9.0, 0.0], [0.0, 9.0], [9.0, 9.0]])
    points = torch.cat([pixel * depth[:, None], depth[:, None]], dim=1)[None].to(device)
    faces = torch.tensor([[0, 2, 3], [0, 3, 1]], device=device)
    found = module.rasterize(points, faces, 9, 9, NEAR)
    attribute = torch.tensor([0.0, 1.0, 0.0, 1.0], device=device)[None, :, None]
    value = module.interpolate(attribute, faces, found)[0, 4, 4, 0]
    assert value.item() == pytest.approx(0.25, abs=1e-5)


def test_moving_the_mesh_by_one_pixel_moves_the_image_by_one_pixel(backend):
    module, device = backend
    points, faces = random_mesh(3)
    moved = points.clone()
    moved[..., 0] += moved[..., 2]
    moved[..., 1] += 2 * moved[..., 2]
    images = []
    for p in (points, moved):
        p = p.to(device)
        found = module.rasterize(p, faces.to(device), 20, 28, NEAR)
        covered = (found.face_index >= 0)[..., None].float()
        images.append(
            module.antialias(covered, found, p, faces.to(device), torch.full_like(faces, -1).to(device))[..., 0]
        )
    # Pixels beside the frame's edge have neighbours in one image only.
    torch.testing.assert_close(images[1][0, 4:, 3:], images[0][0, 2:-2, 2:-1], atol=2e-4, rtol=0)


def test_shared_edges_are_watertight_and_never_covered_twice(backend):
    module, device = backend
    points, faces = grid_mesh(7, 5, 28.0, 20.0)
    points, faces = points.to(device), faces.to(device)
    assert (module.rasterize(points, faces, 20, 28, NEAR).face_index >= 0).all()
    alone = [
        (module.rasterize(points, faces[i : i + 1], 20, 28, NEAR).face_index >= 0).int() for i in range(len(faces))
    ]
    assert torch.equal(sum(alone), torch.ones_like(alone[0]))


def test_degenerate_faces_and_sizes(backend):
    module, device = backend
    points = torch.tensor([[[2.0, 2, 1], [6, 6, 1], [4, 4, 1], [2, 2, 1], [1, 6, 1]]], device=device)
    faces = torch.tensor([[0, 1, 2], [0, 3, 1], [0, 4, 1]], device=device)  # a line, a repeated point, a real face
    index = module.rasterize(points, faces, 8, 8, NEAR).face_index
    assert set(index.unique().tolist()) == {-1, 2}
    for height, width in ((1, 1), (1, 9), (5, 3)):
        covering = torch.tensor([[[-9.0, -9, 1], [-9, 99, 1], [99, -9, 1]]], device=device)
        found = module.rasterize(covering, faces[:1] * 0 + torch.arange(3, device=device), height, width, NEAR)
        assert found.face_index.shape == (1, height, width)
        assert (found.face_index == 0).all()
    empty = module.rasterize(points[:0], faces, 4, 4, NEAR)
    assert empty.face_index.shape == (0, 4, 4)
    assert module.interpolate(points[:0], faces, empty).shape == (0, 4, 4, 3)
    for behind in (-points, points + torch.tensor([100.0, 0, 0], device=device)):
        assert (module.rasterize(behind, faces, 8, 8, NEAR).face_index == -1).all()


def test_faces_with_non_finite_corners_are_dropped():
    points, faces = random_mesh(5)
    points[0, faces[0, 0]] = torch.nan
    bad = (faces == faces[0, 0]).any(dim=1)
    found = torch_backend.rasterize(points, faces, 20, 28, NEAR)
    rest = torch_backend.rasterize(points, faces[~bad], 20, 28, NEAR)
    kept = (~bad).nonzero()[:, 0]
    expected = torch.where(rest.face_index >= 0, kept[rest.face_index.clamp(min=0)], -1)
    assert torch.equal(found.face_index, expected)


@pytest.mark.parametrize("behind", [0.0, 0.3])
def test_chunks_do_not_change_the_result(monkeypatch, behind):
    points, faces = random_mesh(7, face_count=40, behind=behind)
    points = torch.cat([points, points.flip(1)])
    whole = torch_backend.rasterize(points, faces, 20, 28, NEAR).face_index
    monkeypatch.setattr(nearest, "MAX_CANDIDATES", 700)
    assert torch.equal(torch_backend.rasterize(points, faces, 20, 28, NEAR).face_index, whole)


def test_equal_depth_goes_to_the_lower_face():
    points = torch.tensor([[[0.0, 0, 1], [0, 9, 1], [9, 0, 1]]])
    found = torch_backend.rasterize(points, torch.tensor([[0, 1, 2], [0, 1, 2]]), 8, 8, NEAR)
    assert set(found.face_index.unique().tolist()) == {-1, 0}


# --- gradients -------------------------------------------------------------


def test_barycentric_backward_equals_autograd_of_the_plain_formula():
    points, faces = random_mesh(11)
    points = points.double().requires_grad_()
    found = torch_backend.rasterize(points, faces, 20, 28, NEAR)
    index = found.face_index[0]
    row, column = (index >= 0).nonzero().unbind(1)
    corner = points[0][faces[index[row, column]]]
    x, y = column.double() + 0.5, row.double() + 0.5
    edges = edge_functions(corner[..., 0] - x[:, None] * corner[..., 2], corner[..., 1] - y[:, None] * corner[..., 2])
    plain = edges / edges.sum(dim=1, keepdim=True)
    weights = torch.rand(plain.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    torch.testing.assert_close(found.barycentric[0][row, column], plain)
    (fast,) = torch.autograd.grad((found.barycentric[0][row, column] * weights).sum(), points)
    (slow,) = torch.autograd.grad((plain * weights).sum(), points)
    torch.testing.assert_close(fast, slow)


def test_bilinear_lookup_equals_grid_sample():
    generator = torch.Generator().manual_seed(0)
    points, faces = grid_mesh(3, 3, 28.0, 20.0)
    points = points.expand(2, -1, -1)
    found = torch_backend.rasterize(points, faces, 20, 28, NEAR)
    texture = torch.rand(2, 3, 8, 8, generator=generator, dtype=torch.float64, requires_grad=True)
    uv = (torch.rand(2, 20, 28, 2, generator=generator, dtype=torch.float64) * 1.2 - 0.1).requires_grad_()
    itself = torch.arange(8 * 8)
    layers = torch_backend.sample_texture(texture, uv, found, itself).permute(0, 3, 1, 2)
    ours = layers[:, :3]
    assert (layers[:, 3] == 1).all()
    theirs = torch.nn.functional.grid_sample(texture, 2 * uv - 1, padding_mode="border", align_corners=False)
    torch.testing.assert_close(ours, theirs)
    weights = torch.rand(ours.shape, generator=generator, dtype=torch.float64)
    for a, b in zip(*[torch.autograd.grad((image * weights).sum(), [texture, uv]) for image in (ours, theirs)]):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("behind", [0.0, 0.3])
def test_gradcheck_interpolate(behind):
    points, faces = random_mesh(13, face_count=5, height=6, width=8, behind=behind)
    attributes = torch.rand(1, points.shape[1], 2, dtype=torch.float64, requires_grad=True)
    points = points.double().requires_grad_()

    def run(p, a):
        return torch_backend.interpolate(a, faces, torch_backend.rasterize(p, faces, 6, 8, NEAR))

    assert torch.autograd.gradcheck(run, (points, attributes), eps=1e-7, atol=1e-4)


def test_gradcheck_sample_texture():
    points, faces = random_mesh(14, face_count=4, height=5, width=6)
    found = torch_backend.rasterize(points.double(), faces, 5, 6, NEAR)
    texture = torch.rand(1, 2, 4, 4, dtype=torch.float64, requires_grad=True)
    uv = torch.rand(1, 5, 6, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(2)).requires_grad_()
    assert torch.autograd.gradcheck(
        lambda t, c: torch_backend.sample_texture(t, c, found, torch.arange(16)), (texture, uv), atol=1e-5
    )


def test_gradcheck_antialias():
    points, faces = random_mesh(16, face_count=3, height=8, width=9)
    points = points.double().requires_grad_()
    image = torch.rand(1, 8, 9, 2, dtype=torch.float64, requires_grad=True)
    twins = torch.full_like(faces, -1)

    def run(p, i):
        return torch_backend.antialias(i, torch_backend.rasterize(p, faces, 8, 9, NEAR), p, faces, twins)

    assert not torch.equal(run(points, image), image)
    assert torch.autograd.gradcheck(run, (points, image), eps=1e-7, atol=1e-4)


def _numeric_gradient(function, points, step):
    gradient = torch.zeros_like(points)
    for index in np.ndindex(*points.shape):
        moved = points.detach().clone()
        moved[index] += step
        above = function(moved)
        moved[index] -= 2 * step
        gradient[index] = (above - function(moved)) / (2 * step)
    return gradient


def test_interior_gradient_equals_central_differences(backend):
    module, device = backend
    # A sheet: faces that pierce each other change places under any step, which no gradient describes.
    points, faces = grid_mesh(3, 2, 28.0, 20.0)
    points, faces = points.to(device), faces.to(device)
    generator = torch.Generator().manual_seed(0)
    attributes = torch.rand(1, points.shape[1], 3, generator=generator).to(device)
    weights = torch.rand(1, 20, 28, 3, generator=generator).to(device)
    base = module.rasterize(points, faces, 20, 28, NEAR)
    margin = base.barycentric.min(dim=-1).values
    inside = (margin > 0.03)[..., None]
    step = 2e-3

    def loss(p):
        found = module.rasterize(p, faces, 20, 28, NEAR)
        stays = inside & (found.face_index == base.face_index)[..., None]
        return (module.interpolate(attributes, faces, found) * weights * stays).sum()

    leaf = points.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(loss(leaf), leaf)
    numeric = _numeric_gradient(loss, points, step)
    assert gradient.norm() > 0
    assert (gradient - numeric).norm() < 0.02 * numeric.norm()


def test_silhouette_gradient_equals_the_area_and_its_derivative(backend):
    """The coverage of a triangle sums to its area in pixels, and the gradient to the area's derivative."""
    module, device = backend
    faces = torch.tensor([[0, 1, 2]], device=device)
    pixel = torch.tensor([[30.3, 5.2], [8.7, 40.1], [52.4, 55.9]], device=device, requires_grad=True)
    points = torch.cat([pixel, torch.ones(3, 1, device=device)], dim=1)[None]
    found = module.rasterize(points, faces, 64, 64, NEAR)
    covered = (found.face_index >= 0)[..., None].float()
    total = module.antialias(covered, found, points, faces, torch.full_like(faces, -1)).sum()
    a, b, c = pixel
    area = ((b - a)[0] * (c - a)[1] - (b - a)[1] * (c - a)[0]).abs() / 2
    assert total.item() == pytest.approx(area.item(), rel=2e-3)
    (ours,) = torch.autograd.grad(total, pixel)
    (exact,) = torch.autograd.grad(area, pixel)
    assert (ours - exact).norm() < 0.05 * exact.norm()


def test_inner_edges_give_no_silhouette(backend):
    module, device = backend
    points, faces = grid_mesh(6, 4, 28.0, 20.0)
    twins = neighbours(faces).to(device)
    points, faces = points.to(device), faces.to(device)
    found = module.rasterize(points, faces, 20, 28, NEAR)
    image = torch.rand(1, 20, 28, 2, generator=torch.Generator().manual_seed(0)).to(device)
    torch.testing.assert_close(module.antialias(image, found, points, faces, twins), image)


def test_adjoint_identities(backend):
    """Each op is linear in its image-like input A: ⟨op(a), g⟩ = ⟨a, opᵀ(g)⟩, the adjoint coming from the backward."""
    module, device = backend
    points, faces = random_mesh(19)
    points, faces = points.to(device), faces.to(device)
    found = module.rasterize(points, faces, 20, 28, NEAR)
    generator = torch.Generator().manual_seed(0)

    def rand(*shape):
        return torch.rand(*shape, generator=generator).to(device)

    uv, itself = rand(1, 20, 28, 2), torch.arange(16 * 16, device=device)
    twins = torch.full_like(faces, -1)
    for operation, shape in (
        (lambda a: module.interpolate(a, faces, found), (1, points.shape[1], 3)),
        (lambda a: module.sample_texture(a, uv, found, itself)[..., :3], (1, 3, 16, 16)),
        (lambda a: module.antialias(a, found, points, faces, twins), (1, 20, 28, 3)),
    ):
        leaf = rand(*shape).requires_grad_()
        out = operation(leaf)
        probe = rand(*out.shape)
        (adjoint,) = torch.autograd.grad((out * probe).sum(), leaf)
        other = rand(*shape)
        assert torch.isclose((operation(other) * probe).sum(), (adjoint * other).sum(), rtol=1e-4)


@given(
    seed=st.integers(0, 10_000),
    behind=st.sampled_from([0.0, 0.2, 0.6]),
    scale=st.sampled_from([1e-3, 1.0, 1e3]),
    size=st.sampled_from([(1, 1), (3, 17), (16, 16)]),
)
def test_random_meshes_give_finite_values_and_gradients(seed, behind, scale, size):
    points, faces = random_mesh(seed, face_count=8, height=size[0], width=size[1], behind=behind)
    points = (points * scale).requires_grad_()
    found = torch_backend.rasterize(points, faces, *size, near=NEAR * scale)
    attributes = torch.rand(1, points.shape[1], 3)
    image = torch_backend.interpolate(attributes, faces, found)
    image = torch_backend.antialias(image, found, points, faces, torch.full_like(faces, -1))
    (gradient,) = torch.autograd.grad(image.square().sum() + found.barycentric.square().sum(), points)
    assert torch.isfinite(image).all()
    assert torch.isfinite(gradient).all()


# --- choosing --------------------------------------------------------------


def test_backends_that_cannot_run_say_why():
    cpu = torch.device("cpu")
    assert unavailable_reason("torch", cpu) is None
    assert "CUDA device" in unavailable_reason("nvdiffrast", cpu)
    with pytest.raises(RuntimeError, match=r"nvdiffrast backend does not run on cpu: .*needs a CUDA device"):
        select_backend("nvdiffrast", cpu)
    assert select_backend("auto", cpu).name == "torch"


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_the_self_test_runs_inside_any_mode(mode):
    unavailable_reason.cache_clear()
    with mode():
        assert unavailable_reason("torch", torch.device("cpu")) is None


def test_auto_falls_back_with_one_warning(monkeypatch, recwarn):
    from texalign.rasterize import registry as package

    monkeypatch.setattr(package, "unavailable_reason", lambda *_: "RuntimeError: no kernel image")
    package._warn_once.cache_clear()
    cuda = torch.device("cuda", 0)
    assert package.select_backend("auto", cuda).name == "torch"
    assert package.select_backend("auto", cuda).name == "torch"
    assert len([w for w in recwarn if "falls back" in str(w.message) and "no kernel image" in str(w.message)]) == 1
    with pytest.raises(RuntimeError, match="no kernel image"):
        package.select_backend("nvdiffrast", cuda)


def test_a_walk_of_one_step_is_nvdiffrasts_own_antialias(scene, surface, monkeypatch):
    """What `benchmarks/silhouettes.py` calls "own face only" is what nvdiffrast does."""
    cuda = torch.device("cuda", 0)
    reason = unavailable_reason("nvdiffrast", cuda)
    if reason is not None:
        pytest.skip(f"nvdiffrast cannot run on this machine: {reason}")
    import nvdiffrast.torch as dr

    from texalign.rasterize import nvdiffrast_backend, silhouettes

    vertices, camera = scene(4, 128)
    points, faces = camera.homogeneous(vertices).to(cuda), surface.faces.to(cuda)
    found = nvdiffrast_backend.rasterize(points, faces, 128, 128, 0.01)
    covered = (found.face_index >= 0)[..., None].float()
    clip = nvdiffrast_backend._clip_space(points, 128, 128, 0.01)
    theirs = dr.antialias(covered, found.native, clip, faces.to(torch.int32))
    monkeypatch.setattr(silhouettes, "MAX_STEPS", 1)
    ours = nvdiffrast_backend.antialias(covered, found, points, faces, surface.twins.to(cuda))
    assert ((ours - theirs).abs() > 1e-2).float().mean() < 1e-3


@pytest.mark.parametrize("silhouette", [False, True])
def test_backends_agree_on_values_and_gradients(scene, surface, silhouette):
    """Relative L2 and cosine between the gradients of the two backends on hands, away from silhouettes and at them."""
    cuda = torch.device("cuda", 0)
    reason = unavailable_reason("nvdiffrast", cuda)
    if reason is not None:
        pytest.skip(f"nvdiffrast cannot run on this machine: {reason}")
    vertices, camera = scene(4, 128)
    faces, twins = surface.faces.to(cuda), surface.twins.to(cuda)
    weights = torch.rand(4, 128, 128, 2, generator=torch.Generator().manual_seed(0)).to(cuda)
    leaves, images, indices = [], [], []
    for name in ("torch", "nvdiffrast"):
        module = select_backend(name, cuda)
        leaf = camera.homogeneous(vertices).to(cuda).requires_grad_()
        found = module.rasterize(leaf, faces, 128, 128, 0.01)
        if silhouette:
            covered = (found.face_index >= 0)[..., None].float().expand(-1, -1, -1, 2)
            image = module.antialias(covered.contiguous(), found, leaf, faces, twins)
        else:
            image = module.interpolate(surface.uv[None].to(cuda), surface.uv_faces.to(cuda), found)
        leaves.append(leaf)
        images.append(image)
        indices.append(found.face_index)
    agree = indices[0] == indices[1]
    assert agree.float().mean() > 0.999
    # Pixels on which the two see different faces have no gradient in common.
    gradients = [
        torch.autograd.grad((image * weights * agree[..., None]).sum(), leaf)[0].flatten()
        for image, leaf in zip(images, leaves)
    ]
    difference = (images[0] - images[1])[agree].norm() / images[1][agree].norm()
    relative = (gradients[0] - gradients[1]).norm() / gradients[1].norm()
    cosine = torch.nn.functional.cosine_similarity(gradients[0], gradients[1], dim=0)
    assert difference < (5e-2 if silhouette else 1e-3)
    assert relative < (5e-2 if silhouette else 1e-3)
    assert cosine > (0.99 if silhouette else 0.999)
