"""Prediction files as the evaluations of FreiHAND and HO3D read them."""

from __future__ import annotations

import io
import json
import os
import zipfile
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from texalign._internal import expect, expect_floating, finite_samples, write_whole
from texalign.hand import JOINT_ORDER

# HO3D's joints are the 16 of a pose in MANO's order, then the tips from thumb to little finger: where each is in ours.
_HO3D_ORDER = tuple(JOINT_ORDER.index(joint) for joint in range(21))


def write_freihand_predictions(path: str | os.PathLike[str], joints: Tensor, vertices: Tensor) -> Path:
    """Write ``pred.json`` for the evaluation of FreiHAND: ``[joints of every sample, vertices of every sample]``.

    FreiHAND has the axes (OpenCV: x right, y down, z forward), the unit and the joint order of this library. Values are
    rounded to 0.1 µm. The file appears whole or not at all.

    Args:
        path: NAME.json, or NAME.zip for a ``pred.json`` in an archive, as the servers take it.
        joints: (N, 21, 3) metres in the camera's frame, in the order of ``texalign.hand.JOINT_NAMES``: wrist, then
            every finger from its base to its tip, thumb first. All samples, in the order of the evaluation set.
        vertices: (N, V, 3) metres. MANO's 778, or FreiHAND leaves out the mesh errors.

    Returns:
        The path.

    Raises:
        ValueError: a shape or dtype does not fit, a value is not finite, or another suffix.
    """
    return _write("write_freihand_predictions", path, joints, vertices)


def write_ho3d_predictions(path: str | os.PathLike[str], joints: Tensor, vertices: Tensor) -> Path:
    """Write ``pred.json`` for the evaluation of HO3D, version 2 or 3.

    Takes what `write_freihand_predictions` takes, in this library's axes and joint order, and writes it in HO3D's:
    OpenGL axes, x right, y up, z backward, so that hands have negative z; joints in MANO's order with the tips last.
    """
    turn = torch.tensor([1.0, -1.0, -1.0])
    expect_floating(joints, "write_ho3d_predictions", "joints", ("N", 21, 3))
    expect_floating(vertices, "write_ho3d_predictions", "vertices", ("N", "V", 3))
    joints, vertices = joints.cpu()[:, list(_HO3D_ORDER)] * turn, vertices.cpu() * turn
    return _write("write_ho3d_predictions", path, joints, vertices)


def _write(who: str, path: str | os.PathLike[str], joints: Tensor, vertices: Tensor) -> Path:
    expect_floating(joints, who, "joints", ("N", 21, 3))
    expect_floating(vertices, who, "vertices", (len(joints), "V", 3))
    suffix = Path(path).suffix
    expect(suffix in (".json", ".zip"), who, "a path that ends in .json or .zip", os.fspath(path))
    for name, points in (("joints", joints), ("vertices", vertices)):
        bad = (~finite_samples(points)).nonzero().flatten().tolist()
        expect(not bad, who, f"finite {name}", f"{len(bad)} samples with others, the first number {(*bad, None)[0]}")

    def write(partial: Path) -> None:
        if suffix == ".json":
            with partial.open("w", encoding="ascii") as file:
                file.writelines(_pieces(joints, vertices))
            return
        with (
            zipfile.ZipFile(partial, "w", zipfile.ZIP_DEFLATED) as archive,
            archive.open("pred.json", "w", force_zip64=True) as member,
            io.TextIOWrapper(member, encoding="ascii") as file,
        ):
            file.writelines(_pieces(joints, vertices))

    return write_whole(path, write)


def _pieces(joints: Tensor, vertices: Tensor) -> Iterator[str]:
    """The JSON text sample by sample: an evaluation set as a whole would be gigabytes of Python's floats."""
    for points, before, after in ((joints, "[[", "]"), (vertices, ",[", "]]")):
        yield before
        for number, sample in enumerate(points):
            rounded = sample.detach().cpu().double().round(decimals=7).tolist()
            yield "," * (number > 0) + json.dumps(rounded, separators=(",", ":"))
        yield after
