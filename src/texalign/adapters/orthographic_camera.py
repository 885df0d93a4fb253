from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from texalign._internal import expect_floating
from texalign.adapters.inputs import IMAGENET_MEAN, IMAGENET_STD, side_of, unnormalised, usable_cam
from texalign.camera import PinholeCamera
from texalign.loss import LossInputs

# So far away that a pinhole draws what a parallel projection draws; near enough that float32 still tells the depths of
# two fingers apart (steps of 8 μm at 100 m).
FAR_FOCAL = 100_000.0


def orthographic(
    vertices: Tensor,
    cam: Tensor,
    image: Tensor,
    mask: Tensor | None = None,
    valid: Tensor | None = None,
    *,
    mean: Sequence[float] = IMAGENET_MEAN,
    std: Sequence[float] = IMAGENET_STD,
    pixel_offset: float = 0.0,
) -> LossInputs:
    """From networks that project in parallel: METRO's and MeshGraphormer's `pred_vertices`, `pred_camera`, `images`.

    They place a vertex at s · (X + tx, Y + ty) in [-1, 1] of a square image, so at pixel S / 2 · (1 + s (X + tx)), and
    know no depth. The camera made here is a pinhole of focal length 100,000 pixels at the distance 200,000 / (S s),
    where s is the same. Its pixels differ from the network's by their distance to the image's middle times Z /
    distance: for a hand that fills the image (S = 224, s = 10, |Z| ≤ 0.1 m, 89 m away) by less than 0.13 pixels at the
    image's edge.

    Args:
        vertices: (B, V, 3) float, metres, relative to any root.
        cam: (B, 3) float, (s, tx, ty), tx and ty in metres; (3,) for a batch of one, since METRO's and Graphormer's
            camera heads squeeze their output. s ≤ 0 gives no valid depth: the loss skips the sample.
        image: (B, 3, S, S) float, as the network takes it: normalised by `mean` and `std`. (Graphormer also returns the
            image as it was before: ``annotations["ori_img"]``, for which mean is 0 and std 1.)
        mask: (B, 1, S, S) in [0, 1], 1 = visible hand skin, or None; handed on.
        valid: (B, 1, S, S) in [0, 1], 0 = padding, or None; handed on.
        mean: by channel; ImageNet's, with which both networks normalise.
        std: as mean.
        pixel_offset: pixels added to the principal point. 0 by default: the networks' keypoint labels are cut to whole
            numbers and raised by one while cropping, which moves them by half a pixel on average, from whole numbers at
            pixel centres to this library's half integers. What the cut adds beyond that is noise of ±0.5 pixels.

    Returns:
        `LossInputs`; vertices and camera in float32, differentiable in `vertices` and `cam`.

    Raises:
        ValueError: another shape or dtype.

    Example:
        >>> from torch import ones, zeros
        >>> inputs = orthographic(zeros(1, 778, 3), cam=ones(1, 3), image=zeros(1, 3, 224, 224))
        >>> inputs.camera.project(inputs.vertices)[0, 0].round()
        tensor([224., 224.])
    """
    who = "orthographic"
    expect_floating(vertices, who, "vertices", ("B", "V", 3))
    batch = len(vertices)
    if isinstance(cam, Tensor) and cam.dim() == 1:
        cam = cam[None]
    expect_floating(cam, who, "cam", (batch, 3))
    size = side_of(image, who, count=batch)
    # In float16 neither the focal length nor a depth of 100 m has a value of its own.
    camera, translation = PinholeCamera.from_weak_perspective(usable_cam(cam), size, FAR_FOCAL, pixel_offset)
    return LossInputs(vertices.float() + translation[:, None], camera, unnormalised(image, mean, std), mask, valid)
