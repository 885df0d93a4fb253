from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import texalign as ta


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return tmp_path_factory.mktemp("obj") / "mesh.obj"


@st.composite
def polygons(draw):
    """A fan of polygons about vertex 0, which every other polygon shares: (corners a polygon, numbers written back)."""
    sizes = draw(st.lists(st.integers(3, 6), min_size=1, max_size=4))
    return sizes, draw(st.booleans()), draw(st.sampled_from(["{v}/{t}", "{v}/{t}/", "{v}/{t}/1"])), draw(st.booleans())


@settings(max_examples=30)
@given(polygons(), st.integers(0, 100))
def test_polygons_are_fanned_v_is_flipped_and_negative_numbers_count_back(path, layout, seed):
    sizes, negative, form, crowded = layout
    count = sum(sizes)
    uv = torch.rand(count, 2, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    lines = ["# a comment", "mtllib none.mtl", "o hand", *(f"v {i} 0 0" for i in range(count)), "vn 0 0 1"]
    lines += [f"vt {u} {v}" for u, v in uv.tolist()]
    first, faces = 0, []
    for size in sizes:
        numbers = [first + corner for corner in range(size)]
        words = (form.format(v=n - count if negative else n + 1, t=n - count if negative else n + 1) for n in numbers)
        lines.append("f " + ("   " if crowded else " ").join(words))
        faces += [[first, second, second + 1] for second in numbers[1:-1]]
        first += size
    path.write_text(("\r\n" if crowded else "\n").join(lines))
    surface = ta.HandSurface.from_obj(path)
    assert surface.vertex_count == count
    assert surface.faces.tolist() == surface.uv_faces.tolist() == faces
    torch.testing.assert_close(surface.uv.double(), torch.stack([uv[:, 0], 1 - uv[:, 1]], dim=1), rtol=0, atol=2.0**-23)


def test_the_bundled_hand_comes_back(surface, hand, path):
    lines = ["v {} {} {}".format(*v) for v in hand(torch.zeros(1, 16, 3)).vertices[0].tolist()]
    lines += [f"vt {u} {1 - v}" for u, v in surface.uv.double().tolist()]
    pairs = zip((surface.faces + 1).tolist(), (surface.uv_faces + 1).tolist())
    lines += ["f " + " ".join(f"{v}/{t}" for v, t in zip(face, uv_face)) for face, uv_face in pairs]
    path.write_text("\n".join(lines))
    assert ta.HandSurface.from_obj(path).atlas_id == surface.atlas_id


TRIANGLE = "v 0 0 0\nv 1 0 0\nv 0 1 0\nvt 0 0\nvt 1 0\nvt 0 1\n"


@pytest.mark.parametrize(
    "text, message",
    [
        (TRIANGLE + "f 1 2 3\n", r"mesh.obj line 7: expected corners with texture coordinates \(v/vt\), got '1'"),
        (TRIANGLE + "f 1//1 2//1 3//1\n", r"line 7: expected corners with texture coordinates \(v/vt\), got '1//1'"),
        (TRIANGLE + "vt 1\n", r"mesh.obj line 7: expected two numbers \(vt\), got vt 1"),
        (TRIANGLE, r"mesh.obj: expected an OBJ file with faces \(f lines\), got none"),
        (TRIANGLE + "f 1/1 2/1\n", "mesh.obj line 7: expected a face of three corners or more, got f 1/1 2/1"),
        (TRIANGLE + "f 1/1 2/2 4/3\n", r"HandSurface: expected indices in faces from 0 to 2, got face 0 = \(0, 1, 3\)"),
        (TRIANGLE + "f -9/1 2/2 3/3\n", "HandSurface: expected indices in faces from 0 to 2, got face 0"),
        (TRIANGLE.replace("vt 1 0", "vt 7 0") + "f 1/1 2/2 3/3\n", r"uv in \[0, 1\], got uv 1 = \(7, 1\)"),
    ],
)
def test_errors_name_the_line_or_the_element(path, text, message):
    path.write_text(text)
    with pytest.raises(ValueError, match=message):
        ta.HandSurface.from_obj(path)


NUMBERS = ["0", "1", "-1", "9", "1/1", "2/2/1", "3/3", "-4/1", "1/", "/1", "x", "nan"]
WORDS = st.lists(st.sampled_from(NUMBERS), max_size=4)


@settings(max_examples=100)
@given(st.lists(st.tuples(st.sampled_from(["v", "vt", "f", "o"]), WORDS), min_size=1, max_size=4))
def test_any_line_is_read_or_refused(path, lines):
    path.write_text(TRIANGLE + "f 1/1 2/2 3/3\n" + "\n".join(" ".join([word, *words]) for word, words in lines))
    try:
        surface = ta.HandSurface.from_obj(path)
    except ValueError as error:
        assert "expected" in str(error) and "got" in str(error)
    else:
        assert int(surface.faces.min()) >= 0 and int(surface.faces.max()) < surface.vertex_count
