from __future__ import annotations

import os
from dataclasses import dataclass

import torch
from torch import Tensor

from texalign._internal import expect, expect_flags, expect_floating, expect_same_device, expect_tensor, finite_samples
from texalign.adapters.checking.agreement import Agreement
from texalign.adapters.checking.corrections import Correction, flips, moves
from texalign.adapters.checking.numbers import countable, in_frame, in_front, in_metres, in_pixels, readable, usable
from texalign.camera import PinholeCamera
from texalign.loss import LossInputs
from texalign.render import TexturedHandRenderer
from texalign.surface import HandSurface
from texalign.viz import contact_sheet, outline, save_png

WHO = "check"
# In units of the loss: on synthetic images its mean is −3 for meshes that fit and −0.3 for those that do not.
# Minimum decrease of the loss for a correction to be reported, with fewer than SEVERAL images and with more, and the
# highest loss that it may end at.
GAIN_ALONE, GAIN_AMONG, FITS = 1.25, 0.5, -0.5
SEVERAL = 4
# With a median below this, no camera is off by half an image.
AGREES = -1.2
# A correction that helps three images in four and ends below this in the median: no other is tried.
CLEAR = -1.5
# With a median above this, the images do not look like hands where the meshes are.
NO_AGREEMENT = -0.3
COMPARED = SHOWN = 16


@dataclass(frozen=True, eq=False)
class CheckReport:
    """What `check` found.

    Attributes:
        findings: sentences, the surest first; empty where nothing looks wrong.
        overlay: (B, 3, H, W) in [0, 1]: the meshes' outlines over the images, as they came.
    """

    findings: tuple[str, ...]
    overlay: Tensor

    @property
    def ok(self) -> bool:
        """Nothing looks wrong."""
        return not self.findings

    def __str__(self) -> str:
        """The findings, a line each."""
        if self.ok:
            return "Nothing looks wrong. Look at the overlay: half a pixel is not seen by any check of one batch."
        return "\n".join(f"- {finding}" for finding in self.findings)


@torch.no_grad()
def check(
    vertices: Tensor,
    camera: PinholeCamera,
    image: Tensor,
    mask: Tensor | None = None,
    valid: Tensor | None = None,
    *,
    surface: HandSurface | None = None,
    is_right: Tensor | None = None,
    path: str | os.PathLike[str] | None = None,
) -> CheckReport:
    """Say in words what is wrong with what a loss is about to be given: ``print(check(*inputs, path="check.png"))``.

    Made for the first batch of a network that is being wired in. It looks at the numbers, then compares the images, by
    the loss itself and the bundled prior, with the meshes as they are and as the usual mistakes would have made them.
    Feed it meshes that ought to fit: the labels, or a trained network's output. Eight images or more let it be sure; of
    the meshes of an untrained network it can only say that they fit nowhere. It is meant to be run once, by hand: it
    reads values, compares 16 images at most, and takes seconds.

    It finds images that are not RGB in [0, 1]; meshes not in metres, behind the camera, outside the image, inside out,
    mirrored, upside down, in OpenGL's axes; a principal point that is off by half the image or normalised, a camera of
    another image size; masks that say nothing, or the opposite. It cannot see half a pixel, nor a wrong order of
    vertices that leaves the outline as it is.

    Args:
        vertices, camera, image, mask, valid: as the loss takes them, of B samples. The image may be of any dtype and
            range, vertices of any number and unit: that is what is checked.
        surface: the loss's; by default MANO's right hand.
        is_right: (B,) bool, as the loss takes it, or None.
        path: where to write the overlay as a PNG, up to 16 samples. Needs pillow.

    Raises:
        TypeError: not tensors, or not a camera.
        ValueError: shapes that do not belong together, or an empty batch.
    """
    surface = HandSurface.mano() if surface is None else surface
    _check_shapes(LossInputs(vertices, camera, image, mask, valid), is_right)
    surface = surface.to(vertices.device)
    findings: list[str] = []
    image = readable(image, findings)
    mask, valid = usable("mask", mask, findings), usable("valid", valid, findings)
    fits = countable(vertices, surface.vertex_count, findings)
    inputs = LossInputs(vertices, camera, image, mask, valid).as_float32()
    overlay = _overlay(inputs, surface) if fits else image
    if path is not None:
        save_png(path, contact_sheet(_rows(overlay[:SHOWN])))
    if fits and float(image.amax()) > float(image.amin()):
        if is_right is not None:
            inputs = inputs.mirrored(~surface.same_side(is_right))
        _compare(inputs, surface, findings)
    return CheckReport(tuple(findings), overlay)


def _check_shapes(inputs: LossInputs, is_right: Tensor | None) -> None:
    vertices, camera, image, mask, valid = inputs
    expect_floating(vertices, WHO, "vertices", ("B", "V", 3))
    batch = len(vertices)
    expect(batch > 0, WHO, "at least one sample", 0)
    if not isinstance(camera, PinholeCamera):
        raise TypeError(f"{WHO}: expected camera to be a PinholeCamera, got {type(camera).__name__}")
    expect(camera.batch_size == batch, WHO, f"{batch} cameras, one for each sample", camera.batch_size)
    shape = tuple(expect_tensor(image, WHO, "image").shape)
    last = len(shape) == 4 and shape[3] == 3 and shape[1] != 3
    hint = ": channels last, permute(0, 3, 1, 2) them" if last else ""
    expect(len(shape) == 4 and shape[:2] == (batch, 3), WHO, f"image ({batch}, 3, H, W)", f"{shape}{hint}")
    for name, value in (("mask", mask), ("valid", valid)):
        if value is not None:
            wanted = (batch, 1, *shape[2:])
            got = tuple(expect_tensor(value, WHO, name).shape)
            expect(got == wanted, WHO, f"{name} {wanted}", got)
    if is_right is not None:
        expect_flags(is_right, WHO, "is_right", batch)
    expect_same_device(WHO, vertices=vertices, camera=camera.focal, image=image, mask=mask, valid=valid)


def _overlay(inputs: LossInputs, surface: HandSurface) -> Tensor:
    vertices, camera, image = inputs[:3]
    renderer = TexturedHandRenderer(surface, (image.shape[2], image.shape[3]))
    coverage = renderer(vertices, camera, vertices.new_zeros(1, 3, 1, 1)).coverage
    return outline(image, coverage, width=max(1, min(image.shape[2:]) // 128))


def _rows(images: Tensor) -> list[list[Tensor]]:
    return [[*images[start : start + 4]] for start in range(0, len(images), 4)]


def _compare(inputs: LossInputs, surface: HandSurface, findings: list[str]) -> None:
    """Check the geometry, then compare with the images the meshes that can be seen."""
    vertices, camera, image, mask, valid = inputs
    sane = finite_samples(vertices) & finite_samples(camera.focal) & finite_samples(camera.principal)
    sane = sane & (camera.focal > 0).all(dim=1)
    if not bool(sane.all()):
        findings.append(
            f"{int((~sane).sum())} of {len(sane)} samples have a NaN, an infinity or a focal length that is not "
            "positive."
        )
    index = sane.nonzero()[:, 0]
    if not len(index):
        return
    if len(index) > COMPARED:
        index = index[torch.linspace(0, len(index) - 1, COMPARED).long().to(index.device)]
    height, width = image.shape[2:]
    metric = in_metres(vertices[index], findings)
    camera = in_pixels(camera[index], height, width, findings)
    if metric is None:
        return
    vertices, before = in_front(metric, findings)
    if not bool(before.any()):
        return
    vertices, camera, index = vertices[before], camera[before], index[before]
    within = in_frame(vertices, camera, height, width, findings)
    agreement = Agreement(surface, image, mask, valid)
    value, _, coverage = agreement(vertices, camera, index)
    if agreement.mask is not None and _is_inverted(coverage, agreement.mask[index]):
        findings.append("mask is 0 under the meshes and 1 around them: it is inverted.")
        agreement.mask = 1 - agreement.mask
        value, _, coverage = agreement(vertices, camera, index)
    found = len(findings)
    inside_out = agreement.inside_out(vertices)
    for which in (True, False):
        group = (inside_out == which).nonzero()[:, 0]
        if not len(group):
            continue
        corrections = flips(vertices[group], camera[group], width, inside_out=which)
        agrees, several = bool(value[group].median() < AGREES), len(group) >= SEVERAL
        if agrees and several:
            # Whatever is wrong with all of them is not; it may be with some.
            corrections = [correction for correction in corrections if correction.of_some]
        # A few hands somewhere else find something like them too often.
        if (several and not agrees) or not bool(within[group].all()):
            off = None if agreement.mask is None else _off_mask(coverage[group], agreement, index[group])
            corrections += moves(vertices[group], camera[group], height, width, off)
        # Something is wrong with a mesh that is inside out; with others, it must be shown first.
        margin = GAIN_AMONG if several or which else GAIN_ALONE
        said = _explain(agreement, corrections, index[group], value[group], margin)
        if which:
            count = f"{len(group)} of {len(vertices)} meshes are inside out"
            left = (
                "their vertices are those of left hands, or the faces are. Pass is_right to the loss, or mirror "
                "vertices, image and principal point of left hands before it"
            )
            said = f"{count}: {said}" if said else f"{count}: {left}."
        if said:
            findings.append(said[0].upper() + said[1:])
    if len(findings) == found and len(value) >= SEVERAL and bool(value.median() > NO_AGREEMENT):
        findings.append(
            f"The images do not look like hands where the meshes are (the loss is {float(value.median()):.1f} in the "
            "median, where −3 is usual for a mesh that fits), and no correction tried here helps. Are they those of an "
            "untrained network?"
        )


def _explain(
    agreement: Agreement, corrections: list[Correction], index: Tensor, as_it_is: Tensor, margin: float
) -> str | None:
    """A sentence on the mistake whose correction decreases the loss most, or None."""
    count = len(index)
    best: tuple[float, str] | None = None
    for correction in corrections:
        value, skipped, _ = agreement(correction.vertices, correction.camera, index)
        gain = torch.where(skipped, -3.0, (as_it_is - value).clamp(-3, 3))
        believed = (gain > margin) & (value < FITS)
        better = int(believed.sum())
        most = better >= 0.6 * count
        some = correction.of_some and count >= SEVERAL and int((believed & (gain > 1)).sum()) >= max(2, 0.25 * count)
        rank = float(gain.mean()) if most else -3.0
        if (most or some) and (best is None or rank > best[0]):
            before, after = float(as_it_is[believed].mean()), float(value[believed].mean())
            gained = f"(a loss of {after:.1f}, not {before:.1f})"
            said = f"{correction.mistake}. So {better} of {count} images agree much better {gained}"
            best = rank, f"{said}." if count >= SEVERAL else f"{said}; so few images are a hint, no proof."
            if count >= SEVERAL and better >= 0.75 * count and bool(value.median() < CLEAR):
                break
    return None if best is None else best[1]


def _is_inverted(coverage: Tensor, mask: Tensor) -> bool:
    """Most masks are 0 where the mesh is and 1 where it is not."""
    under = (coverage * mask).sum(dim=(1, 2, 3)) / coverage.sum(dim=(1, 2, 3)).clamp(min=1)
    around = ((1 - coverage) * mask).sum(dim=(1, 2, 3)) / (1 - coverage).sum(dim=(1, 2, 3)).clamp(min=1)
    seen = coverage.sum(dim=(1, 2, 3)) > 1
    return bool(((under < 0.4) & (around > 0.6) & seen).float().mean() > 0.5)


def _off_mask(coverage: Tensor, agreement: Agreement, index: Tensor) -> Tensor | None:
    """(2,) pixels of the whole image: the median way from the meshes' centres to their masks', or None."""
    assert agreement.mask is not None
    mask = agreement.mask[index]
    ways = _centres(mask) - _centres(coverage)
    ways = ways[torch.isfinite(ways).all(dim=1)] / agreement.scale
    return ways.median(dim=0).values if len(ways) else None


def _centres(mask: Tensor) -> Tensor:
    """(N, 2) pixels, NaN where the mask (N, 1, H, W) is empty."""
    total = mask.sum(dim=(1, 2, 3))
    rows, columns = (torch.arange(side, device=mask.device) + 0.5 for side in mask.shape[2:])
    x, y = (mask.sum(dim=2)[:, 0] * columns).sum(dim=1), (mask.sum(dim=3)[:, 0] * rows).sum(dim=1)
    return torch.stack([x, y], dim=1) / torch.where(total > 0, total, torch.nan)[:, None]
