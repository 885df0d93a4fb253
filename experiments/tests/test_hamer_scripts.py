from __future__ import annotations

import importlib.util
import io
import json
import os
import pickle
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

import hamer_stand_in
import numpy as np
import pytest
import score_arms
import step_cost
import texture_trainer
import torch
import train_hamer
from hamer_batches import boxes, joint_batch, mocap_batch, photographs

from texalign.mano import write_mano

REPOSITORY = Path(__file__).parents[2]
SCRIPTS = REPOSITORY / "experiments" / "hamer"

# Python runs this before anything else: what cannot be imported here gets a substitute, and the network is small.
SITECUSTOMIZE = """
import sys
from pathlib import Path
if {"train.py", "evaluate_one.py"} & {Path(word).name for word in sys.orig_argv}:
    import torch

import hamer_stand_in
import score_arms
import step_cost
import texture_trainer
import train_hamer
from hamer_batches import boxes, joint_batch, mocap_batch, photographs
from texalign.mano import write_mano
    torch.set_num_threads(1)
    import hamer_checkout
    hamer_checkout.load()
    import hamer.models.hamer
    from hamer.models.backbones.vit import ViT
    hamer.models.hamer.create_backbone = lambda cfg: ViT(
        img_size=(256, 192), patch_size=16, embed_dim=96, depth=2, num_heads=3, qkv_bias=True
    )
"""
PACKAGES = ("hydra", "omegaconf", "yacs", "pyrootutils", "rich", "webdataset", "hydra_plugins", "pandas", "tensorboard")
SMALL = [
    "experiment=hamer_vit_transformer", "MODEL.BACKBONE.PRETRAINED_WEIGHTS=null",
    "MODEL.MANO_HEAD.TRANSFORMER_DECODER.depth=1", "MODEL.MANO_HEAD.TRANSFORMER_DECODER.context_dim=96",
    "+MODEL.MANO_HEAD.TRANSFORMER_DECODER.dim=64", "+MODEL.MANO_HEAD.INIT_DECODER_XAVIER=True",
    "TRAIN.BATCH_SIZE=2", "TRAIN.LR=1e-4", "GENERAL.NUM_WORKERS=1", "GENERAL.CHECKPOINT_STEPS=2", "GENERAL.LOG_STEPS=2",
    *(f"~DATASETS.TRAIN.{name}-TRAIN" for name in (
        "INTERHAND26M", "MTC", "RHD", "COCOW", "HALPE", "MPIINZSL", "HO3D", "H2O3D", "DEX")),
]  # fmt: skip
ON_A_CPU = ["trainer=cpu", "trainer.precision=32"]


@pytest.fixture(scope="session")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkout of HaMeR with synthetic training data where it looks for its own, and a hand of nobody's."""
    named = os.environ.get("HAMER_ROOT", "")
    if not (Path(named) / "train.py").is_file():
        pytest.skip("HAMER_ROOT names no checkout of HaMeR")
    missing = [name for name in PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        pytest.skip(f"HaMeR's own training needs {', '.join(missing)}")
    root = tmp_path_factory.mktemp("hamer")
    (root / ".git").mkdir()  # by which it finds its root
    (root / "hamer").symlink_to(Path(named).resolve() / "hamer")
    for name in ("train.py", "eval.py"):
        shutil.copy(Path(named) / name, root)
    (root / "site").mkdir()
    (root / "site" / "sitecustomize.py").write_text(SITECUSTOMIZE)
    (root / "_DATA" / "data" / "mano").mkdir(parents=True)
    write_mano(root / "_DATA" / "data" / "mano" / "MANO_RIGHT.pkl")
    pose, betas, cam = (values.numpy() for values in hamer_stand_in.initial_parameters())
    np.savez(root / "_DATA" / "data" / "mano_mean_params.npz", pose=pose, shape=betas, cam=cam)
    tars = root / "hamer_training_data" / "dataset_tars" / "freihand-train"
    tars.mkdir(parents=True)
    _write_tar(tars / "000000.tar")
    for number in range(1, 131):
        (tars / f"{number:06d}.tar").symlink_to("000000.tar")
    mocap = {name: values.numpy() for name, values in mocap_batch(8).items()}
    mocap["hand_pose"] = np.pad(mocap["hand_pose"], ((0, 0), (3, 0)))
    np.savez(root / "hamer_training_data" / "freihand_mocap.npz", **mocap)
    return root


def _write_tar(path: Path, count: int = 6) -> None:
    """Photographs as HaMeR's training data has them: an image, a pickled list of hands, masks."""
    photos = photographs(count, seed=5)
    centres, sides = (values.numpy() for values in boxes(photos, 1.5))
    with tarfile.open(path, "w") as archive:
        for number in range(count):
            hand = {
                "keypoints_2d": photos.keypoints_2d[number].numpy(),
                "keypoints_3d": photos.keypoints_3d[number].numpy(),
                "center": centres[number],
                "scale": np.full(2, sides[number] / 200),
                "hand_pose": photos.pose[number].numpy(),
                "betas": photos.betas[number].numpy(),
                "right": np.array(float(photos.is_right[number])),
                "has_hand_pose": np.array(1.0),
                "has_betas": np.array(1.0),
                "extra_info": {"detection_npz_idx": 0},
            }
            masks = io.BytesIO()
            np.savez(masks, masks=photos.mask[number, None].numpy())
            files = {"jpg": _encoded(photos.image[number]), "data.pyd": pickle.dumps([hand])}
            for suffix, content in {**files, "detection.npz": masks.getvalue()}.items():
                member = tarfile.TarInfo(f"hand{number}.{suffix}")
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))


def _encoded(image: torch.Tensor) -> bytes:
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(image.permute(1, 2, 0).to(torch.uint8).numpy()).save(buffer, format="PNG")
    return buffer.getvalue()


def _train(checkout: Path, name: str, *words: str, steps: int = 4) -> str:
    """Run the launcher for so many of Lightning's steps, of which a batch has two; what it printed."""
    return _run(
        checkout, SCRIPTS / "train_hamer.py", *SMALL, f"exp_name={name}", f"GENERAL.TOTAL_STEPS={steps}", *words
    )


def _run(checkout: Path, script: Path, *words: str) -> str:
    paths = [checkout / "site", REPOSITORY / "examples", REPOSITORY / "src"]
    environment = os.environ | {"HAMER_ROOT": str(checkout), "PYTHONPATH": os.pathsep.join(map(str, paths))}
    done = subprocess.run(
        [sys.executable, script, *words], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout + done.stderr


def _saved(checkout: Path, name: str) -> dict[str, Any]:
    found: dict[str, Any] = torch.load(
        checkout / "logs" / "train" / "runs" / name / "checkpoints" / "last.ckpt", weights_only=False
    )
    return found


@pytest.mark.slow
def test_train_py_trains_with_the_loss_and_goes_on(checkout: Path) -> None:
    said = _train(checkout, "texture", "texture_exp=texalign", "seed=3", *ON_A_CPU, "trainer.texture.pictures_every=1")
    assert "loss attached" in said
    folder = checkout / "logs" / "train" / "runs" / "texture"
    assert _saved(checkout, "texture")["global_step"] == 4
    assert torch.load(folder / "checkpoints" / "last.ckpt.texalign.pt")["batches"] == 2
    assert not [name for name in _saved(checkout, "texture")["state_dict"] if "encoder" in name or "texture" in name]
    _train(checkout, "texture", "texture_exp=texalign", "seed=3", *ON_A_CPU, steps=6)
    assert _saved(checkout, "texture")["global_step"] == 6
    assert torch.load(folder / "checkpoints" / "last.ckpt.texalign.pt")["batches"] == 3


@pytest.mark.slow
def test_a_run_starts_from_given_weights_and_is_evaluated_by_eval_py(checkout: Path, tmp_path: Path) -> None:
    start = checkout / "logs" / "train" / "runs" / "texture" / "checkpoints" / "last.ckpt"
    if not start.is_file():
        pytest.skip("no checkpoint was trained")
    still = ["TRAIN.LR=0", "TRAIN.WEIGHT_DECAY=0"]
    said = _train(
        checkout, "baseline", "texture_exp=baseline", f"trainer.start_from={start}", *ON_A_CPU, *still, steps=2
    )
    assert "loss attached" not in said
    assert "backbone (29 entries)" in said
    begun, ended = torch.load(start, weights_only=False)["state_dict"], _saved(checkout, "baseline")["state_dict"]
    assert all(torch.equal(begun[name], ended[name]) for name in begun)

    count = _write_evaluation_data(checkout)
    quick = ["--num_workers", "0", "--dataset", "FREIHAND-VAL,NEWDAYS-TEST-ALL,NEWDAYS-TEST-VIS,NEWDAYS-TEST-OCC"]
    arm = "baseline-1=logs/train/runs/baseline/checkpoints/last.ckpt"
    said = _run(checkout, SCRIPTS / "evaluate_hamer.py", arm, "--results", str(tmp_path), *quick)
    assert "texalign: loaded" in said
    found = score_arms.hint_scores(tmp_path / "baseline-1", "NEWDAYS-TEST-VIS")  # which agrees with eval.py's table
    assert list(found) == ["PCK@0.05", "PCK@0.1", "PCK@0.15"]
    assert found["PCK@0.1"].known.shape == (count, 21)
    assert found["PCK@0.1"].known[:, 0].sum() == 0  # as written below: the wrist is never visible
    joints, vertices = json.loads((tmp_path / "baseline-1" / "freihand-val.json").read_text())
    for name, points in (("xyz", joints), ("verts", vertices)):
        (tmp_path / f"evaluation_{name}.json").write_text(json.dumps(points))
    perfect = score_arms.point_scores(tmp_path / "baseline-1", "FREIHAND-VAL", tmp_path)
    assert score_arms.value([perfect["PA-MPJPE, mm"]]) < 1e-2
    assert score_arms.value([perfect["F@5 mm"]]) == 1


def _write_evaluation_data(checkout: Path, count: int = 4) -> int:
    """What HaMeR's eval.py reads. Its folders of images do not exist here, and full paths do not need them."""
    photos = photographs(count, seed=5)
    centres, sides = (values.numpy() for values in boxes(photos, 1.0))
    folder = checkout / "hamer_evaluation_data"
    folder.mkdir(exist_ok=True)
    (checkout / "_DATA" / "hamer_demo_data.tar.gz").touch()  # or eval.py fetches it
    names = [str(folder / f"{number}.png") for number in range(count)]
    for number, name in enumerate(names):
        Path(name).write_bytes(_encoded(photos.image[number]))
    visible = np.arange(21) % 2 == 1
    sets = {"freihand_val": np.ones(21), "TEST_newdays_img_all": np.ones(21)}
    sets |= {"TEST_newdays_img_vis": visible, "TEST_newdays_img_occ": ~visible}
    for name, known in sets.items():
        keypoints = photos.keypoints_2d.numpy() * [1, 1, 0] + np.asarray(known, float)[:, None] * [0, 0, 1]
        np.savez(
            folder / f"{name}.npz", imgname=np.array(names), center=centres, scale=sides,
            right=photos.is_right.numpy().astype(np.float32), hand_keypoints_2d=keypoints,
        )  # fmt: skip
    return count


def test_the_launcher_becomes_train_py(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="train_hamer: expected HAMER_ROOT to name a checkout of HaMeR"):
        train_hamer.command([], {"HAMER_ROOT": str(tmp_path)})
    (tmp_path / "hamer" / "models").mkdir(parents=True)
    (tmp_path / "hamer" / "models" / "hamer.py").touch()
    environment = {"HAMER_ROOT": str(tmp_path), "PYTHONPATH": "mine"}
    root, words, given = train_hamer.command(["texture_exp=texalign", "seed=1"], environment)
    assert root == tmp_path
    # What Lightning adds for its further processes has to follow our overrides without an option in between.
    assert words[1:3] == ["train.py", "--config-dir"] and words[4:] == ["texture_exp=texalign", "seed=1"]
    assert (Path(words[3]) / "texture_exp" / "texalign.yaml").is_file()
    assert given["PYTHONPATH"].split(os.pathsep) == [str(SCRIPTS), "mine"]


def _fit(texture: dict[str, Any] | None, folder: Path, **settings: Any) -> Any:
    model = hamer_stand_in.make_model(0)
    model.cfg.TRAIN.LR = 1e-3
    trainer = texture_trainer.TextureTrainer(
        max_epochs=1, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, default_root_dir=folder, texture=texture, **settings,
    )  # fmt: skip
    trainer.fit(model, torch.utils.data.DataLoader([joint_batch(2, seed=1)] * 2, batch_size=None))
    return model


def test_the_trainer_attaches_the_loss_and_leaves_the_model_as_it_was(tmp_path: Path) -> None:
    with_loss = _fit({"weight": 0.02, "image_size": 64, "pictures_every": 1}, tmp_path)
    without, unweighted = _fit(None, tmp_path), _fit({"weight": 0.0, "image_size": 64, "pictures_every": 0}, tmp_path)
    assert "compute_loss" not in vars(with_loss)
    assert sorted(path.name for path in tmp_path.rglob("alignment-*.png")) == [
        "alignment-00000000.png", "alignment-00000001.png"
    ]  # fmt: skip
    weights = [
        torch.cat([p.detach().flatten() for p in each.get_parameters()]) for each in (with_loss, without, unweighted)
    ]
    assert not torch.equal(weights[0], weights[1])
    assert torch.equal(weights[1], weights[2])


def test_weights_fill_the_network_or_are_refused(tmp_path: Path) -> None:
    given, model = hamer_stand_in.make_model(1), hamer_stand_in.make_model(0)
    state = {name: each for name, each in given.state_dict().items() if not name.startswith("discriminator")}
    torch.save({"state_dict": state}, tmp_path / "given.ckpt")
    said = texture_trainer.load_weights(model, tmp_path / "given.ckpt")
    assert "backbone (8 entries)" in said
    assert "not in the file, left as they were: discriminator" in said
    assert all(torch.equal(a, b) for a, b in zip(model.get_parameters(), given.get_parameters()))
    for name, changed in {
        "less": {name: each for name, each in state.items() if name != "mano_head.init_cam"},
        "more": state | {"backbone.extra": torch.zeros(1)},
    }.items():
        torch.save({"state_dict": changed}, tmp_path / f"{name}.ckpt")
        with pytest.raises(ValueError, match=r"load_weights: expected .* all of backbone and mano_head, got 1 others"):
            texture_trainer.load_weights(model, tmp_path / f"{name}.ckpt")


def test_step_cost_measures_both_kinds_of_step() -> None:
    found = step_cost.measure("stand-in", batch=2, rounds=1, precision="32", image_size=64)
    own, texture = (found["milliseconds"][kind] for kind in (step_cost.WITHOUT, step_cost.WITH))
    assert len(own) == len(texture) == 2
    assert min(own) > 0 and min(texture) > 0
    rows = step_cost.rows_of({**found, "milliseconds": {"a": [100.0, 200.0, 300.0]}, "peak_MiB": {"a": 7.0}}, 8, 50_000)
    assert rows[0]["hours for 50,000 batches"] == f"{50_000 * 0.2 / 3600:.1f}"
    assert rows[0]["images / s"] == "40.0"


def _write_hint(folder: Path, offset: float, images: int = 30) -> None:
    """Two hands an image, in boxes of 100 pixels, off by 4 px but for every third joint, which is off by `offset`."""
    generator = np.random.default_rng(0)
    true = generator.uniform(0, 100, (2 * images, 21, 2))
    known = generator.random((2 * images, 21)) < 0.7
    away = np.full((2 * images, 21), 4.0)
    away[:, ::3] = offset * generator.uniform(0.9, 1.1, (2 * images, 7))
    folder.mkdir(parents=True)
    np.savez(
        folder / "newdays-test-occ.npz", predicted=true + away[..., None] * [1, 0], true=true, known=known,
        box_size=np.full(2 * images, 100.0), imgname=np.repeat([f"{n}.jpg" for n in range(images)], 2),
    )  # fmt: skip
    # As HaMeR's eval.py counts: by joint, then over joints.
    correct = {t: ((away <= 100 * t) & known).sum(0) / known.sum(0) for t in (0.05, 0.1, 0.15)}
    lines = ["timestamp,checkpoint_path,exp_name,dataset,metric_name,metric_value,error,iters_done"]
    lines += [f",,,NEWDAYS-TEST-OCC,kpAvg_pck_{t},{values.mean()},,0" for t, values in correct.items()]
    (folder / "eval_regression.csv").write_text("\n".join(lines))


def test_the_table_of_hint(tmp_path: Path) -> None:
    for seed in (1, 2):
        _write_hint(tmp_path / f"baseline-{seed}", offset=10.0)
        _write_hint(tmp_path / f"texalign-{seed}", offset=6.0)
    _write_hint(tmp_path / "released", offset=20.0)
    rows = score_arms.rows_of(tmp_path, "baseline", "texalign", ["released"], {}, ["NEWDAYS-TEST-OCC"])
    first, second, _ = rows
    assert first["data set"] == "HInt New Days, occluded joints" and first["number"] == "PCK@0.05"
    assert first["baseline"] == first["texalign"] == f"{100 * 14 / 21:.4g}"
    assert first["texalign − baseline"] == "+0 (+0 … +0)"
    # Nearly all of the baseline's third of joints lie within 9 to 11 px, so that the difference is about a sixth.
    assert float(second["texalign"]) == 100 and float(second["released"]) == pytest.approx(100 * 14 / 21, abs=0.01)
    middle, low, high = score_arms.paired_difference(
        *(
            [score_arms.hint_scores(tmp_path / f"{arm}-1", "NEWDAYS-TEST-OCC")["PCK@0.1"]]
            for arm in ("texalign", "baseline")
        )
    )
    assert middle == pytest.approx(100 - float(second["baseline"]), abs=0.05)
    assert 0 < low < middle < high < 2 * middle


def test_a_table_refuses_what_does_not_belong_together(tmp_path: Path) -> None:
    _write_hint(tmp_path / "baseline-1", offset=10.0)
    _write_hint(tmp_path / "texalign-2", offset=6.0)
    with pytest.raises(ValueError, match=r"expected seeds \['1'\] of texalign, got \['2'\]"):
        score_arms.rows_of(tmp_path, "baseline", "texalign", [], {}, ["NEWDAYS-TEST-OCC"])
    _write_hint(tmp_path / "texalign-1", offset=6.0, images=29)
    shutil.rmtree(tmp_path / "texalign-2")
    with pytest.raises(ValueError, match="expected the same samples in all"):
        score_arms.rows_of(tmp_path, "baseline", "texalign", [], {}, ["NEWDAYS-TEST-OCC"])
    with pytest.raises(ValueError, match="expected EPICK-TEST-ALL evaluated to its end"):
        score_arms.hint_scores(tmp_path / "baseline-1", "EPICK-TEST-ALL")
    table = tmp_path / "baseline-1" / "eval_regression.csv"
    table.write_text(table.read_text().replace("kpAvg_pck_0.05,0.6", "kpAvg_pck_0.05,0.5"))
    with pytest.raises(ValueError, match=r"expected eval.py's PCK@0.05 0.5"):
        score_arms.hint_scores(tmp_path / "baseline-1", "NEWDAYS-TEST-OCC")


def test_the_table_of_points_draws_sequences_of_ho3d_together(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    joints, vertices = (0.05 * torch.randn(6, count, 3, generator=generator) for count in (21, 778))
    for name, points in (("xyz", joints), ("verts", vertices)):
        (tmp_path / f"evaluation_{name}.json").write_text(json.dumps(points.tolist()))
    moved = [2 * joints + 1, vertices + 0.004 * torch.randn(6, 778, 3, generator=generator)]
    (tmp_path / "ho3d-val.json").write_text(json.dumps([points.tolist() for points in moved]))
    names = [f"/data/{sequence}/rgb/{frame}.png" for sequence in ("SM1", "MPM10") for frame in range(3)]
    np.savez(tmp_path / "ho3d-val.npz", imgname=np.array(names))
    found = score_arms.point_scores(tmp_path, "HO3D-VAL", tmp_path)
    assert score_arms.value([found["PA-MPJPE, mm"]]) == pytest.approx(0, abs=1e-3)
    assert score_arms.value([found["PA-MPVPE, mm"]]) == pytest.approx(0.004 * 1.596 * 1000, rel=0.05)  # σ √(8/π)
    assert len(set(found["F@5 mm"].drawn_with)) == 2
    np.savez(tmp_path / "ho3d-val.npz", imgname=np.array(names[:5]))
    with pytest.raises(ValueError, match="as many samples in"):
        score_arms.point_scores(tmp_path, "HO3D-VAL", tmp_path)
