"""HaMeR's own ``eval.py`` for one checkpoint. Run by evaluate_hamer.py, in the checkout, with eval.py's arguments.

Two things are added. A checkpoint that does not fill the whole network is refused; HaMeR's own `load_hamer` takes it
without a word. And what was found hand by hand is kept in ``<results_folder>/<data set>.npz``, from which
score_arms.py computes intervals: ``imgname`` (N,) for all, and for HInt ``predicted`` and ``true`` (N, 21, 2) pixels,
``known`` (N, 21) bool and ``box_size`` (N,) pixels.
"""

from __future__ import annotations

import argparse
import importlib
import runpy
import sys
from pathlib import Path
from typing import Any

import numpy as np
from texture_trainer import load_weights


def keeping(evaluator: Any, folder: Path) -> Any:
    """A class like HaMeR's `Evaluator` that writes such a file once it has seen its whole data set."""

    class KeepingEvaluator(evaluator):
        def __call__(self, output: Any, batch: Any, opt_output: Any = None) -> Any:
            self.imgnames = [*getattr(self, "imgnames", []), *batch["imgname"]]
            found = super().__call__(output, batch, opt_output)
            if self.counter >= self.dataset_length:
                kept: dict[str, Any] = {"imgname": np.array(self.imgnames)}
                if self.pck_evaluator is not None:
                    seen = self.pck_evaluator
                    kept["predicted"] = np.concatenate(seen.pred_kp_2d)[:, 0]
                    kept["true"] = np.concatenate(seen.gt_kp_2d)[:, 0]
                    kept["known"] = np.concatenate(seen.gt_conf_2d)[:, 0] > 0.5
                    kept["box_size"] = np.concatenate(seen.scale)
                np.savez(folder / f"{self.dataset.lower()}.npz", **kept)
            return found

    return KeepingEvaluator


def main() -> None:
    """Run eval.py with both."""
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--results_folder", type=Path, required=True)
    folder = parser.parse_known_args()[0].results_folder
    sys.path.insert(0, str(Path.cwd()))
    models: Any = importlib.import_module("hamer.models")
    utils: Any = importlib.import_module("hamer.utils")
    load_hamer = models.load_hamer

    def load_all(checkpoint: str) -> Any:
        model, configuration = load_hamer(checkpoint)
        print(load_weights(model, checkpoint), flush=True)
        return model, configuration

    models.load_hamer, utils.Evaluator = load_all, keeping(utils.Evaluator, folder)
    sys.argv[0] = "eval.py"
    runpy.run_path("eval.py", run_name="__main__")


if __name__ == "__main__":
    main()
