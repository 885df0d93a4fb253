"""Predictions of a network, refined by the texture loss alone: ``python experiments/align [--hands 64]``.

Generated hands of `texalign.cli.synthetic_hands`, as MANO parameters of smplx's layer on a file of `write_mano`. The
predictions are off by 0.15 rad of flexion, 0.06 rad of orientation, and 4, 4, 12 mm; there are no keypoints.
"""

from __future__ import annotations

import argparse
import platform
import sys
import tempfile
import time
from pathlib import Path

import smplx
import torch
from torch import Tensor

sys.path.append(str(Path(__file__).resolve().parents[1]))

import texalign as ta
from fits.comparison import interval
from texalign.cli import synthetic_hands
from texalign.hand import ManoParameters, mano_hand, refine_mano
from texalign.mano import write_mano


def main() -> None:
    """Refine, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hands", type=int, default=64)
    parser.add_argument("--image-size", type=int, default=96)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--anchor", type=float, nargs="+", default=[0.2])
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--chunk", type=int, default=16)
    options = parser.parse_args()
    torch.set_num_threads(1)
    size = options.image_size
    hands, model, start = synthetic_hands(options.hands, size, options.seed)
    with tempfile.TemporaryDirectory() as folder:
        path = write_mano(Path(folder) / "MANO_RIGHT.pkl")
        layer = smplx.MANOLayer(str(path), is_rhand=True)
    loss = ta.DenseTextureAlignmentLoss.from_pretrained(image_size=size, reduction="none")
    pose, betas = model.pose_from_angles(start.angles, start.orientation), model.get_buffer("betas")
    tensors = (pose[:, :1], pose[:, 1:], betas, start.translation)
    predicted = ManoParameters(*tensors)
    true, joints = hands.vertices, hands.joints
    assert true is not None and joints is not None
    true_relative = true - joints[:, :1]

    def errors(parameters: ManoParameters) -> dict[str, Tensor]:
        with torch.no_grad():
            vertices, wrists = mano_hand(layer, parameters)
        image = hands.camera.project(vertices) - hands.camera.project(true)
        relative = vertices - wrists[:, :1] - true_relative
        return {
            "in the image, px": image.norm(dim=-1).mean(dim=1),
            "relative to the wrist, mm": 1000 * relative.norm(dim=-1).mean(dim=1),
            "absolute, mm": 1000 * (vertices - true).norm(dim=-1).mean(dim=1),
        }

    before = errors(predicted)
    machine = f"torch {torch.__version__}, {platform.machine()}"
    print(f"{options.hands} hands, {size} px, {options.steps} steps, seed {options.seed}; {machine}")
    for anchor in options.anchor:
        began, parts = time.process_time(), []
        for rows in torch.arange(options.hands).split(options.chunk):
            part = ManoParameters(*(tensor[rows] for tensor in tensors))
            generator = torch.Generator().manual_seed(0)
            refined = refine_mano(
                layer,
                part,
                hands.camera[rows],
                hands.image[rows],
                loss,
                anchor=anchor,
                steps=options.steps,
                generator=generator,
            )
            parts.append((refined.global_orient, refined.hand_pose, refined.betas, refined.translation))
        seconds = (time.process_time() - began) / options.hands
        after = errors(ManoParameters(*(torch.cat(some) for some in zip(*parts))))
        print(f"anchor {anchor:g}, {seconds:.1f} s of one thread a hand")
        for name, values in before.items():
            change = after[name] - values
            share, worse = change.mean() / values.mean(), (change > 0).float().mean()
            told = f"{share:+.1%}, change {{:+.2f}} ({{:+.2f}} … {{:+.2f}}), worse in {worse:.0%}".format(
                *interval(change)
            )
            best = values.argsort()[: max(1, len(values) // 4)]
            told += f"; the quarter nearest at the start {values[best].mean():.2f} → {after[name][best].mean():.2f}"
            print(f"  {name:<26} {values.mean():.2f} → {after[name].mean():.2f}, {told}")


if __name__ == "__main__":
    main()
