from __future__ import annotations

from functools import partial

import numpy as np
import pytest

import texalign as ta
from photograph_folder import write_folder
from texalign.photographs import fit_photographs, read_photographs
from texalign.pretrain import training
from texalign.pretrain.evaluation import evaluate

SMALL = {"texture_size": 32, "latent_grid": 8, "width": 24, "layers": 1, "heads": 2}


@pytest.fixture(scope="module")
def quick():
    """A few held-out images and an encoder a hundredth of the size."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            training, "evaluate", lambda encoder, settings, subject, count=2: evaluate(encoder, settings, subject, 2)
        )
        patch.setattr(training, "UVTextureEncoder", partial(ta.UVTextureEncoder, **SMALL))
        yield


@pytest.fixture(scope="session")
def photographs(tmp_path_factory):
    """Six photographs of 32 pixels without meshes, one of them useless; four show one hand, one another."""
    folder = tmp_path_factory.mktemp("photographs") / "folder"
    marks = {"vertices_cam_cm": None, "joints_cam_cm": None, "joints_px": None}
    write_folder(folder, 6, 32, seed=4, masks=False, hand_id=np.array([5, 5, 9, 5, 5, 9]), **marks)
    with np.load(folder / "annotations.npz") as file:
        arrays = dict(file)
    arrays["keypoints_px"][5] = np.nan
    np.savez(folder / "annotations.npz", **arrays)
    return folder


@pytest.fixture(scope="session")
def fitted(photographs):
    return fit_photographs(read_photographs(photographs, image_size=32))


@pytest.fixture(scope="session")
def meshed(tmp_path_factory):
    """Photographs with masks and meshes of their own, whose hands nobody identified."""
    folder = tmp_path_factory.mktemp("meshed") / "folder"
    write_folder(folder, 5, 32, seed=5)
    return fit_photographs(read_photographs(folder, image_size=32))
