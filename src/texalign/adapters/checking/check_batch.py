from __future__ import annotations

import math
import os
from dataclasses import dataclass

import torch
from torch import Tensor

from texalign._internal import expect, expect_flags, expect_floating, expect_same_device, expect_tensor, finite_samples
from texalign.adapters.checking.agreement import Agreement
from texalign.adapters.checking.corrections import Correction, flips, moves_in_the_image
from texalign.adapters.checking.numbers import countable, in_frame, in_front, in_metres, in_pixels, readable, usable
from texalign.adapters.checking.silhouettes import Moves, Silhouettes
from texalign.camera import PinholeCamera
from texalign.loss import LossInputs
from texalign.render import TexturedHandRenderer
from texalign.surface import HandSurface
from texalign.viz import contact_sheet, outline, save_png

WHO = "check"
# Fewer images than this prove nothing.
SEVERAL = 4
# A correction is reported when the share explained of the silhouettes grows by LEAST_GAIN in the mean, and by so many
# standard errors, which one more sample of USUAL_SPREAD keeps few samples from setting; or, a mistake made with a part
# of a batch, when it grows by GAIN_OF_ONE in SOME of the samples. Chosen on batches of other seeds than
# benchmarks/check.py measures.
LEAST_GAIN, STANDARD_ERRORS, USUAL_SPREAD, GAIN_OF_ONE = 0.04, 1.6, 0.2, 0.13
# Two of eight meshes of a network look mirrored, or rotated, once in thirty batches.
SOME = 0.3
# Another correction that gains this share of the best one's is named as well.
ALMOST = 0.8
# In units of the loss, the median of a batch: in the mean it is −3 for synthetic meshes that fit, −0.3 for others.
AGREES, NO_AGREEMENT = -1.2, -0.3
COMPARED = SHOWN = 16
# What `benchmarks/check.py` found in batches of eight: named in 11 or 12 of 12 there, in 4 or fewer at half of it.
UNSEEN = (
    "not always seen are rotations below 10°, shifts below 12 pixels of 256 and sizes within a tenth, on a network's "
    "meshes twice as much, and meshes that are too small."
)


@dataclass(frozen=True, eq=False)
class CheckReport:
    """What `check` found.

    Attributes:
        findings: sentences, the surest first; empty where nothing looks wrong.
        overlay: (B, 3, H, W) in [0, 1]: the meshes' outlines over the images, as they came.
        agreement: the median of the loss of the meshes as they are; NaN where nothing could be compared.
    """

    findings: tuple[str, ...]
    overlay: Tensor
    agreement: float

    @property
    def ok(self) -> bool:
        """Nothing looks wrong, and the images agree with the meshes."""
        return not self.findings and not self.unsure

    @property
    def unsure(self) -> bool:
        """No mistake was found, but the images agree too little with the meshes to say that there is none."""
        return not self.findings and not self.agreement < AGREES

    def __str__(self) -> str:
        """The findings, a line each."""
        if self.findings:
            return "\n".join(f"- {finding}" for finding in self.findings)
        if self.unsure:
            return (
                f"Unsure: no mistake was found, but the loss is {self.agreement:.1f} in the median, and {AGREES} or "
                "less for meshes that fit. Look at the overlay; more images, or better meshes, would say more."
            )
        if len(self.overlay) < SEVERAL:
            return f"Nothing looks wrong, but few images prove nothing: {SEVERAL} would say more, and 8 still more."
        return f"Nothing looks wrong. Look at the overlay: {UNSEEN}"


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
    """Say in words what is wrong with what a loss is about to be given.

    Made for the first batch of a network that is being wired in. It looks at the numbers; then it asks how much of the
    meshes' silhouettes the images' colours explain, as they are and as the usual mistakes would have made them, and
    lets the loss itself, with the bundled prior, confirm what explains more. Feed it meshes that ought to fit: the
    labels, or a trained network's output. Eight images or more let it be sure; of the meshes of an untrained network it
    can only say that they fit nowhere. It is meant to be run once, by hand: it reads values, compares 16 images at
    most, and takes a second.

    It finds images that are not RGB in [0, 1]; meshes not in metres, behind the camera, outside the image, inside out,
    mirrored, upside down, in OpenGL's axes; images rotated against them, all or each by its own angle; a principal
    point, a focal length or an image size that is off; masks that say nothing, or the opposite. How small an error it
    sees is measured by `benchmarks/check.py`: of eight meshes that fit exactly, a rotation by 10 degrees, a size a
    tenth too large, a principal point off by 12 pixels of 256; of a network's meshes about twice as much. It cannot see
    a wrong order of vertices that leaves the outline as it is.

    Args:
        vertices, camera, image, mask, valid: as the loss takes them, of B samples. The image may be of any dtype and
            range, vertices of any number and unit: that is what is checked.
        surface: the loss's; by default MANO's right hand.
        is_right: (B,) bool, as the loss takes it, or None.
        path: where to write the overlay as a PNG, up to 16 samples. Needs pillow.

    Raises:
        TypeError: not tensors, or not a camera.
        ValueError: shapes that do not belong together, or an empty batch.

    Example:
        >>> from texalign.synthetic import generate
        >>> hands = generate(2, image_size=64, generator=torch.Generator().manual_seed(0), left_share=0)
        >>> print(check(hands.vertices, hands.camera, 255 * hands.image, path="check.png"))  # doctest: +ELLIPSIS
        - The image's values lie in [0, 25...], not in [0, 1]: divide it by 255.
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
    agreement = math.nan
    if fits and float(image.amax()) > float(image.amin()):
        if is_right is not None:
            inputs = inputs.mirrored(~surface.same_side(is_right))
        agreement = _compare(inputs, surface, findings)
    return CheckReport(tuple(findings), overlay, agreement)


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
    fits = len(shape) == 4 and shape[:2] == (batch, 3) and min(shape) > 0
    expect(fits, WHO, f"image ({batch}, 3, H, W)", f"{shape}{hint}")
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


def _compare(inputs: LossInputs, surface: HandSurface, findings: list[str]) -> float:
    """Check the geometry, then compare with the images the meshes that can be seen; the median of the loss."""
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
        return math.nan
    if len(index) > COMPARED:
        index = index[torch.linspace(0, len(index) - 1, COMPARED).long().to(index.device)]
    height, width = image.shape[2:]
    metric = in_metres(vertices[index], findings)
    camera = in_pixels(camera[index], height, width, findings)
    if metric is None:
        return math.nan
    vertices, before = in_front(metric, findings)
    if not bool(before.any()):
        return math.nan
    vertices, camera, index = vertices[before], camera[before], index[before]
    in_frame(vertices, camera, height, width, findings)
    agreement = Agreement(surface, image, mask, valid)
    value, coverage = agreement(vertices, camera, index)
    if agreement.mask is not None and _is_inverted(coverage, agreement.mask[index]):
        findings.append("mask is 0 under the meshes and 1 around them: it is inverted.")
        agreement.mask = 1 - agreement.mask
        value, _ = agreement(vertices, camera, index)
    found, median = len(findings), float(value.median())
    silhouettes = Silhouettes(surface, image, mask, valid)
    inside_out = agreement.inside_out(vertices)
    for which in (True, False):
        group = (inside_out == which).nonzero()[:, 0]
        if not len(group):
            continue
        those = vertices[group], camera[group], index[group]
        as_it_is = silhouettes.explained(silhouettes.layers(*those[:2]), those[2], Moves(vertices.new_zeros(1, 4)))
        corrections = flips(silhouettes, *those, inside_out=which)
        if not which:
            corrections += moves_in_the_image(silhouettes, *those, one_by_one=len(group) >= SEVERAL)
        said = _explain(corrections, as_it_is[:, 0], agreement, value[group], index[group])
        if which:
            count = f"{len(group)} of {len(vertices)} meshes are inside out"
            left = (
                "their vertices are those of left hands, or the faces are. Pass is_right to the loss, or mirror "
                "vertices, image and principal point of left hands before it"
            )
            said = f"{count}: {said}" if said else f"{count}: {left}."
        if said:
            findings.append(said[0].upper() + said[1:])
    if len(findings) == found and len(value) >= SEVERAL and median > NO_AGREEMENT:
        findings.append(
            f"The images do not look like hands where the meshes are (the loss is {median:.1f} in the median, where −3 "
            "is usual for a mesh that fits), and no correction tried here helps. Are they those of an untrained "
            "network?"
        )
    return median


def _explain(
    corrections: list[Correction], as_it_is: Tensor, agreement: Agreement, value: Tensor, index: Tensor
) -> str | None:
    """A sentence on the mistake whose correction explains most more of the silhouettes than it is now, or None.

    Args:
        corrections: of N samples.
        as_it_is: (N,) the share explained of their silhouettes.
        agreement, value: the loss, and what it is now (N,).
        index: (N,) the samples.
    """
    count = len(index)
    found = []
    for correction in corrections:
        gain = correction.explained - as_it_is
        better = gain > GAIN_OF_ONE
        if _is_significant(gain):
            found.append((float(gain.mean()), correction, gain > 0))
        elif correction.of_some and count >= SEVERAL and int(better.sum()) >= max(2, SOME * count):
            found.append((float((gain * better).mean()), correction, better))
    if not found:
        return None
    found.sort(key=lambda each: -each[0])
    gained, correction, better = found[0]
    corrected, _ = agreement(correction.vertices, correction.camera, index)
    before, after = (float(each[better].median()) for each in (value, corrected))
    if after > min(before, NO_AGREEMENT):  # the colours under the mesh have to look like a hand's, too
        return None
    others = [
        each.mistake for other, each, _ in found if other > ALMOST * gained and each.mistake != correction.mistake
    ]
    said = ". Or, almost as well: ".join([correction.mistake, *others[:1]])
    said += f". So {int(better.sum())} of {count} images agree better (a loss of {after:.1f}, not {before:.1f})"
    return f"{said}." if count >= SEVERAL else f"{said}; so few images are a hint, no proof."


def _is_significant(gain: Tensor) -> bool:
    mean = gain.mean()
    error = ((gain - mean).square().sum() + USUAL_SPREAD**2).sqrt() / len(gain)
    return bool(mean > LEAST_GAIN) and bool(mean > STANDARD_ERRORS * error)


def _is_inverted(coverage: Tensor, mask: Tensor) -> bool:
    """Most masks are 0 where the mesh is and 1 where it is not."""
    under = (coverage * mask).sum(dim=(1, 2, 3)) / coverage.sum(dim=(1, 2, 3)).clamp(min=1)
    around = ((1 - coverage) * mask).sum(dim=(1, 2, 3)) / (1 - coverage).sum(dim=(1, 2, 3)).clamp(min=1)
    seen = coverage.sum(dim=(1, 2, 3)) > 1
    return bool(((under < 0.4) & (around > 0.6) & seen).float().mean() > 0.5)
