from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from texalign._internal import expect, expect_floating, expect_tensor
from texalign.adapters.inputs import IMAGENET_MEAN, IMAGENET_STD, side_of, unnormalised
from texalign.camera import PinholeCamera
from texalign.loss import LossInputs


def full_image(
    vertices: Tensor,
    translation: Tensor,
    image: Tensor,
    center: Tensor,
    scale: Tensor,
    img_focal: Tensor,
    img_center: Tensor,
    mask: Tensor | None = None,
    *,
    do_flip: bool = False,
    mean: Sequence[float] = IMAGENET_MEAN,
    std: Sequence[float] = IMAGENET_STD,
    pixel_offset: float = 0.0,
) -> LossInputs:
    """From networks that place the hand before the whole image's camera and see a crop: HaWoR.

    With b = 200 · scale the crop's side and f the focal length, both in pixels of the whole image, and S the side of
    the crop as the network takes it, the crop's camera has the focal length f S / b and the principal point
    (img_center − center + b / 2) · S / b, beside the crop when the hand is beside the image's middle.

    HaWoR mirrors the whole image of a left hand; its `forward_step` then mirrors `center` and `pred_cam` back, writing
    into the batch, while image and vertices stay those of a right hand. With `do_flip` all is read as it lies after
    `forward_step` and undone here in new tensors: center_x → 2 img_center_x − center_x − 1, and the translation's
    x → −x − z / f, where z / f is the pixel that HaWoR's mirroring moves a hand by.

    Args:
        vertices: (N, V, 3) float, metres, as MANO's layer gives them.
        translation: (N, 3) or (N, 1, 3) float, metres, whole image's camera: `trans_full`.
        image: (N, 3, S, S) float as the network takes it. A batch of clips (B, T, 3, S, S) is taken apart, here and in
            the arguments below; N = B · T.
        center: (N, 2) float, the crop's middle, pixels of the whole image.
        scale: (N,) float, the crop's side in units of 200 pixels.
        img_focal: (N,) float, pixels.
        img_center: (N, 2) float, pixels, the whole image's middle.
        mask: (N, 1, S, S) or (B, T, 1, S, S) in [0, 1], 1 = visible hand skin, or None.
        do_flip: the image shows a left hand, mirrored.
        mean: by channel; ImageNet's.
        std: as mean.
        pixel_offset: pixels of the crop added to the principal point. 0 by default: half the image's width is its
            middle where pixel centres lie at half integers, as here, and the crop keeps edges. It cuts its corner to
            whole pixels, though, which moves the image by up to S / b, one way, differently each time.

    Returns:
        `LossInputs`, float32, differentiable in `vertices` and `translation`. `valid` is 0 where the crop reaches
        beyond the whole image, taken to end at twice `img_center`.

    Raises:
        ValueError: another shape or dtype.

    Example:
        >>> image, vertices = torch.zeros(1, 3, 256, 256), torch.zeros(1, 778, 3)
        >>> place, middle = torch.tensor([[0.0, 0.0, 0.6]]), torch.tensor([[320.0, 240.0]])
        >>> inputs = full_image(vertices, place, image, middle + 50, torch.ones(1), torch.tensor([600.0]), middle)
        >>> inputs.camera.focal, inputs.camera.principal
        (tensor([[768., 768.]]), tensor([[64., 64.]]))
    """
    who = "full_image"
    expect_floating(vertices, who, "vertices", ("N", "V", 3))
    count = len(vertices)
    image = _flat(image, 3, "image", who)
    side = side_of(image, who, count=count)
    translation = expect_tensor(translation, who, "translation").reshape(-1, 3).float()
    expect(len(translation) == count, who, f"translation ({count}, 3)", tuple(translation.shape))
    center, img_center = _flat(center, 1, "center", who), _flat(img_center, 1, "img_center", who)
    for name, value in (("center", center), ("img_center", img_center)):
        expect_floating(value, who, name, (count, 2))
    scale, img_focal = _flat(scale, 0, "scale", who), _flat(img_focal, 0, "img_focal", who)
    for name, value in (("scale", scale), ("img_focal", img_focal)):
        expect_floating(value, who, name, (count,))
    mask = None if mask is None else _flat(mask, 3, "mask", who).float()
    center, img_center = center.detach().float(), img_center.detach().float()
    scale, img_focal = scale.detach().float(), img_focal.detach().float()
    if do_flip:
        x, y, z = translation.unbind(-1)
        translation = torch.stack([-x - z / img_focal, y, z], dim=-1)
        center = torch.stack([2 * img_center[:, 0] - center[:, 0] - 1, center[:, 1]], dim=-1)
    box = 200 * scale[:, None]
    left_top = center - box / 2
    whole = PinholeCamera(img_focal[:, None].expand(-1, 2), img_center)
    crop = whole.cropped(left_top, side / box)
    return LossInputs(
        vertices.float() + translation[:, None],
        PinholeCamera(crop.focal, crop.principal + pixel_offset),
        unnormalised(image, mean, std),
        mask,
        _inside(left_top, box, 2 * img_center, side),
    )


def _flat(values: Tensor, trailing: int, name: str, who: str) -> Tensor:
    """(B, T, …) → (B · T, …), where … are so many dimensions; (N, …) stays."""
    values = expect_tensor(values, who, name)
    return values.flatten(0, 1) if values.dim() == trailing + 2 else values


def _inside(left_top: Tensor, box: Tensor, size: Tensor, side: int) -> Tensor:
    """(N, 1, S, S): 1 where a crop's pixel centre lies in an image of size (N, 2), else 0."""
    steps = (torch.arange(side, device=box.device) + 0.5) / side
    place = left_top[..., None] + box[..., None] * steps  # (N, 2, S)
    known = ((place >= 0) & (place <= size[..., None])).to(left_top.dtype)
    return (known[:, 1, :, None] * known[:, 0, None, :])[:, None]
