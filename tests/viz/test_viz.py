from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import texalign as ta
from texalign import viz
from texalign._internal import MissingExtraError
from texalign.hand import HandModel
from texalign.surface import vertex_normals


@pytest.fixture(scope="module")
def skin(surface):
    return viz.skin_texture(surface, 128)


@pytest.fixture(scope="module")
def palm_view():
    """Vertices (1, 778, 3) of the rest pose, palm to a camera of 96 pixels half a metre away."""
    vertices = HandModel().vertices[None] @ torch.tensor([[0.0, 0.0, 1.0], [1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]).T
    vertices = vertices - vertices.mean(dim=1, keepdim=True) + torch.tensor([0.0, 0.0, 0.5])
    return vertices, ta.PinholeCamera(torch.full((1, 2), 180.0), torch.full((1, 2), 48.0))


def seen_from_outside(texture, surface, vertex):
    """The texture's colour (3,) at a vertex."""
    face, corner = (surface.faces == vertex).nonzero()[0].tolist()
    place = surface.uv[surface.uv_faces[face, corner]] * texture.shape[-1]
    column, row = place.long().tolist()
    return texture[0, :, row, column]


def test_to_uint8_rounds_clamps_and_moves_colour_last():
    image = torch.tensor([0.0, 0.5, 1.0, 2.0, -1.0, float("nan")]).reshape(1, 1, 6).repeat(3, 1, 1)
    image[1] = 0.2
    pixels = viz.to_uint8(image)
    assert pixels.dtype == np.uint8 and pixels.shape == (1, 6, 3)
    assert pixels[0, :, 0].tolist() == [0, 128, 255, 255, 0, 0]
    assert (pixels[..., 1] == 51).all()
    assert viz.to_uint8(torch.zeros(2, 3, 4, 5, requires_grad=True, dtype=torch.float64)).shape == (2, 4, 5, 3)
    with pytest.raises(ValueError, match=r"to_uint8: expected image \(\[B,\] 3, H, W\), got \(4, 5\)"):
        viz.to_uint8(torch.zeros(4, 5))


def test_save_png_is_lossless_and_leaves_nothing_else(tmp_path):
    image = torch.rand(3, 5, 7, generator=torch.Generator().manual_seed(0))
    path = viz.save_png(tmp_path / "picture.png", image)
    assert [file.name for file in tmp_path.iterdir()] == ["picture.png"]
    assert np.array_equal(np.array(Image.open(path)), viz.to_uint8(image))


def test_save_png_keeps_the_old_picture_when_writing_fails(tmp_path, monkeypatch):
    path = viz.save_png(tmp_path / "picture.png", torch.ones(3, 2, 2))

    def fail(self, file, **options):
        file.write_bytes(b"half a picture")
        raise OSError("no space left on device")

    monkeypatch.setattr(Image.Image, "save", fail)
    with pytest.raises(OSError, match="no space"):
        viz.save_png(path, torch.zeros(3, 2, 2))
    assert [file.name for file in tmp_path.iterdir()] == ["picture.png"]
    assert np.array(Image.open(path)).min() == 255


def test_overlay_composites_premultiplied_colour():
    coverage = torch.tensor([1.0, 0.5, 0.0]).reshape(1, 1, 1, 3)
    red = torch.tensor([1.0, 0.0, 0.0])[None, :, None, None]
    nothing = torch.zeros(1, 1, 3)
    rendering = ta.Rendering(red * coverage, coverage, nothing.long(), coverage, torch.zeros(1, 1, 3, 2), nothing)
    background = torch.full((1, 3, 1, 3), 0.4)
    full = viz.overlay(background, rendering)
    torch.testing.assert_close(full[0, :, 0, 0], torch.tensor([1.0, 0.0, 0.0]))
    torch.testing.assert_close(full[0, :, 0, 1], torch.tensor([0.7, 0.2, 0.2]))
    torch.testing.assert_close(full[0, :, 0, 2], torch.full((3,), 0.4))
    half = viz.overlay(background, rendering, alpha=0.5)
    torch.testing.assert_close(half[0, :, 0, 0], torch.tensor([0.7, 0.2, 0.2]))
    assert torch.equal(viz.overlay(background, rendering, alpha=0.0), background)


def test_an_outline_runs_around_the_hand_and_leaves_it_to_be_seen():
    image = torch.full((1, 3, 20, 30), 0.5)
    coverage = torch.zeros(1, 1, 20, 30)
    coverage[..., 6:14, 8:20] = 1
    drawn = viz.outline(image, coverage, colour=(1.0, 0.0, 0.25), width=2)
    line = (drawn == torch.tensor([1.0, 0.0, 0.25])[:, None, None]).all(dim=1)[0]
    expected = torch.zeros(20, 30, dtype=torch.bool)
    expected[4:16, 6:22] = True
    expected[6:14, 8:20] = False
    assert torch.equal(line, expected)
    # Dark on both sides of the line, untouched in the middle and far outside.
    assert drawn[0, 0, 6, 10] == drawn[0, 0, 3, 10] == pytest.approx(0.2)
    assert drawn[0, 0, 9, 12] == drawn[0, 0, 1, 1] == 0.5
    assert torch.equal(viz.outline(image, torch.zeros_like(coverage)), image)
    with pytest.raises(ValueError, match=r"outline: expected coverage \(1, 1, 20, 30\)"):
        viz.outline(image, coverage[..., 1:])


def test_marks_lie_on_their_points():
    image = torch.full((2, 3, 16, 16), 0.5)
    points = torch.tensor([[[4.5, 10.5], [float("nan"), 3.0]], [[-50.0, 2.0], [12.0, 12.0]]])
    drawn = viz.mark(image, points, colour=(0.0, 1.0, 0.0), radius=1.2)
    green = (drawn == torch.tensor([0.0, 1.0, 0.0])[:, None, None]).all(dim=1)
    assert green[0].nonzero().tolist() == [[9, 4], [10, 3], [10, 4], [10, 5], [11, 4]]
    assert green[1].nonzero().tolist() == [[11, 11], [11, 12], [12, 11], [12, 12]]
    assert torch.equal(viz.mark(image, torch.full((2, 1, 2), float("nan"))), image)


def test_an_animation_keeps_its_frames_colours_and_times(tmp_path):
    frames = torch.full((3, 3, 24, 32), 0.25)
    frames[..., 16:] = 0.75
    for number, frame in enumerate(frames):
        frame[:, 4:8, 4 * number : 4 * number + 4] = torch.tensor([1.0, 0.0, 0.0])[:, None, None]
    path = viz.save_gif(tmp_path / "moving.gif", frames, [200, 50, 1000])
    assert [file.name for file in tmp_path.iterdir()] == ["moving.gif"]
    with Image.open(path) as picture:
        assert (picture.n_frames, picture.size, picture.info["loop"]) == (3, (32, 24), 0)
        for number, expected in enumerate(frames):
            picture.seek(number)
            assert picture.info["duration"] == [200, 50, 1000][number]
            shown = torch.from_numpy(np.array(picture.convert("RGB"))).permute(2, 0, 1) / 255
            assert (shown - expected).abs().max() < 0.05
    with pytest.raises(ValueError, match="expected milliseconds for 3 frames, got 1"):
        viz.save_gif(path, frames, [100])


def test_the_hand_sheet_of_the_documentation(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "tools"))
    import hand_sheet

    error = hand_sheet.write_pictures(tmp_path / "pictures", fast=True, everything=True)
    assert 0 < error < 0.01
    names = ["contact_sheet.png", "unwrap.png", "uv_checker.png"]
    assert sorted(file.name for file in (tmp_path / "pictures").iterdir()) == names
    sheet, unwrapped, checker = (Image.open(tmp_path / "pictures" / name) for name in names)
    label = 2 * max(10, 128 // 14)
    assert sheet.size == (label + 3 * 128, label + 3 * 128)
    assert unwrapped.size == (label + 5 * 128, label + 2 * 128)
    assert checker.size == (3 * 256, 2 * (256 // 14) + 256)
    for row in range(2):  # the third is the checker's
        for column in range(3):
            left, top = label + 128 * column, label + 128 * row
            red, green, blue = np.moveaxis(
                np.asarray(sheet.crop((left, top, left + 128, top + 128))).astype(int), -1, 0
            )
            skin = (red > green + 12) & (green > blue - 15) & (red > 40)
            assert 0.1 < skin.mean() < 0.7
    # Every hue shows on the checker.
    saturated = np.asarray(checker.convert("HSV")).reshape(-1, 3)
    assert set((saturated[saturated[:, 1] > 100][:, 0] // 32).tolist()) == set(range(8))


def test_contact_sheet_places_images_and_labels():
    black, grey = torch.zeros(3, 40, 60), torch.full((3, 40, 60), 0.5)
    plain = viz.contact_sheet([[black, grey], [grey]])
    assert plain.shape == (3, 80, 120)
    assert plain[:, :40, :60].eq(0).all() and plain[:, :40, 60:].eq(0.5).all()
    assert plain[:, 40:, :60].eq(0.5).all() and plain[:, 40:, 60:].eq(1).all()
    labelled = viz.contact_sheet([[black, grey], [grey]], ["first", "second"], ["a", "b"])
    assert labelled.shape == (3, 100, 140)
    assert torch.equal(labelled[:, 20:, 20:], plain)
    assert labelled[:, :20, :20].eq(1).all()
    for box in (labelled[:, :20, 20:80], labelled[:, :20, 80:], labelled[:, 20:60, :20], labelled[:, 60:, :20]):
        assert box.min() < 0.5 and box.max() == 1


def test_row_labels_read_upwards():
    sheet = viz.contact_sheet([[torch.ones(3, 120, 60)]], row_labels=["W....."])
    ink = (1 - sheet[0, :, :20]).sum(1)
    rows = ink.nonzero()[:, 0]
    middle = (rows.min() + rows.max()) // 2
    assert ink[: middle + 1].sum() < ink[middle + 1 :].sum()  # the W lies below its full stops


@pytest.mark.parametrize(
    ("rows", "labels", "message"),
    [
        ([], (), "at least one image"),
        ([[torch.zeros(3, 2, 2), torch.zeros(3, 2, 3)]], (), r"images of one size, \(3, 2, 2\), got \(3, 2, 3\)"),
        ([[torch.zeros(3, 2, 2)]], ("a", "b"), "expected 1 row labels or none, got 2"),
    ],
)
def test_contact_sheet_says_what_is_wrong(rows, labels, message):
    with pytest.raises(ValueError, match=message):
        viz.contact_sheet(rows, labels)


def test_uv_checker_alternates_and_tells_every_cell_apart():
    texture = viz.uv_checker(64, cells=8, labels=False)
    assert texture.shape == (1, 3, 64, 64) and texture.min() >= 0 and texture.max() <= 1
    cells = texture[0].unflatten(1, (8, 8)).unflatten(3, (8, 8))
    assert (cells.amax((2, 4)) - cells.amin((2, 4))).max() < 1e-6  # each cell has one colour, to 8 ulps of 1
    colours = cells[:, :, 0, :, 0].flatten(1).T
    assert torch.cdist(colours, colours).add(torch.eye(64)).min() > 0.01
    written = viz.uv_checker(256, cells=8)
    assert (written <= viz.uv_checker(256, cells=8, labels=False)).all()
    assert (written != viz.uv_checker(256, cells=8, labels=False)).any(dim=1).float().mean() > 0.02


def test_skin_is_skin_on_both_hands(surface, skin):
    assert skin.shape == (1, 3, 128, 128) and skin.min() >= 0 and skin.max() <= 1
    inside = surface.texel_map(128).face_index >= 0
    red, green, blue = skin[0][:, inside]
    assert (red > green).all() and (green > blue - 0.05).all()
    assert torch.equal(viz.skin_texture(surface.mirrored(), 128).isfinite(), skin.isfinite())
    torch.testing.assert_close(viz.skin_texture(surface.mirrored(), 128), skin, atol=2e-3, rtol=0)


def test_palm_is_paler_than_the_back_and_deep_skin_is_darker(surface, skin):
    model = HandModel()
    normals = vertex_normals(model.vertices[None], model.faces)[0]
    on_palm = (model.skin_weights[:, 0] > 0.9) & (normals[:, 1] < -0.8)
    on_back = (model.skin_weights[:, 0] > 0.9) & (normals[:, 1] > 0.8)
    for tone in (0.0, 0.9):
        texture = viz.skin_texture(surface, 128, tone)
        palm, back = (
            torch.stack([seen_from_outside(texture, surface, vertex) for vertex in chosen.nonzero()[:, 0].tolist()])
            for chosen in (on_palm, on_back)
        )
        assert palm.mean() > back.mean() + 0.03
    assert viz.skin_texture(surface, 128, 0.9).mean() < skin.mean() - 0.2


def test_nails_lie_on_the_backs_of_all_fingers(surface):
    texture = viz.skin_texture(surface, 512, tone=1.0)  # nails are pale on deep skin
    model, texels = HandModel(), surface.texel_map(512)
    inside = texels.face_index >= 0
    corners = surface.faces[texels.face_index[inside]]
    weights = (model.skin_weights[corners] * texels.barycentric[inside][..., None]).sum(1)
    bright = texture[0].mean(0)[inside] > 0.62
    for last_joint in (15, 3, 6, 9, 12):
        assert bright[weights[:, last_joint] > 0.9].sum() > 15
    assert not bright[weights[:, 0] > 0.5].any()


@pytest.mark.parametrize(
    ("arguments", "message"), [({"tone": 1.5}, r"tone in \[0, 1\], got 1.5"), ({"tone": -0.1}, "tone")]
)
def test_skin_texture_refuses_tones_that_are_none(surface, arguments, message):
    with pytest.raises(ValueError, match=message):
        viz.skin_texture(surface, 16, **arguments)


def test_skin_texture_needs_the_hand_it_knows():
    triangle = ta.HandSurface([[0, 1, 2]], [[0.0, 0.0], [0.0, 1.0], [1.0, 1.0]], [[0, 1, 2]])
    with pytest.raises(ValueError, match="778 vertices, got 3"):
        viz.skin_texture(triangle, 16)


def test_vertex_normals_of_a_tetrahedron_point_away_from_its_middle():
    corners = torch.tensor([[[1.0, 1.0, 1.0], [1.0, -1.0, -1.0], [-1.0, 1.0, -1.0], [-1.0, -1.0, 1.0]]])
    faces = torch.tensor([[0, 1, 2], [0, 3, 1], [0, 2, 3], [1, 3, 2]])
    torch.testing.assert_close(vertex_normals(corners, faces), corners / 3**0.5)


def test_shade_lights_what_faces_the_light_and_shadows_what_lies_behind(surface, palm_view):
    white = torch.ones(1, 3, 64, 64)
    vertices, _ = palm_view
    inside = surface.texel_map(64).face_index >= 0
    lit = viz.shade(surface, vertices, white, shadows=0)
    assert lit.shape == (1, 3, 64, 64) and lit.min() >= 0 and lit.max() <= 1
    assert torch.equal(lit[:, :, ~inside], white[:, :, ~inside])
    model = HandModel()
    normals = vertex_normals(vertices, surface.faces)[0]
    palm_vertex = ((model.skin_weights[:, 0] > 0.9) & (normals[:, 2] < -0.9)).nonzero()[0].item()
    back_vertex = ((model.skin_weights[:, 0] > 0.9) & (normals[:, 2] > 0.9)).nonzero()[0].item()
    front, behind = (seen_from_outside(lit, surface, vertex).mean() for vertex in (palm_vertex, back_vertex))
    assert front > behind + 0.3
    shadowed = viz.shade(surface, vertices, white, shadows=12)
    assert (shadowed <= lit + 1e-5).all() and shadowed[:, :, inside].mean() < lit[:, :, inside].mean()


def test_an_unoccluded_patch_keeps_its_light():
    square = torch.tensor([[[-0.1, -0.1, 0.5], [-0.1, 0.1, 0.5], [0.1, 0.1, 0.5], [0.1, -0.1, 0.5]]])
    uv = [[0.0, 0.0], [0.0, 1.0], [1.0, 1.0], [1.0, 0.0]]
    patch = ta.HandSurface([[0, 1, 2], [0, 2, 3]], uv, [[0, 1, 2], [0, 2, 3]])
    grey = torch.full((1, 3, 32, 32), 0.5)
    torch.testing.assert_close(
        viz.shade(patch, square, grey, shadows=24), viz.shade(patch, square, grey, shadows=0), atol=2e-3, rtol=0
    )


def test_a_left_hand_is_lit_as_its_mirror_image_is(surface, palm_view):
    vertices, _ = palm_view
    other = vertices * torch.tensor([-1.0, 1.0, 1.0])
    normals = vertex_normals(other, surface.mirrored().faces)
    mirrored = vertex_normals(vertices, surface.faces) * torch.tensor([-1.0, 1.0, 1.0])
    torch.testing.assert_close(normals, mirrored)


def test_text_without_pillow_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(MissingExtraError, match=r'pip install "texalign\[demo\]"'):
        viz.contact_sheet([[torch.ones(3, 20, 20)]], column_labels=["a"])
    assert viz.contact_sheet([[torch.ones(3, 20, 20)]]).shape == (3, 20, 20)  # no text, no pillow
