from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from texalign._internal import expect
from texalign.camera import PinholeCamera

# Metres for vertices, pixels for cameras. What lies beyond is no hand, and its products overflow float32.
LARGEST = 1e7


def usable_points(vertices: Tensor, camera: PinholeCamera) -> tuple[Tensor, Tensor, Tensor]:
    """Vertices and homogeneous pixels (B, V, 3), with unusable samples moved out of sight, and which they are.

    A sample with a vertex or camera that is not finite or beyond `LARGEST`, or a focal length ≤ 0, is replaced by zeros
    (depth 0 lies before any near plane), which keeps it in the graph with a gradient of exactly zero. No
    synchronisation.
    """
    good = (camera.focal > 0).all(dim=1)
    for values in (vertices, camera.focal, camera.principal):
        good = good & (values.abs() <= LARGEST).flatten(1).all(dim=1)
    vertices = torch.where(good[:, None, None], vertices, 0)
    safe = PinholeCamera(torch.where(good[:, None], camera.focal, 1), torch.where(good[:, None], camera.principal, 0))
    return vertices, safe.homogeneous(vertices), ~good


def check_values(vertices: Tensor, camera: PinholeCamera, who: str) -> None:
    """Raise a ValueError that names the first sample that `usable_points` would drop, and why.

    Example:
        >>> camera = PinholeCamera(focal=torch.zeros(1, 2), principal=torch.full((1, 2), 32.0))
        >>> check_values(torch.zeros(1, 778, 3), camera, "my_function")
        Traceback (most recent call last):
        ValueError: my_function: expected focal > 0, got sample 0: 0.0 at index (0,)
    """
    focal, principal = camera.focal, camera.principal
    named: tuple[tuple[str, Tensor, Any], ...] = (
        ("finite vertices", vertices, torch.isfinite(vertices)),
        ("focal > 0", focal, torch.isfinite(focal) & (focal > 0)),
        ("a finite principal point", principal, torch.isfinite(principal)),
        (f"vertices within {LARGEST:g} metres", vertices, vertices.abs() <= LARGEST),
        (f"focal within {LARGEST:g} pixels", focal, focal <= LARGEST),
        (f"a principal point within {LARGEST:g} pixels", principal, principal.abs() <= LARGEST),
    )
    for what, values, good in named:
        if not bool(good.all()):
            place = (~good).nonzero()[0].tolist()
            value = float(values.detach()[tuple(place)])
            expect(False, who, what, f"sample {place[0]}: {value} at index {tuple(place[1:])}")
