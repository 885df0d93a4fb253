"""Checkpoints of HaMeR, ours and others', through HaMeR's own ``eval.py``, one folder of results each.

    HAMER_ROOT=… python experiments/hamer/evaluate_hamer.py --results results \
        baseline-1=logs/train/runs/baseline-1/checkpoints/last.ckpt \
        texalign-1=logs/train/runs/texalign-1/checkpoints/last.ckpt \
        released=_DATA/hamer_ckpts/checkpoints/hamer.ckpt [eval.py's own arguments, --dataset FREIHAND-VAL,…]

Checkpoints are looked for in the checkout. Each is evaluated with the configuration it was trained with, HaMeR's
``model_config.yaml`` two folders above it. Where ``train.py`` wrote that file, paths of it refer to one another and
start in the checkout, which HaMeR's `load_hamer` does not expect: then a copy in which they are filled in is used.
"""

from __future__ import annotations

import argparse
import importlib
import os
import subprocess
import sys
from pathlib import Path

FOLDER = Path(__file__).resolve().parent
SECTIONS = ("GENERAL", "TRAIN", "MODEL", "MANO", "EXTRA", "LOSS_WEIGHTS", "DATASETS")


def staged(checkpoint: Path, folder: Path, root: Path) -> Path:
    """A path to the checkpoint from which `load_hamer` finds a configuration it understands: in `folder` if need be."""
    written = checkpoint.parent.parent / "model_config.yaml"
    if not checkpoint.is_file() or not written.is_file():
        raise ValueError(f"evaluate_hamer: expected {checkpoint} and {written}, got no such files")
    if "${" not in written.read_text():
        return checkpoint
    omegaconf = importlib.import_module("omegaconf").OmegaConf
    config = omegaconf.load(written)
    for name in ("MODEL_PATH", "MEAN_PARAMS"):  # absolute paths are what `load_hamer` leaves alone
        config.MANO[name] = str(root / config.MANO[name])
    (folder / "checkpoints").mkdir(parents=True, exist_ok=True)
    omegaconf.save(omegaconf.masked_copy(config, list(SECTIONS)), folder / "model_config.yaml", resolve=True)
    link = folder / "checkpoints" / checkpoint.name
    link.unlink(missing_ok=True)
    link.symlink_to(checkpoint)
    return link


def main() -> None:
    """Evaluate each arm in a process of its own."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("arms", nargs="+", metavar="NAME=CHECKPOINT", help="NAME-SEED for arms that are compared")
    parser.add_argument("--results", type=Path, required=True, help="gets a folder NAME each")
    arguments, rest = parser.parse_known_args()
    root = Path(os.environ.get("HAMER_ROOT", "")).absolute()
    if not (root / "eval.py").is_file():
        parser.error(f"HAMER_ROOT must name a checkout of HaMeR, got {str(root)!r}")
    for arm in arguments.arms:
        name, equals, checkpoint = arm.partition("=")
        if not (name and equals and checkpoint):
            parser.error(f"expected NAME=CHECKPOINT, got {arm!r}")
        folder = (arguments.results / name).absolute()
        folder.mkdir(parents=True, exist_ok=True)
        path = staged(root / checkpoint, folder, root)
        script = [sys.executable, str(FOLDER / "evaluate_one.py")]
        own = ["--checkpoint", str(path), "--results_folder", str(folder), "--exp_name", name]
        # The checkpoints hold their configuration as an object, see train_hamer.py.
        environment = {**os.environ, "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD": "1"}
        subprocess.run([*script, *own, *rest], cwd=root, env=environment, check=True)


if __name__ == "__main__":
    main()
