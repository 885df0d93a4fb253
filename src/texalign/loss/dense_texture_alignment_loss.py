from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from texalign._internal import dilate, expect, expect_flags, expect_same_device, finite_samples, opaque
from texalign.camera import PinholeCamera
from texalign.loss import photometric
from texalign.loss.gradient_bound import GradientBound
from texalign.prior import UVTextureEncoder
from texalign.render import Rendering, TexturedHandRenderer, check_values

# A pixel's evidence is cut off here, in units of log-likelihood: e^6 = 400 to 1 for or against the hand. Beyond that an
# occluder or a highlight would gain nothing but pull.
EVIDENCE_LIMIT = 6.0
# The residual's scale is taken from the very pixels that the prior was shown and the colours were fitted to, and comes
# out too small. Twice as large made fits to photographs better in 2D, in 3D and in the mask (docs/benchmarks.md says on
# which frames that was seen).
SCALE_FACTOR = 2.0
# How much of the interior's gradient is passed on. A small prior's texture is blurred: at full strength its slopes help
# on photographs but harm on cluttered synthetic images; without them PA-MPJPE is worse.
INTERIOR_SHARE = 0.6
# A hand that shows less than this many pixels says nothing.
MINIMUM_PIXELS = 16


@dataclass(frozen=True, eq=False)
class LossDetails:
    """What a `DenseTextureAlignmentLoss` saw, for logging; all detached but `per_sample` and `rendering`.

    Attributes:
        per_sample: (B,) the unreduced loss, 0 where skipped.
        texture: (B, 3, T, T) the prior's completion, in the canonical right hand's atlas.
        rendering: the texture on the mesh (`Rendering`), before the colour fit.
        fitted: (B, 3, H, W) the colours compared with the image: fitted to its light, carried past the outline.
        residual: (B, 3, H, W) absolute difference between `fitted` and the image.
        evidence: (B, 1, H, W) in [-6, 6], negative where the image looks more like this hand than its own background,
            0 where nothing may be concluded (beyond the wrist).
        coverage: (B, 1, H, W).
        skipped: (B,) bool: dropped by the renderer, out of sight, or without a visible texel; contributes 0.
    """

    per_sample: Tensor
    texture: Tensor
    rendering: Rendering
    fitted: Tensor
    residual: Tensor
    evidence: Tensor
    coverage: Tensor
    skipped: Tensor


class DenseTextureAlignmentLoss(nn.Module):
    """How much more the covered pixels look like this hand than like the image's background: low when aligned.

    For every pixel, evidence = −log p(colour | hand) + log p(colour | background), cut off at ±6, where the hand's
    colour is the prior's texture seen through the mesh, fitted to the image's light, and the background's colours are
    those of the image itself outside the hand. The loss is Σ coverage · evidence over the hand's size, by sample.

    Two gradients reach the vertices. At silhouettes, where coverage changes: a pixel outside that looks like the hand
    pulls the outline over itself, one inside that looks like background pushes it away. In the interior, where the uv
    under a pixel changes: the texture slides towards the colours it belongs to. Pixels beyond the open wrist count for
    nothing, since a forearm looks like a hand.

    The observations are detached: the texture is a constant of the step. Were it not, a mesh could lower the loss by
    observing other pixels that are easier to predict, instead of moving where the colours belong.

    Args:
        renderer: draws at the images' size.
        encoder: the texture prior: from `UVObservations` to textures (B, 3, T, T).
        token_count: observations given to the prior a sample, drawn evenly over the visible surface.
        train_texture: let gradients into the encoder's parameters (never into the observations). Sets their
            `requires_grad`: a parameter that never gets a gradient stops DistributedDataParallel.
        levels: of an image pyramid, the finest first, each half as large; the loss is their mean. More than one carries
            a little farther and is less exact: for hands that are misplaced by more than a finger's width.
        weigh_by_certainty: let the prior say, texel by texel, how far its colours may be off: the residual's scale
            follows its log-variance.
        structure_weight: adds so many times the mean (1 − SSIM) / 2 over the hand's pixels, for its interior.
        max_grad: bound on the L2 norm of each sample's gradient at the vertices, per metre, before the reduction's
            1/B, the caller's weight and a gradient scaler. The gradient is scaled down to it, never cut by component.
        reduction: ``"mean"`` over the samples that are not skipped, ``"sum"``, or ``"none"`` (B,).
        validate: look at values, and raise: see `TexturedHandRenderer`; also images outside [0, 1].

    Raises:
        ValueError: an unknown reduction, a count or bound that is not positive.
    """

    def __init__(
        self,
        renderer: TexturedHandRenderer,
        encoder: nn.Module,
        token_count: int = 512,
        train_texture: bool = False,
        levels: int = 1,
        weigh_by_certainty: bool = False,
        structure_weight: float = 0.0,
        max_grad: float = 500.0,
        reduction: str = "mean",
        validate: bool = False,
    ) -> None:
        super().__init__()
        who = "DenseTextureAlignmentLoss"
        if not isinstance(renderer, TexturedHandRenderer):
            raise TypeError(f"{who}: expected renderer to be a TexturedHandRenderer, got {type(renderer).__name__}")
        expect(reduction in ("mean", "sum", "none"), who, "reduction mean, sum or none", repr(reduction))
        expect(token_count > 0, who, "token_count > 0", token_count)
        certain = not weigh_by_certainty or isinstance(encoder, UVTextureEncoder)
        expect(certain, who, "a UVTextureEncoder, for weigh_by_certainty", type(encoder).__name__)
        expect(1 <= levels <= 5, who, "levels in [1, 5]", levels)
        expect(structure_weight >= 0, who, "structure_weight >= 0", structure_weight)
        expect(max_grad > 0, who, "max_grad > 0", max_grad)
        mine = renderer.surface.atlas_id
        atlas = getattr(encoder, "atlas_id", mine)
        expect(atlas == mine, who, f"an encoder for the renderer's atlas {mine}", f"one for atlas {atlas}")
        self.renderer = renderer
        self.encoder = encoder.requires_grad_(train_texture)
        self.token_count = token_count
        self.train_texture = train_texture
        self.levels, self.weigh_by_certainty = levels, weigh_by_certainty
        self.structure_weight = float(structure_weight)
        self.max_grad = float(max_grad)
        self.reduction = reduction
        self.validate = validate
        loops = renderer.surface.boundary_loops
        wrist = torch.tensor(max(loops, key=len) if loops else (), dtype=torch.int64)
        self.wrist: Tensor
        self.register_buffer("wrist", wrist, persistent=False)

    def forward(
        self,
        vertices: Tensor,
        camera: PinholeCamera,
        image: Tensor,
        mask: Tensor | None = None,
        valid: Tensor | None = None,
        *,
        is_right: Tensor | None = None,
        group: Tensor | None = None,
        generator: torch.Generator | None = None,
        return_details: bool = False,
    ) -> Any:
        """Compare the textured hand with the image.

        Args:
            vertices: (B, V, 3) float, metres, camera frame.
            camera: B cameras, in pixels of the image.
            image: (B, 3, H, W) float RGB in [0, 1], of the renderer's size. No gradient.
            mask: (B, 1, H, W) in [0, 1] or None: 1 = visible hand skin. Skin is never pushed away from, and what is
                not skin never attracts; but it may be an occluder, so a hand may lie under it where its colours are
                not the background's. A sample whose mask is 1 all over has no segmentation, as if mask were None.
            valid: (B, 1, H, W) in [0, 1] or None: 0 where the image shows nothing, such as a crop's padding. Nothing
                is observed or concluded there, so a hand may reach into it.
            is_right: (B,) bool, None = all of the surface's side. Samples of the other side (with a right hand's
                surface: left-hand vertices on an image of a left hand) are mirrored into it: vertices, principal
                point, image, mask and valid.
            group: (B,) integer ids, given to the encoder: images with the same id share one texture.
            generator: for the draw of observations, of the vertices' device.
            return_details: also return `LossDetails`.

        Returns:
            A scalar (or (B,) for ``reduction="none"``), finite and connected to the graph whatever the input; with
            `return_details` a pair.

        Raises:
            ValueError: a shape, dtype, device or size that does not fit; under ``validate=True`` also values.
        """
        who = "DenseTextureAlignmentLoss"
        batch = self.renderer._check(vertices, camera, image, mask, valid, who)
        if is_right is not None:
            expect_same_device(who, vertices=vertices, is_right=expect_flags(is_right, who, "is_right", batch))
        if self.validate:
            check_values(vertices, camera, who)
            _check_image(image, who)
            for name, values in (("mask", mask), ("valid", valid)):
                if values is not None:
                    _check_range(name, values, who)
        dtype = vertices.dtype
        with torch.autocast(vertices.device.type, enabled=False):
            vertices = vertices.float()
            camera, image = camera.to(dtype=torch.float32), image.detach().float()
            mask = None if mask is None else mask.detach().float()
            valid = None if valid is None else valid.detach().float()
            if is_right is not None:
                own = self.renderer.surface.same_side(is_right)
                vertices, camera, image, mask, valid = mirrored_unless(own, vertices, camera, image, mask, valid)
        details = self._compare(vertices, camera, image, mask, valid, group, generator)
        kept = (~details.skipped).sum().clamp(min=1)
        total = details.per_sample
        if self.reduction != "none":
            total = total.sum() / (kept if self.reduction == "mean" else 1)
        total = total.to(torch.promote_types(dtype, torch.float32)) if dtype == torch.float64 else total
        return (total, details) if return_details else total

    @opaque
    def _compare(
        self,
        vertices: Tensor,
        camera: PinholeCamera,
        image: Tensor,
        mask: Tensor | None,
        valid: Tensor | None,
        group: Tensor | None,
        generator: torch.Generator | None,
    ) -> LossDetails:
        bound = GradientBound(self.max_grad)
        vertices = bound.enter(vertices)
        image, unreadable = _finite(image)
        if mask is not None:
            mask, unreadable_mask = _finite(mask)
            unreadable = unreadable | unreadable_mask
        observed = mask
        if valid is not None:
            valid, unreadable_valid = _finite(valid)
            unreadable = unreadable | unreadable_valid
            observed = valid if mask is None else mask * valid
            # Padding is no proof of anything: whatever the mask says there, it does not speak against skin.
            mask = None if mask is None else 1 - (1 - mask) * valid
        with torch.autocast(vertices.device.type, enabled=False):
            scene = self.renderer._scene(vertices, camera)
            with torch.no_grad():
                observations = self.renderer._observe(scene, image, observed, self.token_count, generator)
        with torch.set_grad_enabled(self.train_texture and torch.is_grad_enabled()):
            options = {} if group is None else {"group": group}
            if self.weigh_by_certainty:
                texture, log_variance = self.encoder(observations, return_log_variance=True, **options)
            else:
                texture, log_variance = self.encoder(observations, **options), None
        with torch.autocast(vertices.device.type, enabled=False):
            texture = texture.float()
            rendering = self.renderer._draw(scene, texture)
            with torch.no_grad():
                care = self._care(scene.points, image.shape[2:])
                care = care if valid is None else care * valid
                if log_variance is not None:
                    drawn = self.renderer._draw(scene, log_variance.float().expand(-1, 3, -1, -1)).image[:, :1]
                    log_variance = photometric.extend_colours(drawn, rendering.coverage, carried(image))
            compared = pyramid(self.levels, rendering.image, rendering.coverage, image, care, mask, log_variance)
            levels = [
                region_competition(drawn, covered, seen, cared, masked, spread, self.structure_weight)
                for drawn, covered, seen, cared, masked, spread in compared
            ]
            per_sample = torch.stack([level[0] for level in levels]).mean(dim=0)
            _, fitted, residual, evidence = levels[0]
            with torch.no_grad():
                shown = (rendering.coverage * care).sum(dim=(1, 2, 3)) >= MINIMUM_PIXELS
                skipped = rendering.dropped | unreadable | ~observations.valid.any(dim=1) | ~shown
            per_sample = bound.leave(torch.where(skipped, per_sample * 0, per_sample))
        return LossDetails(
            per_sample, texture.detach(), rendering, fitted, residual, evidence, rendering.coverage.detach(), skipped
        )

    def _care(self, points: Tensor, size: torch.Size) -> Tensor:
        """(B, 1, H, W): 0 beyond the open wrist, 1 elsewhere."""
        height, width = size
        if not len(self.wrist):
            return points.new_ones(len(points), 1, height, width)
        screen = points[..., :2] / points[..., 2:].clamp(min=1e-6)
        return 1 - photometric.beyond_wrist(screen[:, self.wrist], screen.mean(dim=1), height, width)

    def extra_repr(self) -> str:
        """What `print` shows."""
        comparison = f"levels={self.levels}, structure_weight={self.structure_weight:g}"
        return f"token_count={self.token_count}, {comparison}, max_grad={self.max_grad:g}, reduction={self.reduction!r}"


def pyramid(levels: int, *images: Tensor | None) -> list[tuple[Any, ...]]:
    """The images (B, C, H, W) as they are, averaged to half the size, to a quarter, …; not below 16 pixels."""
    result: list[tuple[Any, ...]] = [images]
    while len(result) < levels and min(result[-1][0].shape[2:]) >= 32:
        result.append(tuple(None if image is None else functional.avg_pool2d(image, 2) for image in result[-1]))
    return result


def region_competition(
    rendered: Tensor,
    coverage: Tensor,
    image: Tensor,
    care: Tensor,
    mask: Tensor | None,
    log_variance: Tensor | None = None,
    structure_weight: float = 0.0,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Σ coverage · evidence / N by sample (B,), with the fitted colours, residual and evidence it came from.

    N is the number of pixels whose evidence speaks for the hand, the hand's size as the image has it, or the mesh's own
    area where that is larger. Its own area alone would not do: a hand that shrinks into its best-explained part would
    lower the mean.

    Args:
        rendered: (B, 3, H, W), premultiplied by coverage.
        coverage: (B, 1, H, W), differentiable.
        image: (B, 3, H, W), detached.
        care: (B, 1, H, W), 0 where nothing may be concluded.
        mask: (B, 1, H, W) or None. Of a sample where it is 1 all over, nothing is known.
        log_variance: (B, 1, H, W) of the hand's colours: scales follow it, relative to its mean over the hand; or None.
        structure_weight: of the mean dissimilarity of structure over the known pixels.
    """
    reach = carried(image)
    inside = (coverage > 0.5).to(image.dtype)
    colour = photometric.extend_colours(rendered, coverage, reach)
    with torch.no_grad():
        known = inside * care * (1 if mask is None else mask)
        gain, offset = photometric.fit_colour(colour, image, known)
        outside = (1 - dilate(coverage, 3 * reach)) * care
        if mask is not None:
            # Skin that the mesh misses is not background; a mask that leaves none is no segmentation.
            without_skin = outside * (1 - mask)
            enough = without_skin.sum(dim=(1, 2, 3), keepdim=True) >= MINIMUM_PIXELS
            outside = torch.where(enough, without_skin, outside)
        background = photometric.background_cost(image, outside)
    fitted = gain * colour + offset
    # Past the outline the colour is only carried there: nothing to learn from its slope.
    constant = fitted.detach()
    fitted = constant + INTERIOR_SHARE * inside * (fitted - constant)
    residual = (fitted - image).abs()
    with torch.no_grad():
        scale = SCALE_FACTOR * photometric.laplace_scale(residual, known)
        if log_variance is not None:
            area = known.sum(dim=(1, 2, 3), keepdim=True).clamp(min=1)
            relative = log_variance - (log_variance * known).sum(dim=(1, 2, 3), keepdim=True) / area
            # Where no colour was carried to, none is uncertain.
            scale = scale * (0.5 * relative.clamp(-4, 4) * (log_variance < 0)).exp()
    evidence = (photometric.hand_cost(residual, scale) - background).clamp(-EVIDENCE_LIMIT, EVIDENCE_LIMIT)
    if mask is not None:
        # Not skin: background pushes away as far as it looks like background; an occluder says nothing.
        elsewhere = (-background).clamp(0, EVIDENCE_LIMIT)
        segmented = (1 - mask).sum(dim=(1, 2, 3), keepdim=True) >= MINIMUM_PIXELS
        evidence = torch.where(segmented, mask * evidence.clamp(max=0) + (1 - mask) * elsewhere, evidence)
    evidence = evidence * care
    size = torch.maximum((evidence.detach() < 0).sum(dim=(1, 2, 3)), coverage.detach().sum(dim=(1, 2, 3))).clamp(min=1)
    per_sample = (coverage * evidence).sum(dim=(1, 2, 3)) / size
    if structure_weight:
        different = (photometric.dissimilarity(fitted, image) * known).sum(dim=(1, 2, 3))
        per_sample = per_sample + structure_weight * different / known.sum(dim=(1, 2, 3)).clamp(min=1)
    return per_sample, fitted.detach(), residual.detach(), evidence.detach()


def carried(image: Tensor) -> int:
    """How many pixels the hand's colours are carried past its outline: 3 at 128."""
    return max(1, round(min(image.shape[2:]) / 40))


def mirrored_unless(
    kept: Tensor,
    vertices: Tensor,
    camera: PinholeCamera,
    image: Tensor,
    mask: Tensor | None,
    valid: Tensor | None,
) -> tuple[Tensor, PinholeCamera, Tensor, Tensor | None, Tensor | None]:
    """Samples of the other side seen in a mirror: x negated, cx → W − cx, images flipped left-right.

    `kept` (B,) bool stay as they are.
    """
    other = ~kept[:, None]
    flip = torch.where(other, -1.0, 1.0)[..., None]
    sign = torch.cat([flip, torch.ones_like(flip).expand(-1, -1, 2)], dim=-1)
    principal = torch.where(other, camera.mirrored(image.shape[-1]).principal, camera.principal)
    wide = other[..., None, None]
    image = torch.where(wide, image.flip(-1), image)
    mask = None if mask is None else torch.where(wide, mask.flip(-1), mask)
    valid = None if valid is None else torch.where(wide, valid.flip(-1), valid)
    return vertices * sign, PinholeCamera(camera.focal, principal), image, mask, valid


def _finite(image: Tensor) -> tuple[Tensor, Tensor]:
    """The image with samples that hold a non-finite value blackened, and which those are (B,)."""
    good = finite_samples(image)
    return torch.where(good[:, None, None, None], image, 0), ~good


def _check_image(image: Tensor, who: str) -> None:
    if image.numel() and -3 <= float(image.amin()) < -1e-3 and float(image.amax()) <= 3:
        span = f"[{float(image.amin()):.2f}, {float(image.amax()):.2f}]"
        expect(False, who, "image in [0, 1]", f"{span}: an ImageNet-normalised image? Undo it first")
    _check_range("image", image, who)


def _check_range(name: str, values: Tensor, who: str) -> None:
    good = ((values >= -1e-3) & (values <= 1 + 1e-3)).flatten(1).all(dim=1)
    if not bool(good.all()):
        sample = int((~good).nonzero()[0])
        low, high = float(values[sample].amin()), float(values[sample].amax())
        expect(False, who, f"{name} in [0, 1]", f"[{low:.3g}, {high:.3g}] in sample {sample}")
