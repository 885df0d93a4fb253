from __future__ import annotations

import pickle
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn.functional import avg_pool2d

from photograph_folder import write_folder
from texalign import synthetic
from texalign._internal import MissingExtraError
from texalign.photographs import fit_photographs, photograph_ids, read_photographs
from texalign.photographs import fitted as fitted_photographs


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photographs")
    return folder, write_folder(folder, count=6)


def test_what_is_read_is_the_batch_with_its_left_hands_mirrored(written):
    folder, batch = written
    assert 0 < batch.is_right.sum() < 6, "some of both"
    right = batch.canonical()
    read = read_photographs(folder, image_size=64)
    assert read.ids == photograph_ids(folder) == tuple(range(7, 13)) and len(read) == 6
    for name, tolerance in dict(image=1e-6, mask=0.003, vertices=1e-5, joints=1e-5).items():
        torch.testing.assert_close(getattr(read, name), getattr(right, name), atol=tolerance, rtol=1e-6)
    torch.testing.assert_close(read.camera.focal, right.camera.focal)
    torch.testing.assert_close(read.camera.principal, right.camera.principal, atol=1e-4, rtol=0)
    torch.testing.assert_close(read.keypoints, right.camera.project(right.joints), atol=1e-3, rtol=0)


@pytest.mark.parametrize("image_size", [32, 96])
def test_the_camera_projects_joints_onto_keypoints_in_any_size_on_any_side(written, image_size):
    read = read_photographs(written[0], image_size=image_size)
    torch.testing.assert_close(read.camera.project(read.joints), read.keypoints, atol=2e-3, rtol=0)
    assert torch.equal(read.joints_image, read.keypoints)
    assert read.image.shape == (6, 3, image_size, image_size)
    if image_size == 32:  # by area
        torch.testing.assert_close(read.image, avg_pool2d(read_photographs(written[0], image_size=64).image, 2))


@pytest.mark.parametrize("hand, column", [("right", 3), ("left", 12)])
def test_annotations_count_pixels_at_their_centres(tmp_path, hand, column):
    marks, intrinsics = np.broadcast_to([3.0, 5.0], (1, 21, 2)), np.array([[20.0, 20.0, 7.5, 0.0]])
    write_folder(tmp_path, 1, 16, keypoints_px=marks, hand=np.array(hand), K_crop=intrinsics)
    picture = np.zeros((16, 16, 3), np.uint8)
    picture[5, 3] = 255
    Image.fromarray(picture).save(tmp_path / "images" / "00007.png")
    read, half = (read_photographs(tmp_path, image_size=size) for size in (16, 8))
    assert read.image[0, 0].nonzero().tolist() == [[5, column]]
    assert read.keypoints[0, 0].tolist() == [column + 0.5, 5.5] == (2 * half.keypoints[0, 0]).tolist()
    assert read.camera.principal.tolist() == [[8.0, 0.5]]  # 7.5 is the middle of 16 pixels
    assert half.camera.focal.tolist() == [[10.0, 10.0]]


def test_numbers_choose_and_order(written):
    folder, _ = written
    every = read_photographs(folder, image_size=32)
    some = read_photographs(folder, [11, 7], 32)
    assert some.ids == (11, 7)
    for name in ("image", "mask", "keypoints", "vertices", "joints"):
        assert torch.equal(getattr(some, name), getattr(every, name)[[4, 0]])
    picked = every.select(torch.tensor([4, 0]))
    assert picked.ids == some.ids and picked.fingerprint() == some.fingerprint() != every.fingerprint()
    assert every.to("cpu").fingerprint() == every.fingerprint()


@pytest.mark.parametrize("suffix", [".jpg", ".jpeg"])
def test_what_is_optional_may_be_missing(tmp_path, suffix):
    absent = dict.fromkeys(("keypoints_px", "joints_cam_cm", "vertices_cam_cm"))
    batch = write_folder(tmp_path, 2, 32, suffix=suffix, masks=False, left_share=1, hand=np.array("left"), **absent)
    read = read_photographs(tmp_path, image_size=32)
    assert (read.image - batch.canonical().image).abs().mean() < 0.06  # what JPEG changes
    for some in (read, read.select(torch.tensor([1]))):
        assert some.mask is None and some.joints is None and some.vertices is None and some.hand_id is None
    assert torch.equal(read.keypoints, read.joints_image)


def test_detected_keypoints_come_before_true_ones_and_may_be_unknown(tmp_path):
    marks = np.full((2, 21, 2), 4.0)
    marks[0, 3] = np.nan
    hands = {"hand": np.array("right"), "hand_id": np.array([4, 9], np.int32)}
    write_folder(tmp_path, 2, 32, keypoints_px=None, mediapipe_px=marks, **hands)
    (tmp_path / "masks").rename(tmp_path / "pseudo_masks")
    read = read_photographs(tmp_path, [8, 7], 32)
    assert torch.isnan(read.keypoints[1, 3]).all() and (read.keypoints[0] == 4.5).all()
    assert read.hand_id.tolist() == [9, 4] and read.hand_id.dtype == torch.int64
    assert read.mask is not None, "pseudo masks serve where no masks are"


@pytest.mark.parametrize("changes, message", [
    ({"K_crop": None, "hand": None}, "expected the arrays ids, image_size, hand and K_crop in .*, got no hand, K_crop"),
    ({"keypoints_px": None, "joints_px": None}, "expected one of keypoints_px, mediapipe_px, joints_px"),
    ({"ids": np.array([1.0, 2.0])}, r"expected ids \(N,\) of whole numbers, got \(2,\) of float64"),
    ({"image_size": np.array([32, 32])}, "expected image_size, one whole number above 0"),
    ({"hand": np.array("both")}, r"expected hand of 'left' and 'right', got \{'both'\}"),
    ({"keypoints_px": np.zeros((2, 20, 2))}, r"expected keypoints_px \(2, 21, 2\), got \(2, 20, 2\)"),
    ({"vertices_cam_cm": np.zeros((2, 0, 3))}, r"expected vertices_cam_cm \(2, V, 3\), got \(2, 0, 3\)"),
    ({"hand_id": np.zeros(2)}, "expected hand_id of whole numbers, got float64"),
    ({"K_crop": np.array([[9.0] * 4, [0.0] * 4])}, r"focal lengths above 0, got \[0\. 0\. 0\. 0\.\] for photograph 8"),
    ({"vertices_cam_cm": np.full((2, 778, 3), -1.0)}, r"finite and before the camera, got -1\.0 for photograph 7"),
    ({"keypoints_px": np.array([{}, {}], dtype=object)}, "expected an archive of plain arrays in .*annotations"),
])  # fmt: skip
def test_arrays_that_do_not_fit_are_named(tmp_path, changes, message):
    write_folder(tmp_path, 2, 32, **changes)
    with pytest.raises(ValueError, match=f"read_photographs: .*{message}"):
        read_photographs(tmp_path, image_size=32)


def test_files_that_do_not_fit_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"expected .*annotations\.npz \(see docs/photographs\.md\), got no"):
        read_photographs(tmp_path / "nowhere")
    write_folder(tmp_path, 2, 32)
    (tmp_path / "masks" / "00007.png").unlink()
    with pytest.raises(FileNotFoundError, match=r"expected .*masks.00007\.jpg, \.jpeg or \.png, got no such file"):
        read_photographs(tmp_path)
    path = tmp_path / "images" / "00008.png"
    Image.new("RGB", (32, 40)).save(path)
    with pytest.raises(ValueError, match=r"expected images of image_size 32 × 32, got 32 × 40 in .*00008\.png"):
        read_photographs(tmp_path)
    path.write_bytes(b"no image")
    with pytest.raises(ValueError, match=r"read_photographs: expected an image in .*00008\.png, got "):
        read_photographs(tmp_path)
    for content in (b"", pickle.dumps([1]), b"PK\x03\x04 cut off"):
        (tmp_path / "annotations.npz").write_bytes(content)
        with pytest.raises(ValueError, match=r"expected an archive of plain arrays in .*annotations\.npz, got "):
            read_photographs(tmp_path)


def test_numbers_that_do_not_fit_are_named(written):
    with pytest.raises(ValueError, match=r"expected numbers in .*annotations\.npz, got \[1, 2\]"):
        read_photographs(written[0], [7, 2, 1])
    with pytest.raises(ValueError, match=r"expected at least one photograph, got none"):
        read_photographs(written[0], [])
    with pytest.raises(ValueError, match=r"expected image_size > 0, got 0"):
        read_photographs(written[0], image_size=0)


def test_without_pillow_the_way_out_is_told(written, monkeypatch):
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(MissingExtraError, match=r'reading photographs needs pillow: pip install "texalign\[demo\]"'):
        read_photographs(written[0])


@pytest.fixture(scope="module")
def detected(tmp_path_factory):
    """Photographs without meshes: five to believe, one with too few keypoints, one whose keypoints are no hand's."""
    batch = synthetic.generate(7, 64, torch.Generator().manual_seed(4), left_share=0.5, texture_size=32)
    marks = (batch.camera.project(batch.joints) - 0.5).numpy()
    marks[2, 5:16] = np.nan
    marks[4] = np.random.default_rng(0).uniform(0, 64, (21, 2))
    folder = tmp_path_factory.mktemp("detected")
    absent = dict.fromkeys(("vertices_cam_cm", "joints_cam_cm", "joints_px"))
    write_folder(folder, count=7, seed=4, keypoints_px=marks, **absent)
    return read_photographs(folder, image_size=64), batch.canonical()


@pytest.fixture(scope="module")
def fitted(detected, tmp_path_factory):
    file, told = tmp_path_factory.mktemp("run") / "deep" / "fits.npz", []
    return fit_photographs(detected[0], file, lambda *done: told.append(done)), file, told


def test_hands_are_fitted_and_bad_fits_left_out(detected, fitted):
    photographs, batch = detected
    found, _, told = fitted
    assert found.photographs.ids == (7, 8, 10, 12, 13) and found.left_out == 2 and len(found) == 5
    assert told == [(7, 7)]
    assert found.fingerprint == photographs.fingerprint()
    assert torch.equal(found.to("cpu").parameters.shape, found.parameters.shape)
    true = batch.camera.project(batch.vertices)[[0, 1, 3, 5, 6]]
    error = (found.photographs.camera.project(found.vertices) - true).norm(dim=-1).mean(dim=1)
    assert error.median() < 1.5 and error.max() < 4  # pixels of 64


def test_kept_fits_are_read_and_not_made_again(detected, fitted, monkeypatch):
    found, file, _ = fitted
    monkeypatch.setattr(fitted_photographs, "fit_to_keypoints", None)
    again = fit_photographs(detected[0], file)
    assert torch.equal(again.vertices, found.vertices) and again.photographs.ids == found.photographs.ids
    assert sorted(path.name for path in file.parent.iterdir()) == ["fits.npz"]


def test_fits_of_others_and_damaged_fits_are_refused(detected, fitted, tmp_path):
    photographs, (_, file, _) = detected[0], fitted
    with pytest.raises(ValueError, match=r"fit_photographs: expected the photographs that .*fits\.npz was made for"):
        fit_photographs(photographs.select(torch.arange(3)), file)
    for content in (b"", file.read_bytes()[:500]):
        (tmp_path / "fits.npz").write_bytes(content)
        with pytest.raises(ValueError, match=r"fit_photographs: expected fits in .*fits\.npz, got a damaged file"):
            fit_photographs(photographs, tmp_path / "fits.npz")
    with pytest.raises(ValueError, match="photograph on whose keypoints the hand can be laid, got none of 1"):
        fit_photographs(photographs.select(torch.tensor([2])))


def test_meshes_of_the_folder_are_taken_as_they_are(written, tmp_path):
    photographs = read_photographs(written[0], image_size=64)
    found = fit_photographs(photographs, tmp_path / "fits.npz")
    assert found.vertices is photographs.vertices and found.parameters is None and found.left_out == 0
    assert not (tmp_path / "fits.npz").exists()
