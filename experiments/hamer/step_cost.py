"""What a training step of HaMeR costs with the loss and without, on this machine, and the hours that so many take.

    HAMER_ROOT=… python experiments/hamer/step_cost.py --network full --batch 8 --precision 16-mixed --batches 50000
    python experiments/hamer/step_cost.py --network stand-in      # no checkout, for a look at the script itself

HaMeR's own ``training_step``, under Lightning, both optimisers included, on one device. One network takes steps with
the loss and without in turn (ABBA), so that whatever else the machine does is shared by both. The images are
synthetic hands from HaMeR's own loader, made beforehand: loading is not counted, nor is what DDP exchanges. ``full``
is HaMeR as it is trained (ViT-H), with random weights and the bundled hand in the place of MANO, which has the same
sizes: no licensed file is needed. ``small`` has two layers of 96 channels.

Peak memory is that of the GPU's allocator for either kind of step. On a CPU it is the largest resident set of each
kind's steps (Linux), the first two left out, weights and optimisers included.
"""

from __future__ import annotations

import argparse
import importlib
import logging
import sys
import time
import warnings
from pathlib import Path
from statistics import median, quantiles
from typing import Any

import pytorch_lightning as pl
import torch

sys.path.append(str(Path(__file__).resolve().parents[2] / "benchmarks"))
sys.path.append(str(Path(__file__).resolve().parents[2] / "examples"))
import texalign as ta
from recording import environment, table, write_json
from renderer import peak_memory
from texalign.adapters import hamer
from texalign.rasterize import select_backend

WITHOUT, WITH = "HaMeR's own losses", "+ texture"
ROUND = (WITHOUT, WITH, WITH, WITHOUT)
WARM_UP = 2  # rounds that are not counted


class Steps(pl.Callback):
    """Attaches the loss to every step that is to have it, and measures all of them.

    Attributes:
        seconds: of each step by kind.
        peak_mib: the most that a step of each kind held.
    """

    def __init__(self, **settings: Any) -> None:
        self.settings = settings
        surface, encoder = ta.HandSurface.mano(), ta.UVTextureEncoder.from_pretrained()
        renderer = ta.TexturedHandRenderer(surface, self.settings.pop("image_size"))
        train_texture = self.settings.pop("train_texture")
        self.loss_fn = ta.DenseTextureAlignmentLoss(renderer, encoder, train_texture=train_texture)
        self.seconds: dict[str, list[float]] = {WITHOUT: [], WITH: []}
        self.peak_mib = dict.fromkeys(self.seconds, 0.0)
        self._handle: hamer.HamerAttachment | None = None
        self._began = 0.0

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        """Attach, or not, and begin."""
        if ROUND[batch_idx % len(ROUND)] == WITH:
            self._handle = hamer.attach(pl_module, self.loss_fn, **self.settings)
        _memory(pl_module.device, reset=True)
        self._began = _now(pl_module.device)

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """End and detach."""
        seconds, kind = _now(pl_module.device) - self._began, ROUND[batch_idx % len(ROUND)]
        if batch_idx >= WARM_UP * len(ROUND):
            self.seconds[kind].append(seconds)
            self.peak_mib[kind] = max(self.peak_mib[kind], _memory(pl_module.device))
        if self._handle is not None:
            self._handle.detach()
            self._handle = None


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def _memory(device: torch.device, reset: bool = False) -> float:
    """MiB at most since the last reset."""
    if device.type != "cuda":
        return peak_memory(reset) if sys.platform == "linux" else float("nan")
    if reset:
        torch.cuda.reset_peak_memory_stats(device)
    return torch.cuda.max_memory_allocated(device) / 2**20


def make(network: str, batch: int) -> tuple[Any, dict[str, Any]]:
    """A model and a batch for its `training_step`.

    Raises:
        FileNotFoundError: HAMER_ROOT names no checkout, and the network is not the stand-in.
        ImportError: a package that HaMeR needs is missing.
    """
    if network == "stand-in":
        batches, model = (
            importlib.import_module("hamer_batches"),
            importlib.import_module("hamer_stand_in").make_model(),
        )
        return model, batches.joint_batch(batch)
    checkout = importlib.import_module("hamer_checkout")
    joint = checkout.joint_batch(batch)
    if network == "small":
        return checkout.make_model(), joint
    config, hamer_models = checkout.configuration(), checkout.load()
    omegaconf = importlib.import_module("omegaconf").OmegaConf
    folder = Path(hamer_models.__file__).parents[1] / "configs_hydra" / "experiment"
    written = omegaconf.load(folder / "hamer_vit_transformer.yaml").MODEL.MANO_HEAD.TRANSFORMER_DECODER
    decoder = config.MODEL.MANO_HEAD.TRANSFORMER_DECODER
    decoder.clear()
    decoder.update(omegaconf.to_container(written))
    return hamer_models.HAMER(config), joint


def measure(
    network: str,
    batch: int,
    rounds: int,
    precision: str,
    image_size: int = 256,
    train_texture: bool = False,
    recompute_vertices: bool = False,
) -> dict[str, Any]:
    """Milliseconds by step and MiB by kind of step.

    Args:
        network: "full", "small" or "stand-in".
        batch: images in a step.
        rounds: of two steps with and two without, counted after the first `WARM_UP`.
        precision: of Lightning.
        image_size: of the renderer.
        train_texture: whether the prior learns too.
        recompute_vertices: whether the hand layer runs once more, in float32.
    """
    model, joint = make(network, batch)
    steps = Steps(image_size=image_size, train_texture=train_texture, recompute_vertices=recompute_vertices)
    trainer = pl.Trainer(
        max_epochs=1,
        accelerator="gpu" if torch.cuda.is_available() else "cpu",
        devices=1,
        precision=precision,  # type: ignore[arg-type]
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[steps],
    )
    count = (WARM_UP + rounds) * len(ROUND)
    batches: Any = [joint] * count
    trainer.fit(model, torch.utils.data.DataLoader(batches, batch_size=None))
    return {
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "renderer": select_backend("auto", model.device).name,
        "milliseconds": {kind: [1000 * each for each in values] for kind, values in steps.seconds.items()},
        "peak_MiB": steps.peak_mib,
    }


def rows_of(found: dict[str, Any], batch: int, batches: int) -> list[dict[str, Any]]:
    """A row for each kind of step: hours = batches · seconds of a step / 3600, on every device at once."""
    rows = []
    for kind, times in found["milliseconds"].items():
        low, _, high = quantiles(times, n=4)
        rows.append(
            {
                "step": kind,
                "median ms (quartiles)": f"{median(times):.0f} ({low:.0f} … {high:.0f})",
                "images / s": f"{1000 * batch / median(times):.1f}",
                "peak MiB": f"{found['peak_MiB'][kind]:.0f}",
                f"hours for {batches:,} batches": f"{batches * median(times) / 3.6e6:.1f}",
            }
        )
    return rows


def main() -> None:
    """Print the table and write it down."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", choices=("full", "small", "stand-in"), default="full")
    parser.add_argument("--batch", type=int, default=8, help="images in a step, by device; HaMeR's default is 8")
    parser.add_argument("--batches", type=int, default=50_000, help="of a training, for the hours")
    parser.add_argument("--rounds", type=int, default=10, help="of two steps with the loss and two without")
    parser.add_argument("--precision", default="16-mixed" if torch.cuda.is_available() else "32")
    parser.add_argument("--image-size", type=int, default=256, help="of the renderer")
    parser.add_argument("--train-texture", action="store_true")
    parser.add_argument("--recompute-vertices", action="store_true")
    parser.add_argument("--output", type=Path)
    arguments = vars(parser.parse_args())
    output, batches = arguments.pop("output"), arguments.pop("batches")
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module=r"pytorch_lightning\..*")
    try:
        found = measure(**arguments)
    except (FileNotFoundError, ImportError) as error:
        parser.error(str(error))
    print(table(rows_of(found, arguments["batch"], batches)))
    added = median(found["milliseconds"][WITH]) - median(found["milliseconds"][WITHOUT])
    size = f"{found['parameters'] / 1e6:.1f} M parameters"
    print(f"the texture adds {added:.0f} ms a step; {size}, renderer: {found['renderer']}")
    if output:
        write_json(output, {"environment": environment(), **arguments, **found})


if __name__ == "__main__":
    main()
