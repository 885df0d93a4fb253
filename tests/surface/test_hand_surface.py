from __future__ import annotations

import hashlib
import itertools
import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import texalign as ta
from texalign import mano
from texalign._internal import hand_asset
from texalign.mano import write_mano
from texalign.surface import same_atlas

PRIOR_SHA256 = "f50490f72a731263d57073c20517d3c412db58a5a5448ffc45475dfa49398ca0"


def arrays(surface):
    return surface.faces.numpy().copy(), surface.uv.numpy().copy(), surface.uv_faces.numpy().copy()


def test_mano_topology(surface):
    assert (surface.vertex_count, len(surface.faces), len(surface.uv)) == (778, 1538, 905)
    assert surface.is_right
    # Euler characteristic of a disc: one hole, the wrist.
    boundary = int((surface.twins == -1).sum())
    assert 778 - (3 * 1538 + boundary) // 2 + 1538 == 1
    (wrist,) = surface.boundary_loops
    assert set(wrist) == {92, 38, 122, 118, 117, 119, 120, 108, 79, 78, 121, 214, 215, 279, 239, 234}
    assert boundary == 16


def test_every_bundled_surface_is_its_own(surface):
    other = ta.HandSurface.mano()
    before = other.texel_map(16)
    other.faces.zero_()
    other.to("meta")
    again = ta.HandSurface.mano()
    assert torch.equal(again.faces, surface.faces) and again.faces.device == surface.faces.device
    assert all(torch.equal(mine, theirs) for mine, theirs in zip(again.texel_map(16), before))
    with torch.inference_mode():
        assert not ta.HandSurface.mano().uv.is_inference()


@pytest.mark.slow
def test_fake_tensors_are_not_kept():
    code = """
import torch
import texalign as ta
from torch._subclasses.fake_tensor import FakeTensorMode
with FakeTensorMode():
    ta.HandSurface.mano()
surface = ta.HandSurface.mano()
assert type(surface.uv) is torch.Tensor and type(surface.texel_map(16).redirect) is torch.Tensor
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_twins_are_the_same_edge_in_the_neighbour(surface):
    faces, twins = surface.faces.tolist(), surface.twins.reshape(-1).tolist()

    def ends(number):
        face, edge = divmod(number, 3)
        return faces[face][(edge + 1) % 3], faces[face][(edge + 2) % 3]

    for number, twin in enumerate(twins):
        if twin >= 0:
            assert twins[twin] == number
            assert ends(twin) == ends(number)[::-1]
        else:
            assert sum(set(ends(number)) <= set(face) for face in faces) == 1


def test_wound_outwards(surface, hand):
    """The signed volume of the closed hand is that of a hand: 0.2 to 0.5 litres, not its negative."""
    corner = hand(torch.zeros(1, 16, 3)).vertices[0][surface.closed_wrist().faces]
    volume = (corner[:, 0] * torch.linalg.cross(corner[:, 1], corner[:, 2])).sum() / 6
    assert 2e-4 < volume < 5e-4


def test_texel_map_returns_to_its_own_texel(surface):
    size = 64
    texels = surface.texel_map(size)
    row, column = (texels.face_index >= 0).nonzero().unbind(1)
    assert 0.27 < len(row) / size**2 < 0.30  # the layout covers 28.8 % of the square
    corner = surface.uv[surface.uv_faces[texels.face_index[row, column]]]
    uv = (corner * texels.barycentric[row, column][..., None]).sum(dim=1)
    expected = (torch.stack([column, row], dim=1) + 0.5) / size
    torch.testing.assert_close(uv, expected, atol=1e-5, rtol=0)
    assert surface.texel_map(size) is texels


def test_dilated_fills_what_a_lookup_inside_a_chart_can_touch(surface):
    size = 64
    inside = (surface.texel_map(size).face_index >= 0)[None, None].float()
    # A texture of ones inside and a million outside: any lookup on a chart must still read 1.
    texture = surface.dilated(inside + 1e6 * (1 - inside))
    weights = torch.rand(4000, 3, generator=torch.Generator().manual_seed(0))
    weights = weights / weights.sum(dim=1, keepdim=True)
    picked = surface.uv[surface.uv_faces[torch.arange(4000) % 1538]]
    grid = 2 * (picked * weights[..., None]).sum(dim=1) - 1
    read = torch.nn.functional.grid_sample(texture, grid[None, None], padding_mode="border", align_corners=False)
    torch.testing.assert_close(read, torch.ones_like(read))


def test_dilated_is_the_identity_inside_and_differentiable(surface):
    texture = torch.rand(2, 3, 32, 32, dtype=torch.float64, requires_grad=True)
    out = surface.dilated(texture)
    inside = surface.texel_map(32).face_index >= 0
    assert torch.equal(out[..., inside], texture[..., inside])
    (gradient,) = torch.autograd.grad(out.sum(), texture)
    assert gradient.sum().item() == pytest.approx(texture.numel())
    redirect = surface.texel_map(32).redirect
    redirected = (redirect != torch.arange(32 * 32)).reshape(32, 32)
    assert redirected.sum() > 100
    assert (gradient[..., redirected] == 0).all()


def test_mirrored(surface):
    left = surface.mirrored()
    assert not left.is_right
    assert torch.equal(left.faces, surface.faces[:, [0, 2, 1]])
    assert torch.equal(left.uv_faces, surface.uv_faces[:, [0, 2, 1]])
    again = left.mirrored()
    assert again.is_right
    assert torch.equal(again.faces, surface.faces)
    # The same point of the atlas is the same vertex.
    assert torch.equal(left.texel_map(32).face_index, surface.texel_map(32).face_index)


def test_closed_wrist(surface):
    closed = surface.closed_wrist()
    assert len(closed.faces) == 1552
    assert closed.vertex_count == 778
    assert closed.boundary_loops == []
    assert (closed.twins >= 0).all()
    assert torch.equal(closed.faces[:1538], surface.faces)
    assert torch.equal(closed.texel_map(64).face_index, surface.texel_map(64).face_index)
    assert len(surface.mirrored().closed_wrist().faces) == 1552


def test_the_atlas_stays_the_same_however_it_is_written(surface):
    faces, uv, uv_faces = arrays(surface)
    generator = np.random.default_rng(0)
    order, turn = generator.permutation(len(faces)), (np.arange(3) + generator.integers(0, 3, len(faces))[:, None]) % 3
    turned = [np.take_along_axis(indices, turn, axis=1)[order] for indices in (faces, uv_faces)]
    number = generator.permutation(len(uv))
    seamless = uv[uv_faces].reshape(-1, 2)  # every corner its own uv
    for other in (
        ta.HandSurface(faces.astype(np.int32), uv.astype(np.float64), uv_faces),
        ta.HandSurface(turned[0], uv, turned[1]),
        ta.HandSurface(faces, uv[number], np.argsort(number)[uv_faces]),
        ta.HandSurface(faces, seamless, np.arange(len(seamless)).reshape(-1, 3)),
        surface.mirrored(),
        surface.closed_wrist(),
        surface.closed_wrist().mirrored(),
        surface.mirrored().closed_wrist(),
        ta.HandSurface.from_layer(SimpleNamespace(faces=turned[0][:, ::-1])),
        ta.HandSurface.from_layer(SimpleNamespace(faces=surface.mirrored().closed_wrist().faces)),
    ):
        assert other.atlas_id == surface.atlas_id


def test_another_atlas_has_another_id(surface):
    faces, uv, uv_faces = arrays(surface)
    swapped = uv_faces.copy()
    swapped[[10, 700]] = swapped[[700, 10]]
    # A cap with area in the atlas is a part of it.
    cap, place = surface.closed_wrist().faces[-1:].numpy(), uv_faces[:1]
    others = [
        ta.HandSurface(np.roll(faces, 1, axis=1), uv, uv_faces),  # uv turned within each face
        ta.HandSurface(faces[:, [0, 2, 1]], uv, uv_faces),
        ta.HandSurface((faces + 1) % 778, uv, uv_faces),
        ta.HandSurface(faces, 1 - uv, uv_faces),
        ta.HandSurface(faces, uv[:, ::-1], uv_faces),
        ta.HandSurface(faces, uv, swapped),
        ta.HandSurface(faces[:-1], uv, uv_faces[:-1]),
        ta.HandSurface(np.concatenate([faces, cap]), uv, np.concatenate([uv_faces, place])),
    ]
    ids = [other.atlas_id for other in (surface, *others)]
    assert not any(same_atlas(one, other) for one, other in itertools.combinations(ids, 2))


@pytest.mark.parametrize("seed", range(5))
def test_rounding_keeps_the_atlas_and_a_moved_layout_does_not(surface, seed):
    faces, uv, uv_faces = arrays(surface)
    generator = np.random.default_rng(seed)

    def same(moved):
        return same_atlas(ta.HandSurface(faces, moved.clip(0, 1), uv_faces).atlas_id, surface.atlas_id)

    noise = generator.uniform(-1, 1, uv.shape)
    assert same(np.nextafter(uv, np.float32(seed % 2)))
    assert same(1 - (1 - uv)) and same(uv.round(6)) and same(uv + 1e-6 * noise) and same(uv + 5e-6 * noise)
    assert not same(uv + 1e-3 * noise)
    assert not same(uv + np.float32([2e-4, 0]))
    assert not same(uv * np.float32(0.9997))
    one = uv.copy()
    one[generator.integers(len(uv))] += 0.02  # two texels of 128
    assert not same(one)


def test_the_bundled_surface_survives_an_obj_file(surface, tmp_path):
    hand = hand_asset()
    for decimals in (6, 8):
        lines = [f"v {x:.{decimals}f} {y:.{decimals}f} {z:.{decimals}f}" for x, y, z in hand["vertices"]]
        lines += [f"vt {u:.{decimals}f} {1 - v:.{decimals}f}" for u, v in surface.uv.tolist()]
        pairs = zip(surface.faces.tolist(), surface.uv_faces.tolist())
        lines += ["f " + " ".join(f"{v + 1}/{t + 1}" for v, t in zip(face, uv)) for face, uv in pairs]
        path = tmp_path / f"hand{decimals}.obj"
        path.write_text("\n".join(lines))
        read = ta.HandSurface.from_obj(path)
        assert same_atlas(read.atlas_id, surface.atlas_id)
        renderer = ta.TexturedHandRenderer(read, 64)
        ta.DenseTextureAlignmentLoss(renderer, ta.UVTextureEncoder.from_pretrained(surface=read))


def test_the_bundled_prior_belongs_to_every_form_of_the_bundled_atlas(surface):
    plain = ta.UVTextureEncoder.from_pretrained(surface=surface)
    for other in (surface.mirrored(), surface.closed_wrist()):
        weights = ta.UVTextureEncoder.from_pretrained(surface=other).state_dict()
        assert all(torch.equal(weights[name], value) for name, value in plain.state_dict().items())
    changed = ta.HandSurface(surface.faces, surface.uv * 0.999, surface.uv_faces)
    with pytest.raises(ValueError, match="expected weights for the surface's atlas"):
        ta.UVTextureEncoder.from_pretrained(surface=changed)


def test_the_bundled_priors_tensors_are_those_that_were_trained():
    config = json.loads(Path(ta.__file__).with_name("assets").joinpath("prior.json").read_text(encoding="utf-8"))
    data = Path(ta.__file__).with_name("assets").joinpath("prior.safetensors").read_bytes()
    assert hashlib.sha256(data).hexdigest() == config["sha256"] == PRIOR_SHA256


def test_from_layer_smplx_and_manotorch_styles(surface):
    faces = surface.faces.numpy()
    smplx_like = SimpleNamespace(faces=faces.astype(np.uint32))
    manotorch_like = SimpleNamespace(th_faces=torch.from_numpy(faces))
    for layer in (smplx_like, manotorch_like):
        made = ta.HandSurface.from_layer(layer)
        assert made.atlas_id == surface.atlas_id
    left = ta.HandSurface.from_layer(SimpleNamespace(faces=faces[:, ::-1]))
    assert not left.is_right
    shuffled = np.roll(faces[np.random.default_rng(0).permutation(1538)], 1, axis=1)
    made = ta.HandSurface.from_layer(SimpleNamespace(faces=shuffled))
    assert made.is_right
    # Every corner keeps its own texture coordinate.
    ours = {(v, t) for v, t in zip(surface.faces.reshape(-1).tolist(), surface.uv_faces.reshape(-1).tolist())}
    assert {(v, t) for v, t in zip(made.faces.reshape(-1).tolist(), made.uv_faces.reshape(-1).tolist())} == ours
    closed = ta.HandSurface.from_layer(SimpleNamespace(faces=surface.closed_wrist().faces))
    assert len(closed.faces) == 1552
    assert closed.boundary_loops == []


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("suffix", [".pkl", ".npz"])
def test_from_mano(surface, tmp_path, side, suffix):
    made = ta.HandSurface.from_layer(mano.load(write_mano(tmp_path / f"model{suffix}", side=side)))
    assert made.is_right == (side == "right")
    assert made.atlas_id == surface.atlas_id
    assert torch.equal(made.texel_map(64).face_index >= 0, surface.texel_map(64).face_index >= 0)
    expected = surface if side == "right" else surface.mirrored()
    assert {frozenset(face) for face in made.faces.tolist()} == {frozenset(face) for face in expected.faces.tolist()}
    assert (made.twins == -1).sum() == 16


def test_from_layer_errors(surface):
    with pytest.raises(TypeError, match="expected a layer with faces or th_faces, got int"):
        ta.HandSurface.from_layer(3)
    faces = surface.faces.numpy().copy()
    faces[7] = [0, 300, 600]
    with pytest.raises(ValueError, match=r"expected MANO's faces, got face 7 = \(0, 300, 600\)"):
        ta.HandSurface.from_layer(SimpleNamespace(faces=faces))
    with pytest.raises(ValueError, match="expected all 1538 faces of MANO with one winding, got 1500"):
        ta.HandSurface.from_layer(SimpleNamespace(faces=surface.faces[:1500]))


def _break(faces, uv, uv_faces, name, index, value):
    {"faces": faces, "uv": uv, "uv_faces": uv_faces}[name][index] = value


@pytest.mark.parametrize(
    "name, index, value, message",
    [
        ("faces", (5, 1), 778, r"expected indices in faces from 0 to 777, got face 5 = "),
        ("faces", (5, 1), -1, r"expected indices in faces from 0 to 777, got face 5 = "),
        ("uv_faces", (9, 2), 905, r"expected indices in uv_faces from 0 to 904, got face 9 = "),
        ("uv", (3, 0), 1.5, r"expected uv in \[0, 1\], got uv 3 = \(1.5, "),
        ("uv", (3, 0), np.nan, r"expected uv in \[0, 1\], got uv 3 = \(nan, "),
        ("faces", 4, (1, 1, 2), r"three different vertices a face, got face 4 = \(1, 1, 2\)"),
    ],
)
def test_bad_elements_are_named(surface, name, index, value, message):
    faces, uv, uv_faces = arrays(surface)
    _break(faces, uv, uv_faces, name, index, value)
    with pytest.raises(ValueError, match=message):
        ta.HandSurface(faces, uv, uv_faces, vertex_count=778)


def test_bad_topology_is_named(surface):
    faces, uv, uv_faces = arrays(surface)
    flipped = faces.copy()
    flipped[100] = flipped[100, ::-1]
    with pytest.raises(
        ValueError, match=r"neighbouring faces with one winding, got faces \(.*100.*\) that both walk edge"
    ):
        ta.HandSurface(flipped, uv, uv_faces)
    a, b, c = faces[100]
    other = next(v for v in range(778) if v not in (a, b, c))
    crowded, crowded_uv = np.vstack([faces, [[b, a, other]]]), np.vstack([uv_faces, uv_faces[:1]])
    with pytest.raises(ValueError, match=r"at most two faces at an edge .* got edge \(\d+, \d+\) in faces \(.*1538\)"):
        ta.HandSurface(crowded, uv, crowded_uv)
    with pytest.raises(ValueError, match=r"expected uv_faces \(1538, 3\) like faces, got \(1500, 3\)"):
        ta.HandSurface(faces, uv, uv_faces[:1500])
    with pytest.raises(ValueError, match="faces of an integer dtype, got float32"):
        ta.HandSurface(faces.astype(np.float32), uv, uv_faces)
