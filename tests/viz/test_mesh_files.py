from __future__ import annotations

import numpy as np
import pytest
import torch
import trimesh
from PIL import Image

import texalign as ta
from texalign import viz
from texalign.hand import HandModel

SIZE = 64


@pytest.fixture(scope="module", params=["right", "left"])
def hand(request):
    """Vertices before the camera, their surface, and a texture whose red follows u and green follows v."""
    vertices = HandModel().vertices + torch.tensor([0.05, 0.02, 0.5])
    surface = ta.HandSurface.mano()
    if request.param == "left":
        vertices, surface = vertices * torch.tensor([-1.0, 1.0, 1.0]), surface.mirrored()
    step = (torch.arange(SIZE) + 0.5) / SIZE
    texture = torch.stack([step.expand(SIZE, SIZE), step[:, None].expand(SIZE, SIZE), torch.full((SIZE, SIZE), 0.5)])
    return vertices, surface, texture


@pytest.fixture(params=[".obj", ".glb"])
def read_back(request, hand, tmp_path):
    path = viz.save_mesh(tmp_path / f"hand{request.param}", *hand)
    scene = trimesh.load(path, process=False)
    return scene if isinstance(scene, trimesh.Trimesh) else next(iter(scene.geometry.values()))


def corners(mesh):
    """(F, 3, 3) points of the faces' corners, and (F, 3, 2) their uv, v up as trimesh has it."""
    return np.asarray(mesh.vertices)[mesh.faces], np.asarray(mesh.visual.uv)[mesh.faces]


def test_faces_come_back_with_their_points_and_texture_coordinates(hand, read_back):
    vertices, surface, _ = hand
    points, uv = corners(read_back)
    turned = (vertices * torch.tensor([1.0, -1.0, -1.0]))[surface.faces].numpy()
    expected = surface.uv[surface.uv_faces].numpy() * [1, -1] + [0, 1]
    assert len(points) == len(turned) == 1538
    # Readers may reorder faces, and OBJ's numbers have six decimals: a face is known by its middle.
    distance = torch.cdist(torch.from_numpy(points).mean(dim=1), torch.from_numpy(turned).double().mean(dim=1))
    nearest = distance.argmin(dim=1).numpy()
    assert sorted(nearest) == list(range(1538))
    assert np.abs(points - turned[nearest]).max() < 1e-6 and np.abs(uv - expected[nearest]).max() < 1e-6


def test_the_picture_at_a_corners_texture_coordinates_is_the_textures_colour_there(hand, read_back):
    material = read_back.visual.material
    picture = np.asarray(getattr(material, "image", None) or material.baseColorTexture).astype(float) / 255
    _, uv = corners(read_back)
    u, v = uv.reshape(-1, 2).T
    column, row = np.clip((u * SIZE).astype(int), 0, SIZE - 1), np.clip(((1 - v) * SIZE).astype(int), 0, SIZE - 1)
    colour = picture[row, column]
    # A corner lies in a texel whose colour is that of its centre, or on a chart's border, where an inside texel's is.
    assert np.abs(colour[:, 0] - u).max() < 3.5 / SIZE and np.abs(colour[:, 1] - (1 - v)).max() < 3.5 / SIZE
    assert np.abs(colour[:, 0] - u).mean() < 1 / SIZE


def test_faces_look_outwards_on_either_hand(read_back):
    points, _ = corners(read_back)
    points = points - points.reshape(-1, 3).mean(axis=0)
    assert np.einsum("fi,fi->f", points[:, 0], np.cross(points[:, 1], points[:, 2])).sum() > 0


def test_normals_of_a_glb_point_away_from_the_hand(hand, tmp_path):
    mesh = next(iter(trimesh.load(viz.save_mesh(tmp_path / "hand.glb", *hand), process=False).geometry.values()))
    written = mesh.vertex_normals.copy()
    fresh = trimesh.Trimesh(mesh.vertices, mesh.faces, process=False).vertex_normals
    assert np.einsum("vi,vi->v", written, fresh).mean() > 0.9


def test_what_lies_between_the_charts_is_the_mean_colour(hand, tmp_path):
    vertices, surface, texture = hand
    viz.save_mesh(tmp_path / "hand.obj", vertices, surface, texture)
    picture = torch.from_numpy(np.array(Image.open(tmp_path / "hand.png"))).permute(2, 0, 1) / 255
    inside = surface.texel_map(SIZE).face_index >= 0
    assert (picture - texture)[:, inside].abs().max() <= 0.5 / 255 + 1e-6
    corner = picture[:, 0, 0]
    assert not inside[:3, :3].any() and (corner - texture[:, inside].mean(dim=1)).abs().max() <= 0.5 / 255 + 1e-6


def test_an_obj_names_the_files_beside_it(hand, tmp_path):
    viz.save_mesh(tmp_path / "photo-1.obj", *hand)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["photo-1.mtl", "photo-1.obj", "photo-1.png"]
    assert "mtllib photo-1.mtl" in (tmp_path / "photo-1.obj").read_text()
    assert "map_Kd photo-1.png" in (tmp_path / "photo-1.mtl").read_text()
    assert ta.HandSurface.from_obj(tmp_path / "photo-1.obj").is_right == hand[1].is_right


def test_other_suffixes_and_shapes_are_refused(hand, tmp_path):
    vertices, surface, texture = hand
    with pytest.raises(ValueError, match=r"save_mesh: expected a path that ends in .obj or .glb, got hand.ply"):
        viz.save_mesh(tmp_path / "hand.ply", vertices, surface, texture)
    with pytest.raises(ValueError, match=r"save_mesh: expected vertices \(778, 3\), got \(1, 778, 3\)"):
        viz.save_mesh(tmp_path / "hand.obj", vertices[None], surface, texture)
    with pytest.raises(ValueError, match=r"save_mesh: expected texture \(3, T, T\)"):
        viz.save_mesh(tmp_path / "hand.glb", vertices, surface, texture[None])
    assert not list(tmp_path.iterdir())
