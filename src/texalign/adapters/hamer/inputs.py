from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from texalign._internal import expect, expect_floating
from texalign.adapters.inputs import IMAGENET_MEAN, IMAGENET_STD, side_of, unnormalised, usable_cam
from texalign.camera import PinholeCamera
from texalign.loss import LossInputs


def loss_inputs(
    batch: Mapping[str, Any],
    output: Mapping[str, Any],
    *,
    focal: float = 5000.0,
    mean: Sequence[float] = IMAGENET_MEAN,
    std: Sequence[float] = IMAGENET_STD,
    pixel_offset: float = 0.5,
    vertices: Tensor | None = None,
) -> LossInputs:
    """What the loss takes, from a batch and an output of HaMeR, WiLoR or 4D-Humans.

    The camera is made anew from `pred_cam` in float32. Under bfloat16 the model's own `focal_length` is not 5000 but
    4992, and `pred_cam_t` is rounded to centimetres.

    A sample whose predicted scale is not above 0 is put behind the camera, detached from it: the loss skips it.

    Args:
        batch: ``img`` (B, 3, S, S) normalised, the whole square crop; if they are there ``mask`` (B, S, S) in [0, 1],
            and ``_trans`` (B, 2, 3), image to crop, with ``img_size`` (B, 2), width and height, which say where the
            crop is padding. Without these two, pixels that are exactly black are taken for padding. A mask that is 1
            wherever there is no padding is none. Nothing is mirrored: the loaders mirror left hands themselves.
        output: ``pred_cam`` (B, 3) and ``pred_vertices`` (B, V, 3) metres.
        focal: pixels, of the S × S image.
        mean: of the image's normalisation, by channel, for RGB in [0, 1].
        std: as mean.
        pixel_offset: added to the principal point S / 2, pixels.
        vertices: (B, V, 3) in place of ``pred_vertices``.

    Raises:
        ValueError: a key is missing, or a shape does not fit.

    Example:
        >>> batch = {"img": torch.zeros(1, 3, 256, 256)}
        >>> output = {"pred_cam": torch.tensor([[6.0, 0.1, 0.2]]), "pred_vertices": torch.zeros(1, 778, 3)}
        >>> inputs = loss_inputs(batch, output)
        >>> inputs.vertices[0, 0], inputs.camera.principal
        (tensor([0.1000, 0.2000, 6.5104]), tensor([[128.5000, 128.5000]]))
    """
    who = "hamer.loss_inputs"
    needed = {"batch": (batch, ("img",)), "output": (output, ("pred_cam", "pred_vertices"))}
    for name, (mapping, keys) in needed.items():
        for key in keys:
            expect(key in mapping, who, f"{name} with {key!r}", sorted(map(str, mapping)))
    image = batch["img"]
    size, count = side_of(image, who, "batch['img']"), len(image)
    cam = expect_floating(output["pred_cam"], who, "output['pred_cam']", (count, 3))
    vertices = output["pred_vertices"] if vertices is None else vertices
    expect_floating(vertices, who, "output['pred_vertices']", (count, "V", 3))
    with torch.autocast(image.device.type, enabled=False):
        camera, translation = PinholeCamera.from_hamer(usable_cam(cam), size, focal, pixel_offset)
        image = unnormalised(image, mean, std)
        valid = _valid(batch, image)
        mask = batch.get("mask")
        if mask is not None:
            expect(mask.numel() == count * size**2, who, f"batch['mask'] ({count}, {size}, {size})", tuple(mask.shape))
            mask = mask.detach().float().reshape(count, 1, size, size).clamp(0, 1)
        return LossInputs(vertices.float() + translation[:, None], camera, image, mask, valid)


def shrunk(inputs: LossInputs, factor: int) -> LossInputs:
    """The same at 1 / factor of the size: means over factor × factor pixels, valid where all of them are."""
    if factor == 1:
        return inputs
    vertices, camera, image, mask, valid = inputs
    camera = camera.cropped(camera.focal.new_zeros(2), camera.focal.new_full((), 1 / factor))
    image = functional.avg_pool2d(image, factor)
    mask = None if mask is None else functional.avg_pool2d(mask, factor)
    valid = None if valid is None else -functional.max_pool2d(-valid, factor)
    return LossInputs(vertices, camera, image, mask, valid)


def _valid(batch: Mapping[str, Any], image: Tensor) -> Tensor:
    """(B, 1, S, S): 0 in the crop's padding, and where its bilinear border was mixed with it."""
    count, _, _, size = image.shape
    if "_trans" not in batch or "img_size" not in batch:
        # Colour jitter multiplies: 0 stays 0, and comes back from normalisation to within rounding.
        return (image.amax(dim=1, keepdim=True) > 1e-3).float()
    affine = batch["_trans"].to(image.device, torch.float32).reshape(count, 2, 3)
    extent = batch["img_size"].to(image.device, torch.float32).reshape(count, 2)
    (a, b), (c, d) = affine[:, 0, :2].unbind(1), affine[:, 1, :2].unbind(1)
    # In closed form: a matrix inverse would wait for the device to see whether it is singular.
    inverse = torch.stack([torch.stack([d, -b], 1), torch.stack([-c, a], 1)], 1) / (a * d - b * c)[:, None, None]
    index = torch.arange(size, device=image.device, dtype=torch.float32)
    crop = torch.stack([index.expand(size, size), index[:, None].expand(size, size)])
    # Integer coordinates are pixel centres on both sides.
    source = torch.einsum("bij,bjhw->bihw", inverse, crop[None] - affine[:, :, 2, None, None])
    inside = (source >= -1e-3) & (source <= extent[:, :, None, None] - 1 + 1e-3)
    return inside.all(dim=1, keepdim=True).float()
