"""HaMeR's own ``train.py``, with the texture's loss or without it: two arms that differ in nothing else.

    HAMER_ROOT=… python experiments/hamer/train_hamer.py texture_exp=texalign seed=1 exp_name=texalign-1 …
    HAMER_ROOT=… python experiments/hamer/train_hamer.py texture_exp=baseline seed=1 exp_name=baseline-1 …

All arguments are HaMeR's own, in Hydra's syntax. Nothing of the checkout is edited or copied: HaMeR's configuration has
an empty group ``texture_exp``, which ``configs/`` beside this file fills, and which exchanges Lightning's trainer for
`texture_trainer.TextureTrainer`. This process becomes ``python train.py …`` in the checkout, so Lightning's further
processes, which repeat that command, are the same.

HaMeR's checkpoints hold its configuration as an object. PyTorch ≥ 2.6 reads that, on resuming, only where it is told to
trust: resume from, and start from, your own files and HaMeR's only.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path

FOLDER = Path(__file__).resolve().parent


def command(arguments: list[str], environment: Mapping[str, str]) -> tuple[Path, list[str], dict[str, str]]:
    """The checkout to run in, the command, and its environment.

    Raises:
        ValueError: HAMER_ROOT names no checkout of HaMeR.
    """
    root = Path(environment.get("HAMER_ROOT", ""))
    if not (root / "hamer" / "models" / "hamer.py").is_file():
        raise ValueError(f"train_hamer: expected HAMER_ROOT to name a checkout of HaMeR, got {str(root)!r}")
    paths = [str(FOLDER), *filter(None, [environment.get("PYTHONPATH")])]
    added = {"PYTHONPATH": os.pathsep.join(paths), "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD": "1"}
    # Options come first: Lightning appends overrides for its further processes, and argparse wants them in one row.
    words = [sys.executable, "train.py", "--config-dir", str(FOLDER / "configs"), *arguments]
    return root, words, {**environment, **added}


def main() -> None:
    """Become HaMeR's ``train.py``."""
    try:
        root, words, environment = command(sys.argv[1:], os.environ)
    except ValueError as error:
        raise SystemExit(str(error)) from None
    os.chdir(root)
    os.execve(words[0], words, environment)


if __name__ == "__main__":
    main()
