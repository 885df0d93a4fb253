"""Photographs with a mesh over every hand, as `pretrain` learns from them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from texalign._internal import expect, write_whole
from texalign.hand import HandModel, HandParameters, fit_to_keypoints, pose_hand
from texalign.photographs.folder import Photographs

WHO = "fit_photographs"
# Shares of the image's side: the scale of the robust keypoint loss, and the largest mean distance between a fitted
# hand's joints and its keypoints that is accepted.
KEYPOINT_SCALE, LARGEST_ERROR = 0.03, 0.02
# Metres. A fit nearer to the camera or farther from it has gone wrong: HaMeR's long lenses put hands up to 60 away.
NEAREST, FARTHEST = 0.05, 100.0
_CHUNK = 64


@dataclass(frozen=True, eq=False)
class FittedPhotographs:
    """B photographs and where the hand is in each.

    Attributes:
        photographs: those whose mesh was accepted.
        vertices: (B, V, 3) metres, camera frame; V is 778 where the bundled hand was fitted.
        parameters: of the bundled hand, where it was fitted; None where the folder has vertices of its own.
        left_out: number of photographs left out, with too few keypoints or a bad fit.
        fingerprint: of all of them, left out or not.
    """

    photographs: Photographs
    vertices: Tensor
    parameters: HandParameters | None
    left_out: int
    fingerprint: str

    def __len__(self) -> int:
        """B."""
        return len(self.photographs)

    def to(self, device: torch.device | str) -> FittedPhotographs:
        """The same on a device."""
        parameters = self.parameters
        if parameters is not None:
            parameters = HandParameters(*(tensor.to(device) for tensor in parameters.tensors()))
        return FittedPhotographs(
            self.photographs.to(device), self.vertices.to(device), parameters, self.left_out, self.fingerprint
        )


def fit_photographs(
    photographs: Photographs,
    file: str | Path | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> FittedPhotographs:
    """Photographs with the folder's own meshes, or with the bundled hand fitted to their keypoints.

    A photograph is left out if fewer than 11 of its keypoints are known, if they span fewer than 4 pixels, if the
    fitted joints are more than 2 % of the image's side away from them in the mean, or if the fit is nearer to the
    camera than 5 cm or farther than 100 m. A fit takes about a seventh of a second on one thread.

    Args:
        photographs: right hands, as `read_photographs` gives them.
        file: ``NAME.npz``, where the fits are kept, written atomically; if it exists, they are read from it. None keeps
            nothing.
        progress: called with (fits made, fits to make) as they are made, or None.

    Raises:
        ValueError: `file` holds the fits of other photographs or is damaged, or all photographs are left out.

    Example:
        >>> from importlib.resources import files
        >>> from texalign.photographs import read_photographs
        >>> folder = files("texalign") / "assets/people"  # the demo's
        >>> fitted = fit_photographs(read_photographs(folder, ids=[134], image_size=64), file="fits.npz")
        >>> fitted.vertices.shape
        torch.Size([1, 778, 3])
    """
    fingerprint = photographs.fingerprint()
    if photographs.vertices is not None:
        return FittedPhotographs(photographs, photographs.vertices, None, 0, fingerprint)
    model = HandModel().to(photographs.image.device)
    path = None if file is None else Path(file)
    if path is not None and path.exists():
        parameters = _read_fits(path, fingerprint, len(photographs), photographs.image.device)
    else:
        parameters = _fit(model, photographs, progress)
        if path is not None:
            _write_fits(path, parameters, fingerprint)
    with torch.no_grad():
        rows = torch.arange(len(photographs), device=photographs.image.device).split(_CHUNK)
        vertices, joints = (torch.cat(some) for some in zip(*(pose_hand(model, parameters.select(r)) for r in rows)))
        faults = _faults(photographs, vertices, joints)
        kept = (~torch.stack([*faults.values()]).any(dim=0)).nonzero()[:, 0]
    counts = ", ".join(f"{int(bad.sum())} with {name}" for name, bad in faults.items() if bad.any())
    wanted = "a photograph on whose keypoints the hand can be laid"
    expect(len(kept) > 0, WHO, wanted, f"none of {len(photographs)}: {counts}")
    left_out = len(photographs) - len(kept)
    return FittedPhotographs(photographs.select(kept), vertices[kept], parameters.select(kept), left_out, fingerprint)


def _fit(model: HandModel, photographs: Photographs, progress: Callable[[int, int], None] | None) -> HandParameters:
    scale = KEYPOINT_SCALE * photographs.image.shape[-1]
    parts = []
    for rows in torch.arange(len(photographs)).split(_CHUNK):
        camera = photographs.camera[rows.to(photographs.camera.device)]
        part = fit_to_keypoints(model, camera, photographs.keypoints[rows.to(camera.device)], scale)
        parts.append(part.tensors())
        if progress is not None:
            progress(int(rows[-1]) + 1, len(photographs))
    return HandParameters(*(torch.cat(tensors) for tensors in zip(*parts)))


def _faults(photographs: Photographs, vertices: Tensor, joints: Tensor) -> dict[str, Tensor]:
    """Reasons to leave photographs out, each (B,) bool."""
    known = torch.isfinite(photographs.keypoints).all(dim=-1)
    distance = (photographs.camera.project(joints) - photographs.keypoints).norm(dim=-1)
    error = torch.where(known, distance, 0).sum(dim=1) / known.sum(dim=1).clamp(min=1)
    near, depth = error <= LARGEST_ERROR * photographs.image.shape[-1], vertices[..., 2]
    # A comparison with NaN is False: what is not good is bad.
    return {
        "too few keypoints, or within a few pixels": ~photographs.fittable(),
        f"joints farther than {LARGEST_ERROR:.0%} of the image from them": ~near,
        f"a hand nearer than {NEAREST:g} m or farther than {FARTHEST:g} m": ~(
            (depth > NEAREST) & (depth < FARTHEST)
        ).all(dim=1),
    }


def _names() -> list[str]:
    return [field.name for field in fields(HandParameters)]


def _write_fits(path: Path, parameters: HandParameters, fingerprint: str) -> None:
    arrays = {"photographs": np.array(fingerprint)}
    arrays |= {name: tensor.cpu().numpy() for name, tensor in zip(_names(), parameters.tensors())}
    path.parent.mkdir(parents=True, exist_ok=True)

    def write(partial: Path) -> None:
        # Given a name, numpy would add its own suffix.
        with partial.open("wb") as file:
            np.savez(file, **arrays)  # type: ignore[arg-type]

    write_whole(path, write)


def _read_fits(path: Path, fingerprint: str, count: int, device: torch.device) -> HandParameters:
    try:
        with np.load(path) as file:
            made_for = str(file["photographs"])
            tensors = [torch.from_numpy(file[name]).to(device) for name in _names()]
    except Exception as error:  # numpy and zipfile raise errors of many kinds
        raise ValueError(f"{WHO}: expected fits in {path}, got a damaged file: {error}") from error
    same = made_for == fingerprint and all(len(tensor) == count for tensor in tensors)
    expect(same, WHO, f"the photographs that {path} was made for", "others; remove it, or choose another folder")
    return HandParameters(*tensors)
