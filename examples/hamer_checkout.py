"""A checkout of HaMeR (https://github.com/geopavlakos/hamer), made to run for texalign's tests and notebook.

The environment variable HAMER_ROOT names the checkout; nothing of it is copied. `make_model` builds its own `HAMER`
around the bundled hand, with a small backbone: no licensed file is needed, and a CPU is enough. With HAMER_CHECKPOINT
set to the released weights (`_DATA/hamer_ckpts/checkpoints/hamer.ckpt` in the checkout) it loads those instead.
`training_batch` runs the checkout's own loader over the synthetic photographs of `hamer_batches.py`.

    pip install yacs omegaconf webdataset braceexpand scikit-image opencv-python-headless smplx trimesh scipy lightning

HaMeR also imports timm, torchvision and pyrender. Where one of them cannot be imported a small substitute takes its
place, and HaMeR's own pictures show no mesh.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import random
import sys
import tempfile
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest.mock import MagicMock, patch

import numpy as np
import torch
from hamer_batches import Photographs, boxes, mocap_batch, photographs
from hamer_stand_in import SIZE, Batch, initial_parameters
from torch import Tensor
from torch.utils.data import default_collate

from texalign.mano import write_mano

BACKBONE_WIDTH = 96


def make_model(seed: int = 0) -> Any:
    """A `hamer.models.HAMER` on the CPU: small, with random weights, or that of HAMER_CHECKPOINT."""
    hamer = load()
    if checkpoint := os.environ.get("HAMER_CHECKPOINT"):
        return _released_model(hamer, Path(checkpoint))
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        backbone = sys.modules["hamer.models.backbones.vit"].ViT(
            img_size=(256, 192), patch_size=16, embed_dim=BACKBONE_WIDTH, depth=2, num_heads=3, qkv_bias=True
        )
        with patch("hamer.models.hamer.create_backbone", return_value=backbone):
            return hamer.HAMER(configuration())


def joint_batch(count: int = 2, seed: int = 0, **options: Any) -> Batch:
    """`training_batch` and as much motion capture as HaMeR's data module adds to it."""
    return {"img": training_batch(count, seed, **options), "mocap": mocap_batch(count, seed)}


def training_batch(
    count: int = 2,
    seed: int = 0,
    left_share: float = 0.5,
    segmented: bool = True,
    augment: bool = True,
    box_scale: float = 1.5,
) -> Batch:
    """As `hamer_batches.training_batch`, by HaMeR's own `ImageDataset`; its augmentation draws other numbers."""
    load()
    dataset, config = importlib.import_module("hamer.datasets.image_dataset").ImageDataset, configuration()
    photos = photographs(count, seed, left_share)
    mean, std = (255.0 * np.array(values) for values in (config.MODEL.IMAGE_MEAN, config.MODEL.IMAGE_STD))
    with _seeded(seed):
        items = [
            dataset.process_webdataset_tar_item(
                item, augment, augm_config=config.DATASETS.CONFIG, MEAN=mean, STD=std, IMG_SIZE=SIZE
            )
            for item in _records(photos, box_scale, segmented, seed)
        ]
    batch: Batch = default_collate(items)
    if os.environ.get("HAMER_CHECKPOINT"):  # the bundled hand's pose and shape are not those of MANO
        batch["has_mano_params"] = {name: 0 * known for name, known in batch["has_mano_params"].items()}
    return batch


@lru_cache(maxsize=1)
def load() -> ModuleType:
    """The checkout's package `hamer.models`, with all that this file needs of the checkout imported.

    Raises:
        FileNotFoundError: HAMER_ROOT is not set, or names no checkout.
        ImportError: a package that HaMeR needs is missing.
    """
    folder = str(_checkout())
    _substitute("timm.models.layers", drop_path=_drop_path, to_2tuple=_pair, trunc_normal_=torch.nn.init.trunc_normal_)
    _substitute("torchvision.utils", make_grid=_grid)
    _substitute("pyrender", **{name: MagicMock() for name in _PYRENDER}, OffscreenRenderer=BlankRenderer)
    if folder not in sys.path:
        sys.path.insert(0, folder)
    importlib.import_module("omegaconf")
    importlib.import_module("hamer.datasets.image_dataset")
    return importlib.import_module("hamer.models")


def _checkout() -> Path:
    root = os.environ.get("HAMER_ROOT", "")
    if not root or not (Path(root) / "hamer" / "models" / "hamer.py").is_file():
        raise FileNotFoundError(f"HAMER_ROOT must name a checkout of HaMeR, got {root!r}")
    return Path(root).resolve()


def configuration() -> Any:
    """The checkout's training configuration, as the `CfgNode` it uses, with the bundled hand and a small head."""
    omegaconf, yacs = importlib.import_module("omegaconf").OmegaConf, importlib.import_module("yacs.config")
    experiment = _checkout() / "hamer" / "configs_hydra" / "experiment"
    files = [omegaconf.load(experiment / f"{name}.yaml") for name in ("default", "hamer_vit_transformer")]
    settings: Any = omegaconf.to_container(omegaconf.merge(*files), resolve=True)
    settings.pop("defaults", None)
    folder = Path(_hand_folder().name)
    settings["MANO"] |= {"DATA_DIR": str(folder), "MODEL_PATH": str(folder)}
    settings["MANO"]["MEAN_PARAMS"] = str(folder / "mano_mean_params.npz")
    settings["MODEL"]["BACKBONE"].pop("PRETRAINED_WEIGHTS")
    # HaMeR's own option: without training, it begins near the mean hand in the middle of the crop.
    settings["MODEL"]["MANO_HEAD"]["INIT_DECODER_XAVIER"] = True
    settings["MODEL"]["MANO_HEAD"]["TRANSFORMER_DECODER"] |= {"depth": 1, "dim": 256, "context_dim": BACKBONE_WIDTH}
    return yacs.CfgNode(settings, new_allowed=True)


@lru_cache(maxsize=1)
def _hand_folder() -> tempfile.TemporaryDirectory[str]:
    """A folder with the two files HaMeR reads: the bundled hand in MANO's format, and mean parameters."""
    kept = tempfile.TemporaryDirectory(prefix="texalign-hamer-")
    folder = Path(kept.name)
    write_mano(folder / "MANO_RIGHT.pkl")
    pose, betas, cam = (values.numpy() for values in initial_parameters())
    np.savez(folder / "mano_mean_params.npz", pose=pose, shape=betas, cam=cam)
    return kept


def _released_model(hamer: ModuleType, checkpoint: Path) -> Any:
    """By HaMeR's own `load_hamer`, which looks for its data below the working directory."""
    checkpoint, before = checkpoint.resolve(), Path.cwd()
    os.chdir(_checkout())
    try:
        # The checkpoint holds its configuration as an object. PyTorch ≥ 2.6 reads that only where it is told to trust.
        with patch.dict(os.environ, TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD="1"):
            return hamer.load_hamer(str(checkpoint))[0]
    finally:
        os.chdir(before)


def _records(photos: Photographs, box_scale: float, segmented: bool, seed: int) -> Iterator[dict[str, Any]]:
    """What HaMeR's loader has read from a tar file of training data, by hand."""
    centres, sides = (values.numpy() for values in boxes(photos, box_scale))
    for number in range(len(photos.is_right)):
        mask = photos.mask[number].numpy()
        data = {
            "keypoints_2d": photos.keypoints_2d[number].numpy().copy(),
            "keypoints_3d": photos.keypoints_3d[number].numpy().copy(),
            "center": centres[number],
            "scale": np.full(2, sides[number] / 200),
            "hand_pose": photos.pose[number].numpy().copy(),
            "betas": photos.betas[number].numpy().copy(),
            "right": np.array(float(photos.is_right[number])),
            "has_hand_pose": np.array(1.0),
            "has_betas": np.array(1.0),
        }
        yield {
            "__key__": f"hand_{seed}_{number}",
            "jpg": photos.image[number].permute(1, 2, 0).to(torch.uint8).numpy(),
            "data.pyd": data,
            "mask": mask if segmented else np.ones_like(mask),
        }


@contextlib.contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """HaMeR's augmentation draws from the global generators of `random` and numpy, which are left as they were."""
    states = random.getstate(), np.random.get_state()
    random.seed(seed)
    np.random.seed(seed)
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])


def _substitute(name: str, **attributes: Any) -> None:
    """Put a module with these attributes in the place of one that cannot be imported here."""
    try:
        importlib.import_module(name)
    except (ImportError, OSError, RuntimeError):
        for parent in (".".join(name.split(".")[: depth + 1]) for depth in range(name.count(".") + 1)):
            sys.modules[parent] = ModuleType(parent)
        vars(sys.modules[name]).update(attributes)


_PYRENDER = (
    "DirectionalLight",
    "IntrinsicsCamera",
    "Mesh",
    "MetallicRoughnessMaterial",
    "Node",
    "RenderFlags",
    "Scene",
)


class BlankRenderer:
    """In the place of pyrender's: draws nothing."""

    def __init__(self, viewport_width: int, viewport_height: int, point_size: float = 1.0) -> None:
        self.shape = viewport_height, viewport_width

    def render(self, scene: Any, flags: Any = None) -> tuple[np.ndarray, np.ndarray]:
        """An empty picture (H, W, 4) and no depth (H, W)."""
        return np.zeros((*self.shape, 4), np.uint8), np.zeros(self.shape, np.float32)

    def delete(self) -> None:
        """There is nothing to free."""


def _drop_path(x: Tensor, share: float = 0.0, training: bool = False) -> Tensor:
    """Some samples' branch left out in training (Huang et al., 2016)."""
    if share == 0 or not training:
        return x
    kept = torch.rand(len(x), *[1] * (x.dim() - 1), device=x.device) >= share
    return x * kept / (1 - share)


def _pair(value: Any) -> tuple[Any, Any]:
    return value if isinstance(value, tuple) else (value, value)


def _grid(pictures: list[Tensor], nrow: int = 8, padding: int = 2) -> Tensor:
    rows = [torch.cat(pictures[start : start + nrow], dim=2) for start in range(0, len(pictures), nrow)]
    return torch.cat(rows, dim=1)
