from __future__ import annotations

import json
import re
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import trimesh
from PIL import Image

import mediapipe_double
import texalign as ta
from hand_pairs import hand_pairs
from texalign.cli import align, align_command, align_fits, align_input, main
from texalign.cli.align_crops import crop_hand
from texalign.cli.align_mano import mano_layer
from texalign.cli.align_predictions import read_predictions
from texalign.hand import SHAPE_NAMES, HandModel, fit_to_keypoints, rotation_matrices, sample_pose
from texalign.mano import write_mano
from texalign.viz import to_uint8

SIZE, STEPS = 64, 3


@pytest.fixture(autouse=True, scope="module")
def shortened():
    """Few steps of small hands."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(align_command, "FAST", align.Plan(SIZE, STEPS))
        yield


@pytest.fixture
def rough(monkeypatch):
    """A quick fit to keypoints, where it does not matter how good it is."""
    monkeypatch.setattr(align_fits, "fit_to_keypoints", partial(fit_to_keypoints, steps=4))


def keypoints_of(pair, *, hands=("right", "left")):
    """What a file of a pair's keypoints holds: pixels counted from the first one's centre."""
    return [
        {"hand": side, "keypoints": (points - 0.5).tolist(), "focal": pair.focal}
        for side, points in zip(("right", "left"), pair.keypoints)
        if side in hands
    ]


@pytest.fixture(scope="module")
def pair():
    return hand_pairs(1, size=SIZE, seed=5)[0]


@pytest.fixture(scope="module")
def folder(pair, tmp_path_factory):
    """A photograph of two hands, its keypoints and the right hand's mask."""
    folder = tmp_path_factory.mktemp("align")
    Image.fromarray(to_uint8(pair.together)).save(folder / "two hands.png")
    mask = (255 * pair.masks[0][0]).round().byte().numpy()
    Image.fromarray(mask).save(folder / "mask.png")
    (folder / "keypoints.json").write_text(json.dumps(keypoints_of(pair)))
    return folder


@pytest.fixture(scope="module")
def ran(folder):
    """The table that is printed, and the folder that is written."""
    arguments = [folder / "two hands.png", "--keypoints", folder / "keypoints.json", "--mask", folder / "mask.png"]
    with pytest.MonkeyPatch.context() as patch:
        printed = []
        patch.setattr("builtins.print", lambda *words, **options: printed.append(" ".join(map(str, words))))
        assert main(["align", *map(str, arguments), "--output", str(folder / "out"), "--fast"]) == 0
    return "\n".join(printed), folder / "out"


def test_every_hand_gets_a_sheet_meshes_a_texture_and_numbers(ran):
    printed, out = ran
    suffixes = ("-sheet.png", ".glb", ".json", ".mtl", ".obj", ".png")
    names = sorted(f"two_hands-{number}{suffix}" for number in (1, 2) for suffix in suffixes)
    assert sorted(file.name for file in out.iterdir()) == names
    with Image.open(out / "two_hands-1-sheet.png") as sheet:
        assert sheet.size[0] == 5 * 256  # crops of small photographs are enlarged
    header, right, left = printed.splitlines()[:3]
    assert "agreement" in header and "mask IoU" in header
    assert right.split()[:2] == ["two_hands-1", "right"] and left.split()[:2] == ["two_hands-2", "left"]
    assert "keypoints' file" in printed and "The distance to the keypoints rises where they are noisy" in printed


@pytest.mark.parametrize("number", [1, 2])
def test_the_files_agree_with_each_other_and_lie_over_the_hand(ran, pair, number):
    _, out = ran
    told = json.loads((out / f"two_hands-{number}.json").read_text())
    meshes = [trimesh.load(out / f"two_hands-{number}{suffix}", process=False) for suffix in (".obj", ".glb")]
    obj, glb = (mesh if isinstance(mesh, trimesh.Trimesh) else next(iter(mesh.geometry.values())) for mesh in meshes)
    assert np.allclose(obj.bounds, glb.bounds, atol=1e-5)
    model, mirror = told["model"], torch.tensor([-1.0 if told["model"]["mirrored"] else 1.0, 1.0, 1.0])
    betas = torch.tensor([[model["betas"][name] for name in SHAPE_NAMES]])
    posed = HandModel()(torch.tensor([model["pose"]]), betas)
    vertices = (posed.vertices[0] + torch.tensor(model["translation"])) * mirror
    expected = vertices * torch.tensor([1.0, -1.0, -1.0])
    written = np.stack([expected.amin(dim=0), expected.amax(dim=0)])
    assert np.allclose(obj.bounds, written, atol=1e-4)
    joints = (posed.joints[0] + torch.tensor(model["translation"])) * mirror
    assert np.allclose(told["joints_m"], joints, atol=1e-4)
    camera = ta.PinholeCamera(torch.full((1, 2), told["focal"]), torch.tensor([told["principal"]]))
    pixels = camera.project(joints[None])[0]
    assert np.allclose(told["joints_px"], pixels - 0.5, atol=0.1)
    # Keypoints have 1 px of noise; a fit that has them right leaves a few.
    assert (pixels - pair.keypoints[number - 1]).norm(dim=1).mean() < 4
    assert told["hand"] == ("right", "left")[number - 1] == ("left" if model["mirrored"] else "right")
    assert told["size"] == [2 * SIZE, SIZE]
    assert told["mask_iou"]["aligned"] > 0.6 if number == 1 else told["mask_iou"]["aligned"] < 0.5


def test_a_hands_json_is_a_file_of_keypoints(rough, ran, folder, tmp_path, capsys):
    _, out = ran
    again = ["--keypoints", str(out / "two_hands-2.json"), "--output", str(tmp_path), "--fast"]
    assert main(["align", str(folder / "two hands.png"), *again]) == 0
    first, second = (json.loads(path.read_text()) for path in (out / "two_hands-2.json", tmp_path / "two_hands-1.json"))
    assert first["box"] == second["box"] and first["focal"] == second["focal"]
    assert np.allclose(first["keypoints"], second["keypoints"], atol=0.02) and second["mask_iou"]["start"] is None


def test_the_detector_finds_hands_and_side_turns_them(rough, monkeypatch, tmp_path, capsys):
    mediapipe_double.install(monkeypatch, "solutions")
    photo = np.full((200, 300, 3), 128, dtype=np.uint8)
    photo[40:140, 60:120], photo[50:150, 180:250] = mediapipe_double.RIGHT, mediapipe_double.LEFT
    Image.fromarray(photo).save(tmp_path / "photo.png")
    Image.fromarray(photo[:, 150:]).save(tmp_path / "half.png")
    for side, expected in (("", "right left left"), ("right", "right right right")):
        options = ["--side", side] if side else []
        out = tmp_path / f"out{side}"
        arguments = [str(tmp_path / "photo.png"), str(tmp_path / "half.png"), "--output", str(out), "--fast", *options]
        assert main(["align", *arguments]) == 0
        told = [json.loads((out / f"{name}.json").read_text()) for name in ("photo-1", "photo-2", "half-1")]
        assert " ".join(hand["hand"] for hand in told) == expected
        assert told[0]["focal"] == 240 and told[0]["focal_from"].startswith("a guess")
    # Points at random are no hand's: that is said.
    assert "no hand fits the keypoints" in capsys.readouterr().err


def test_hands_of_one_person_share_a_texture_by_side(rough, folder, tmp_path, capsys):
    photo, marks = str(folder / "two hands.png"), str(folder / "keypoints.json")
    arguments = ["align", photo, photo, "--keypoints", marks, "--keypoints", marks, "--output", str(tmp_path), "--fast"]
    assert main([*arguments, "--same-hand"]) == 0
    names = ("two_hands-1", "two_hands-2", "two_hands_2-1", "two_hands_2-2")
    textures = [np.array(Image.open(tmp_path / f"{name}.png")) for name in names]
    assert np.array_equal(textures[0], textures[2]) and np.array_equal(textures[1], textures[3])
    assert not np.array_equal(textures[0], textures[1])


def posed_vertices(told):
    """(778, 3) of a JSON's hand, as it is."""
    model = told["model"]
    betas = torch.tensor([[model["betas"][name] for name in SHAPE_NAMES]])
    vertices = HandModel()(torch.tensor([model["pose"]]), betas).vertices[0] + torch.tensor(model["translation"])
    return vertices * torch.tensor([-1.0 if model["mirrored"] else 1.0, 1.0, 1.0])


def test_a_networks_predictions_are_the_start_and_mano_tells_its_pose(ran, folder, tmp_path, capsys):
    _, out = ran
    told = [json.loads((out / f"two_hands-{number}.json").read_text()) for number in (1, 2)]
    vertices = torch.stack([posed_vertices(hand) for hand in told]).numpy()
    cam_t = vertices.mean(axis=1)
    prediction = {"pred_vertices": vertices - cam_t[:, None], "pred_cam_t_full": cam_t, "right": np.array([1.0, 0.0])}
    np.savez(tmp_path / "hands.npz", **prediction, scaled_focal_length=told[0]["focal"])
    write_mano(tmp_path / "MANO_RIGHT.pkl")
    options = ["--predictions", str(tmp_path / "hands.npz"), "--mano", str(tmp_path / "MANO_RIGHT.pkl"), "--fast"]
    assert main(["align", str(folder / "two hands.png"), *options, "--output", str(tmp_path / "out")]) == 0
    assert "predictions' file" in capsys.readouterr().out
    for number, before in enumerate(told, start=1):
        after = json.loads((tmp_path / "out" / f"two_hands-{number}.json").read_text())
        assert after["hand"] == before["hand"] and after["focal"] == before["focal"]
        # A fit to 3D joints has them within a few millimetres, here one to two of 64 pixels.
        assert after["joints_to_keypoints_px"]["start"] < 2
        mano = {name: torch.tensor([after["mano"][name]]) for name in ("global_orient", "hand_pose", "betas")}
        pose = torch.cat([mano["global_orient"], mano["hand_pose"]], dim=1).view(1, 16, 3)
        mesh = HandModel()(pose, mano["betas"]).vertices[0] + torch.tensor(after["mano"]["translation"])
        mesh = mesh * torch.tensor([-1.0 if after["mano"]["mirrored"] else 1.0, 1.0, 1.0])
        off = 1000 * (mesh - posed_vertices(after)).norm(dim=1).mean().item()
        assert off == pytest.approx(after["mano"]["off_mm"], abs=0.1) and off < 3


@pytest.fixture(scope="module")
def layer(tmp_path_factory):
    return mano_layer(write_mano(tmp_path_factory.mktemp("mano") / "MANO_RIGHT.pkl"))


@pytest.mark.parametrize("form", ["axis-angles", "rotation matrices"])
def test_predictions_of_mano_parameters_are_posed_by_the_users_file(tmp_path, layer, form):
    """A right hand's parameters for either side, as HaMeR and WiLoR predict them, and their demos mirror them back."""
    pose = sample_pose(2, torch.Generator().manual_seed(0))
    betas = torch.linspace(-1, 1, 20).view(2, 10)
    cam_t, is_right = np.array([[0.02, 0.0, 0.5], [-0.03, 0.0, 0.6]]), np.array([1.0, 0.0])
    turns = rotation_matrices(pose) if form == "rotation matrices" else pose.flatten(1)
    first = 1 if form == "rotation matrices" else 3
    arrays = {"global_orient": turns[:, :first].numpy(), "hand_pose": turns[:, first:].numpy(), "betas": betas.numpy()}
    np.savez(tmp_path / "parameters.npz", **arrays, cam_t=cam_t, focal=np.full((2, 2), 150.0), right=is_right)
    vertices = HandModel()(pose, betas).vertices * torch.tensor([[[1.0, 1, 1]], [[-1.0, 1, 1]]])
    np.savez(tmp_path / "vertices.npz", vertices=vertices.numpy(), cam_t=cam_t, focal=150.0, is_right=is_right)
    posed = read_predictions(tmp_path / "parameters.npz", (80, 100), layer)
    for hand, known in zip(posed, read_predictions(tmp_path / "vertices.npz", (80, 100)), strict=True):
        assert (hand.is_right, hand.focal) == (known.is_right, known.focal)
        torch.testing.assert_close(hand.joints, known.joints, atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({}, "expected --mano MANO_RIGHT.pkl, to pose the MANO parameters in .* got none"),
        ({"betas": np.zeros((1, 3))}, r"expected betas \(1, 10\)"),
        ({"hand_pose": np.zeros((1, 44))}, r"expected axis-angles \(1, 45\) or rotation matrices \(1, 15, 3, 3\)"),
        ({"hand_pose": np.ones((1, 15, 3, 3))}, "expected rotation matrices as hand_pose"),
        ({"hand_pose": None}, "expected vertices, or global_orient, hand_pose, betas; cam_t"),
    ],
)
def test_mano_parameters_that_do_not_fit_are_told(tmp_path, layer, change, said):
    arrays = {"global_orient": np.zeros((1, 3)), "hand_pose": np.zeros((1, 45)), "betas": np.zeros((1, 10))}
    arrays |= {"cam_t": np.array([[0, 0, 0.5]]), "focal": 100.0, "is_right": np.array([1])} | change
    np.savez(tmp_path / "hands.npz", **{name: array for name, array in arrays.items() if array is not None})
    with pytest.raises(ValueError, match=said):
        read_predictions(tmp_path / "hands.npz", (80, 100), layer if change else None)


def test_the_command_asks_for_the_mano_file_that_predicted_parameters_need(folder, tmp_path, capsys):
    arrays = {"global_orient": np.zeros((1, 3)), "hand_pose": np.zeros((1, 45)), "betas": np.zeros((1, 10))}
    np.savez(tmp_path / "hands.npz", **arrays, cam_t=np.array([[0, 0, 0.5]]), focal=100.0, is_right=1)
    options = ["--predictions", str(tmp_path / "hands.npz"), "--fast", "--output", str(tmp_path / "out")]
    assert main(["align", str(folder / "two hands.png"), *options]) == 1
    assert "expected --mano MANO_RIGHT.pkl" in capsys.readouterr().err


def test_hands_of_one_photograph_have_one_focal_length(folder, tmp_path, capsys):
    marks = json.loads((folder / "keypoints.json").read_text())
    marks[1]["focal"] *= 2
    (tmp_path / "two.json").write_text(json.dumps(marks))
    options = ["--keypoints", str(tmp_path / "two.json"), "--fast", "--output", str(tmp_path / "out")]
    assert main(["align", str(folder / "two hands.png"), *options]) == 1
    assert re.search(r"expected one focal in .*two\.json, the photograph's, got 2", capsys.readouterr().err)


def test_a_hand_at_an_absurd_distance_is_told(rough, folder, tmp_path, capsys):
    marks = json.loads((folder / "keypoints.json").read_text())[:1]
    (tmp_path / "far.json").write_text(json.dumps([{**marks[0], "focal": 9e4}]))
    options = ["--keypoints", str(tmp_path / "far.json"), "--fast", "--output", str(tmp_path / "out")]
    assert main(["align", str(folder / "two hands.png"), *options]) == 0
    assert re.search(r"two_hands-1: a hand [\de+.]+ m away. Is the focal length in pixels", capsys.readouterr().err)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"focal": None}, "cam_t, focal and is_right in .* got no focal"),
        (
            {"focal": None, "cam_t": None, "focal_length": 5e3, "pred_cam_t": np.zeros((2, 3))},
            "got no cam_t, focal of the photograph, only the crop's pred_cam_t and focal_length",
        ),
        ({"focal": np.ones(3)}, r"one or 2 focal in .* got \(2, 3\) and \(3,\)"),
        ({"vertices": np.zeros((2, 21, 3))}, r"expected vertices \(2, 778, 3\)"),
        ({"is_right": np.zeros(0)}, "expected a hand in .* got none"),
        ({"is_right": np.array([0, 0])}, "hand 0 of .* as a left hand, got vertices of a right hand: mirror x"),
        ({"cam_t": np.array([[0, 0, -1.0]] * 2)}, "hands 0.05 to 100 m before the camera"),
        ({"cam_t": np.array([[0, 0, 2670.0]] * 2), "focal": 5e5}, "hands 0.05 to 100 m before .* got 2669"),
        ({"cam_t": np.array([[0, 0, 0.5]] * 2).T}, r"expected cam_t \(2, 3\) and one or 2 focal"),
        ({"focal": np.array([100.0, 100.0, 200.0, 900.0])}, "expected one focal length for x and y"),
        ({"focal": np.inf}, "expected finite numbers as focal in .* got 1 others"),
        ({"is_right": np.array(["right", "right"])}, "expected finite numbers as is_right in .* got dtype <U5"),
        ({"vertices": np.full((2, 778, 3), np.nan)}, "expected finite numbers as vertices in .* got 4668 others"),
        ({"cam_t": np.array([[5, 0, 0.5]] * 2)}, "hand 0 of .* in the photograph, got 0% of its joints there"),
    ],
)
def test_predictions_that_do_not_fit_are_told(tmp_path, change, said):
    vertices = HandModel().vertices.repeat(2, 1, 1).numpy()
    arrays = {"vertices": vertices, "cam_t": np.array([[0, 0, 0.5]] * 2), "focal": 100.0, "is_right": np.array([1, 1])}
    arrays |= change
    np.savez(tmp_path / "hands.npz", **{name: array for name, array in arrays.items() if array is not None})
    with pytest.raises(ValueError, match=said):
        read_predictions(tmp_path / "hands.npz", (80, 100))


def test_a_file_that_is_no_archive_is_told(tmp_path):
    np.save(tmp_path / "alone.npy", np.zeros(3))
    np.savez_compressed(tmp_path / "whole.npz", vertices=np.random.default_rng(0).normal(size=(1, 778, 3)))
    content = bytearray((tmp_path / "whole.npz").read_bytes())
    content[500] ^= 255
    (tmp_path / "damaged.npz").write_bytes(content)
    for name in ("alone.npy", "damaged.npz"):
        with pytest.raises(ValueError, match="align: expected an archive of plain arrays in"):
            read_predictions(tmp_path / name, (80, 100))


def test_an_input_is_not_replaced(tmp_path, capsys):
    for name in ("x.png", "x-1.png"):
        Image.new("RGB", (64, 64)).save(tmp_path / name)
    before = (tmp_path / "x-1.png").read_bytes()
    photographs = [str(tmp_path / name) for name in ("x.png", "x-1.png")]
    assert main(["align", *photographs, "--output", str(tmp_path)]) != 0
    assert "expected an output folder in which x-1.png would not be replaced" in capsys.readouterr().err
    assert (tmp_path / "x-1.png").read_bytes() == before


# ---- what cannot be done


def picture(path, mode):
    """A photograph of another kind than 8 bits RGB, with a hand for the stand-in where it has colours."""
    colours = np.full((120, 160, 3), 128, dtype=np.uint8)
    colours[30:90, 50:100] = mediapipe_double.RIGHT
    image = Image.fromarray(colours)
    if mode == "sixteen":
        Image.fromarray(np.full((120, 160), 30000, dtype=np.uint16)).save(path, format="PNG")
    elif mode == "animated":
        image.save(path, format="GIF", save_all=True, append_images=[image.rotate(90)])
    elif mode in ("truncated", "tiny"):
        (image if mode == "truncated" else image.resize((20, 20))).save(path, format="PNG")
        path.write_bytes(path.read_bytes()[: None if mode == "tiny" else 200])
    elif mode == "text":
        path.write_text("no image")
    else:
        image.convert(mode).save(path, format="TIFF" if mode == "CMYK" else "PNG")


@pytest.mark.parametrize(
    ("mode", "code", "said"),
    [
        ("L", 1, "expected a hand in"),
        ("sixteen", 1, "expected a hand in"),
        ("truncated", 1, "expected an image in"),
        ("text", 1, "expected an image in"),
        ("missing", 1, "got no such file"),
        ("CMYK", 0, ""),
        ("RGBA", 0, ""),
        ("animated", 0, ""),
        ("tiny", 0, ""),
    ],
)
def test_any_file_gives_a_hand_or_words(rough, monkeypatch, tmp_path, capsys, mode, code, said):
    mediapipe_double.install(monkeypatch, "solutions")
    if mode != "missing":
        picture(tmp_path / "photo", mode)
    assert main(["align", str(tmp_path / "photo"), "--output", str(tmp_path / "out"), "--fast"]) == code
    error = capsys.readouterr().err
    assert said in error and "Traceback" not in error and (str(tmp_path / "photo") in error or code == 0)
    assert len(list((tmp_path / "out").iterdir())) == (6 if code == 0 else 0)


def test_a_photograph_that_fails_does_not_stop_the_others(rough, folder, tmp_path, capsys):
    (tmp_path / "bad.jpg").write_text("no image")
    marks = str(folder / "keypoints.json")
    photos = [str(tmp_path / "bad.jpg"), str(folder / "two hands.png")]
    arguments = ["align", *photos, "--keypoints", marks, "--keypoints", marks, "--output", str(tmp_path / "out")]
    assert main([*arguments, "--fast"]) == 1
    printed = capsys.readouterr()
    assert "expected an image in" in printed.err and "two_hands-2" in printed.out


def test_a_hand_that_the_photograph_does_not_show_is_told(rough, folder, tmp_path, capsys):
    noise = np.random.default_rng(0).integers(0, 255, (SIZE, 2 * SIZE, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "wall.png")
    options = ["--keypoints", str(folder / "keypoints.json"), "--fast", "--output", str(tmp_path / "out")]
    assert main(["align", str(tmp_path / "wall.png"), *options]) == 0
    assert re.search(r"wall-1: the photograph shows no hand there \(agreement -1\.\d+\)", capsys.readouterr().err)


@pytest.mark.slow
def test_forty_megapixels_are_read(tmp_path):
    Image.new("RGB", (7300, 5500), (90, 120, 140)).save(tmp_path / "large.png", compress_level=1)
    points = np.random.default_rng(0).uniform((6900, 5100), (7299, 5499), (21, 2))
    (tmp_path / "hand.json").write_text(json.dumps({"hand": "left", "keypoints": points.tolist()}))
    photo = align_input.read_photo(tmp_path / "large.png", SIZE, tmp_path / "hand.json")
    (crop,) = photo.crops
    assert photo.size == (7300, 5500) and crop.image.shape == (3, SIZE, SIZE)
    assert 0.5 < crop.valid.mean() < 0.9, "it reaches beyond the photograph's corner"


def test_keypoints_without_a_side_and_another_number_of_files_are_refused(folder, tmp_path, capsys):
    photo = str(folder / "two hands.png")
    (tmp_path / "bare.json").write_text(json.dumps([[5 + point, 7 + 2 * point] for point in range(21)]))
    options = ["--keypoints", str(tmp_path / "bare.json"), "--output", str(tmp_path / "out"), "--fast"]
    assert main(["align", photo, *options]) == 1
    assert '"left" or "right"' in capsys.readouterr().err
    assert main(["align", photo, photo, *options]) == 2
    assert "expected --keypoints once for each of 2 photographs" in capsys.readouterr().err
    assert main(["align", photo, *options, "--image-size", "8"]) == 2


def test_without_a_detector_the_extra_is_named_before_anything_is_read(monkeypatch, tmp_path, capsys):
    monkeypatch.setitem(__import__("sys").modules, "mediapipe", None)
    assert main(["align", "nowhere.jpg", "--output", str(tmp_path)]) == 2
    assert 'pip install "texalign[photos]"' in capsys.readouterr().err


def test_a_folder_that_cannot_be_written_is_told_before_any_work(folder, monkeypatch, tmp_path, capsys):
    (tmp_path / "taken").write_text("mine")
    options = ["--keypoints", str(folder / "keypoints.json"), "--fast", "--output"]
    assert main(["align", str(folder / "two hands.png"), *options, str(tmp_path / "taken")]) == 2

    (tmp_path / "two_hands-1.glb").mkdir()
    assert main(["align", str(folder / "two hands.png"), *options, str(tmp_path)]) == 2
    assert "expected no folders where files are written, got" in capsys.readouterr().err
    (tmp_path / "two_hands-1.glb").rmdir()

    def refuse(**options):
        raise PermissionError(13, "Permission denied", str(tmp_path))

    monkeypatch.setattr(align, "TemporaryFile", refuse)
    monkeypatch.setattr(align, "read_photo", lambda *arguments: pytest.fail("nothing is read"))
    assert main(["align", str(folder / "two hands.png"), *options, str(tmp_path)]) == 2
    assert "Permission denied" in capsys.readouterr().err


def test_an_interrupted_run_leaves_whole_files_only(rough, folder, monkeypatch, tmp_path, capsys):
    whole = Image.Image.save
    count = SimpleNamespace(saved=0)

    def interrupted(self, file, **options):
        count.saved += 1
        if count.saved == 2:
            file.write_bytes(b"half a picture")
            raise KeyboardInterrupt
        whole(self, file, **options)

    monkeypatch.setattr(Image.Image, "save", interrupted)
    options = ["--keypoints", str(folder / "keypoints.json"), "--fast", "--output", str(tmp_path)]
    assert main(["align", str(folder / "two hands.png"), *options]) == 130
    assert "texalign: interrupted" in capsys.readouterr().err
    assert [file.name for file in tmp_path.iterdir()] == ["two_hands-1-sheet.png"]
    monkeypatch.undo()
    with Image.open(tmp_path / "two_hands-1-sheet.png") as sheet:
        sheet.load()


# ---- crops and fits


@pytest.mark.parametrize("is_right", [True, False])
def test_a_crop_looks_through_the_photographs_camera(is_right):
    photograph = torch.rand(3, 90, 140, generator=torch.Generator().manual_seed(0))
    points = torch.tensor([[100.0, 10.0]]) + 35 * torch.rand(21, 2, generator=torch.Generator().manual_seed(1))
    crop = crop_hand(photograph, points, is_right, 200.0, SIZE)
    torch.testing.assert_close(crop.in_photograph(crop.keypoints), points, atol=1e-4, rtol=0)
    whole = ta.PinholeCamera(torch.full((1, 2), 200.0), torch.tensor([[70.0, 45.0]]))
    space = torch.tensor([[0.1, -0.05, 0.6], [0.12, 0.0, 0.5]])
    seen = crop.camera.project(crop.in_space(space)[None])[0]
    torch.testing.assert_close(crop.in_photograph(seen), whole.project(space[None])[0], atol=1e-3, rtol=0)


def test_what_lies_beyond_the_photograph_is_black_and_not_valid():
    points = torch.tensor([[0.0, 20.0], [40.0, 60.0]]).repeat(11, 1)[:21]
    crop = crop_hand(torch.ones(3, 80, 100), points, False, 100.0, SIZE)
    left, _, right, _ = crop.box
    outside = round(SIZE * -left / (right - left))
    assert left < 0 and outside > 5
    # A left hand is seen in a mirror.
    assert (crop.valid[..., : SIZE - outside - 1] == 1).all() and (crop.valid[..., SIZE - outside + 1 :] == 0).all()
    assert (crop.image[..., SIZE - outside + 1 :] == 0).all() and crop.picture[..., 0].max() == 0


def pair_crops(pair, photographs, size=SIZE):
    return [
        crop_hand(photo, points, is_right, pair.focal, size, mask)
        for photo, points, is_right, mask in zip(photographs, pair.keypoints, (True, False), pair.masks)
    ]


def test_the_other_hand_in_a_photograph_is_neither_background_nor_this_hand(pair):
    loss = ta.DenseTextureAlignmentLoss.from_pretrained(image_size=SIZE, reduction="none")
    crops = pair_crops(pair, (pair.together,) * 2)
    aligned = align_fits.align_hands(crops, [0, 0], 1, loss)
    camera = ta.PinholeCamera(
        *(torch.cat([getattr(crop.camera, name) for crop in crops]) for name in ("focal", "principal"))
    )
    shown = align_fits.others(aligned.hands[0].vertices, camera, crops, [0, 0], loss)
    for number in (0, 1):
        other = crop_hand(
            pair.together, pair.keypoints[number], number == 0, pair.focal, SIZE, pair.masks[1 - number]
        ).mask
        covered = (shown[number] * other).sum() / other.sum().clamp(min=1)
        assert covered > 0.8, "meshes that lie on the keypoints cover most of the other hand"
    assert align_fits.others(aligned.hands[0].vertices, camera, crops, [0, 1], loss).sum() == 0


@pytest.mark.slow
def test_two_hands_in_one_photograph_are_outlined_as_well_as_each_alone():
    pairs = hand_pairs(6, size=96)
    loss = ta.DenseTextureAlignmentLoss.from_pretrained(image_size=96, reduction="none")
    iou = {}
    for name in ("alone", "together", "told nothing"):
        crops = [
            crop
            for pair in pairs
            for crop in pair_crops(pair, pair.alone if name == "alone" else (pair.together,) * 2, size=96)
        ]
        photographs = [row // 2 if name == "together" else row for row in range(len(crops))]
        iou[name] = align_fits.align_hands(crops, photographs, 30, loss).iou[1]
    loss_of_area = (iou["alone"] - iou["together"]).view(-1, 2).mean(dim=0)
    # The hand beneath loses what is hidden of it, a tenth of its area; the one on top nothing.
    assert loss_of_area[0] < 0.02 and loss_of_area[1] < 0.01
    assert iou["together"].mean() > iou["told nothing"].mean()
