"""Checks of a batch's values; each appends one sentence per problem to `findings`."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from texalign._internal import finite_samples
from texalign.adapters.inputs import unnormalised
from texalign.camera import PinholeCamera

# Across its bounding box a hand measures 0.08 m as a child's fist and 0.3 m as a large one, spread.
HAND_SIZE = (0.05, 0.4)
NEAR = 0.01


def readable(image: Tensor, findings: list[str]) -> Tensor:
    """The image as float32 RGB in [0, 1], whatever was done to it."""
    if not image.is_floating_point():
        findings.append(f"The image is of {image.dtype}, not of a floating type: convert it, and divide by 255.")
    values = image.float()
    broken = ~finite_samples(values)
    if bool(broken.any()):
        findings.append(f"{_of(broken)} images hold NaN or infinity.")
        values = values.nan_to_num(0.0, 0.0, 0.0)
    low, high = float(values.amin()), float(values.amax())
    span = f"The image's values lie in [{low:.3g}, {high:.3g}], not in [0, 1]"
    if low >= -0.001 and high <= 1.001:
        if high - low < 1e-3:
            findings.append(f"The image shows nothing: all its values lie in [{low:.3g}, {high:.3g}].")
        elif high < 0.02:
            findings.append(f"The image is almost black, at most {high:.2g}: was it divided by 255 twice?")
            values = values * 255
    elif low > -0.1 and high < 1.1:
        findings.append(f"{span}: clamp what resampling has added.")
    elif low >= -0.001 and high <= 255.5:
        if image.is_floating_point():
            findings.append(f"{span}: divide it by 255.")
        values = values / 255
    elif low >= -0.501 and high <= 0.501:
        findings.append(f"{span}: normalised as x − 0.5, add 0.5.")
        values = values + 0.5
    elif low >= -1.001 and high <= 1.001:
        findings.append(f"{span}: normalised as (x − 0.5) / 0.5, or as ImageNet is; undo it: unnormalised(image, …).")
        values = unnormalised(values, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    elif low >= -2.2 and high <= 2.7:
        findings.append(f"{span}: normalised with ImageNet's mean and deviation; undo it: unnormalised(image).")
        values = unnormalised(values)
    else:
        findings.append(f"{span}: it looks like 0 to 255 with a mean taken off; undo what the loader did.")
        values = (values - low) / (high - low)
    return values.clamp(0, 1)


def usable(name: str, mask: Tensor | None, findings: list[str]) -> Tensor | None:
    """The mask as float32 in [0, 1], or None where it tells nothing."""
    if mask is None:
        return None
    values = mask.float()
    if not bool(torch.isfinite(values).all()):
        findings.append(f"{name} holds NaN or infinity.")
        values = values.nan_to_num(0.0, 0.0, 0.0)
    low, high = float(values.amin()), float(values.amax())
    if high > 1.001 or low < -0.001:
        findings.append(f"{name} has values in [{low:.3g}, {high:.3g}], not in [0, 1]: divide it by {high:.0f}?")
        values = values / max(high, 1.0)
    values = values.clamp(0, 1)
    full, empty = values.flatten(1).amin(dim=1) > 0.99, values.flatten(1).amax(dim=1) < 0.01
    if name == "mask" and bool(full.any()):
        findings.append(
            f"mask is 1 everywhere in {_of(full)} images: it says that all there is is skin. Where there is no "
            "segmentation give None, and what is padding as valid."
        )
        return None
    if bool(empty.float().mean() > 0.5):
        nothing = "no skin is visible" if name == "mask" else "no camera looked at any of it"
        findings.append(f"{name} is 0 everywhere in {_of(empty)} images: it says that {nothing}.")
        return None
    return values


def countable(vertices: Tensor, vertex_count: int, findings: list[str]) -> bool:
    """Whether the vertices are as many as the surface's; looks at their type too."""
    if vertices.dtype == torch.float64:
        findings.append("vertices are float64, made by numpy perhaps: the loss would be too. Convert them to float32.")
    elif vertices.dtype != torch.float32:
        findings.append(
            f"vertices are {vertices.dtype}: metres from the camera this rounds by millimetres. Add the translation to "
            "them in float32."
        )
    if vertices.shape[1] == vertex_count:
        return True
    known = {21: "21 joints, not a mesh", 195: "the coarse mesh of Graphormer and METRO", 6890: "SMPL's body"}
    what = known.get(vertices.shape[1], "another topology, which needs a surface of its own")
    findings.append(f"There are {vertices.shape[1]} vertices and the surface has {vertex_count}: {what}.")
    return False


def in_metres(vertices: Tensor, findings: list[str]) -> Tensor | None:
    """The vertices in metres, or None where the unit cannot be told."""
    size = float((vertices.amax(dim=1) - vertices.amin(dim=1)).norm(dim=1).median())
    if HAND_SIZE[0] <= size <= HAND_SIZE[1]:
        return vertices
    said = f"A hand measures {size:.3g} m across (0.05 to 0.4 m would be one)"
    for unit, name in ((1000.0, "millimetres"), (100.0, "centimetres")):
        if HAND_SIZE[0] <= size / unit <= HAND_SIZE[1]:
            findings.append(
                f"{said}: the vertices are in {name}. Divide them by {unit:.0f}, and the translation if it is too."
            )
            # The rest of what is checked needs the translation in that unit as well.
            return vertices / unit if bool((vertices[..., 2] / unit > NEAR).all()) else None
    if 0.4 < size <= 2:
        findings.append(f"{said}: does the network predict a scaled hand? MobRecon's is to be multiplied by 0.2.")
    else:
        findings.append(f"{said}: in which unit are the vertices?")
    return None


def in_pixels(camera: PinholeCamera, height: int, width: int, findings: list[str]) -> PinholeCamera:
    """The camera in pixels of the image, where it came in other units."""
    focal, principal, side = camera.focal, camera.principal, max(height, width)
    typical = float(focal.median())
    if typical < 0.3 * side:
        angle = math.degrees(2 * math.atan(side / 2 / max(typical, 1e-6)))
        findings.append(
            f"The focal length is {typical:.3g} pixels, an angle of view of {angle:.0f}° for {side} pixels: it looks "
            f"normalised. Multiply it by what it was divided by, {side} perhaps."
        )
        focal = focal * side
    elif typical > 1e4 * side:
        findings.append(f"The focal length is {typical:.3g} pixels, ten thousand times the image and more.")
    if bool(((focal[:, 0] / focal[:, 1] - 1).abs() > 0.5).any()):
        findings.append("fx and fy differ by more than a half: the image was stretched, or one of them is wrong.")
    half = principal.new_tensor([width / 2, height / 2])
    if bool((principal.abs() <= 2).all()):
        x, y = principal[0].tolist()
        findings.append(
            f"The principal point is ({x:.2g}, {y:.2g}): normalised, or counted from the image's middle, which lies at "
            f"({half[0]:.0f}, {half[1]:.0f}) pixels."
        )
        from_corner = bool((principal > 0.2).all())
        principal = principal * 2 * half if from_corner else (principal + 1) * half
    elif height != width and bool(
        ((principal - half.flip(0)).norm(dim=1) < 0.2 * (principal - half).norm(dim=1)).all()
    ):
        findings.append(
            f"The principal point looks like (cy, cx): the image is {width} wide and {height} high, its middle at "
            f"({half[0]:.0f}, {half[1]:.0f})."
        )
        principal = principal.flip(1)
    return PinholeCamera(focal, principal)


def in_front(vertices: Tensor, findings: list[str]) -> tuple[Tensor, Tensor]:
    """The vertices before the camera, and which samples (B,) bool are."""
    depth = vertices[..., 2]
    middle = vertices.mean(dim=1)
    size = (vertices.amax(dim=1) - vertices.amin(dim=1)).norm(dim=1)
    if bool(middle.norm(dim=1).median() < size.median()) and bool((depth <= NEAR).any(dim=1).float().mean() > 0.5):
        findings.append(
            "The hands lie around the camera itself: the translation was not added to the vertices, or the depth is "
            "that of a network that predicts none."
        )
        return vertices, torch.zeros_like(size, dtype=torch.bool)
    if bool(middle[:, 2].median() < 0):
        findings.append(
            "The hands lie behind the camera, at a negative depth: OpenGL's axes, y up and z backwards? Negate y and "
            "z; this library's axes are x right, y down, z forward."
        )
        vertices = vertices * vertices.new_tensor([1.0, -1.0, -1.0])
        depth = vertices[..., 2]
    behind = (depth <= NEAR).any(dim=1)
    if bool(behind.any()):
        findings.append(f"{_of(behind)} hands reach behind the camera: is the translation in metres, its depth > 0?")
    return vertices, ~behind


def in_frame(vertices: Tensor, camera: PinholeCamera, height: int, width: int, findings: list[str]) -> Tensor:
    """Which hands (B,) bool lie mostly within the image; also looks at how large they appear."""
    pixels = camera.project(vertices)
    within = ((pixels >= 0) & (pixels <= pixels.new_tensor([width, height]))).all(dim=2).float().mean(dim=1) >= 0.5
    span = float((pixels.amax(dim=1) - pixels.amin(dim=1)).amax(dim=1).median())
    side = max(height, width)
    if not 0.08 * side <= span <= 4 * side:
        findings.append(
            f"A hand spans {span:.0f} of the image's {side} pixels: focal length, depth or unit are off by a factor."
        )
    if bool((~within).float().mean() >= 0.5):
        x, y = pixels.mean(dim=1).median(dim=0).values.tolist()
        findings.append(
            f"{_of(~within)} hands lie outside the image, around ({x:.0f}, {y:.0f}) in its {width} × {height} pixels: "
            "the principal point is wrong, or the camera is that of another image, or of the whole photograph and not "
            "of the crop."
        )
    return within


def _of(which: Tensor) -> str:
    return f"{int(which.sum())} of {len(which)}"
