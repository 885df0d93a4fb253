from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any, Literal, overload

import torch
from torch import Tensor, nn

from texalign._internal import Unscriptable, expect, expect_flags, expect_same_device, opaque
from texalign.camera import PinholeCamera
from texalign.loss.details import LossDetails
from texalign.loss.evidence import MINIMUM_PIXELS, region_competition
from texalign.loss.first_batch import first_batch_findings
from texalign.loss.forearm import beyond_wrist
from texalign.loss.gradient_bound import GradientBound
from texalign.loss.inputs import LARGEST_COLOUR, LossInputs
from texalign.loss.likelihoods import ResidualCost, laplace_cost
from texalign.prior import UVTextureEncoder
from texalign.render import TexturedHandRenderer, check_values
from texalign.surface import HandSurface, same_atlas

WHO = "DenseTextureAlignmentLoss"


class DenseTextureAlignmentLoss(Unscriptable, nn.Module):
    """How much more the covered pixels look like this hand than like the image's background: low when aligned.

    For every pixel, evidence = −log p(colour | hand) + log p(colour | background), clamped to ±6. The hand's colour is
    the prior's texture seen through the mesh, fitted to the image's light; the background's colours are those of the
    image itself outside the hand. The loss is Σ coverage · evidence over the hand's size, by sample.

    Two gradients reach the vertices. At silhouettes, where coverage changes: a pixel outside that looks like the hand
    attracts the outline, one inside that looks like background repels it. In the interior, where the uv under a pixel
    changes: the texture slides towards the colours it belongs to. Pixels beyond the open wrist are ignored, since a
    forearm looks like a hand.

    The observations are detached: the texture is a constant of the step. Were it not, a mesh could lower the loss by
    observing other pixels that are easier to predict, instead of moving where the colours belong.

    Add it to other losses with the weight that `balanced_weight` measures in the first batches, then fixed.

    Args:
        renderer: draws at the images' size.
        encoder: the texture prior: from `UVObservations` to textures (B, 3, T, T).
        token_count: observations given to the prior a sample, drawn evenly over the visible surface.
        train_texture: let gradients into the encoder's parameters (never into the observations). Sets their
            `requires_grad`: a parameter that never gets a gradient stops DistributedDataParallel.
        residual_cost: the colour residual's negative log density, a function of residual (B, 3, H, W) ≥ 0 and scale
            (B, 1, 1, 1) that returns (B, 1, H, W). The default is a Laplace distribution a channel.
        max_grad: bound on the L2 norm of each sample's gradient at the vertices, per metre, before the reduction's
            1/B, the caller's weight and a gradient scaler. The gradient is scaled down to it, never cut by component.
        reduction: ``"mean"`` over the samples that are not skipped, ``"sum"``, or ``"none"`` (B,).
        validate: look at values, and raise: see `TexturedHandRenderer`; also images outside [0, 1].

    Raises:
        ValueError: an unknown reduction, a count or bound that is not positive.

    Example:
        >>> from texalign.synthetic import generate
        >>> hands = generate(2, image_size=64, generator=torch.Generator().manual_seed(0))
        >>> loss_fn = DenseTextureAlignmentLoss.from_pretrained(image_size=64)
        >>> vertices = hands.vertices.requires_grad_()  # of a network
        >>> loss, details = loss_fn(vertices, hands.camera, hands.image, is_right=hands.is_right, return_details=True)
        >>> loss.backward()
    """

    def __init__(
        self,
        renderer: TexturedHandRenderer,
        encoder: nn.Module,
        token_count: int = 512,
        train_texture: bool = False,
        residual_cost: ResidualCost = laplace_cost,
        max_grad: float = 500.0,
        reduction: str = "mean",
        validate: bool = False,
    ) -> None:
        super().__init__()
        if not isinstance(renderer, TexturedHandRenderer):
            raise TypeError(f"{WHO}: expected renderer to be a TexturedHandRenderer, got {type(renderer).__name__}")
        if not callable(residual_cost):
            raise TypeError(f"{WHO}: expected residual_cost to be a function, got {type(residual_cost).__name__}")
        expect(reduction in ("mean", "sum", "none"), WHO, "reduction mean, sum or none", repr(reduction))
        expect(token_count > 0 and token_count == int(token_count), WHO, "a whole token_count > 0", token_count)
        expect(max_grad > 0, WHO, "max_grad > 0", max_grad)
        mine = renderer.surface.atlas_id
        atlas = getattr(encoder, "atlas_id", mine)
        expect(same_atlas(atlas, mine), WHO, f"an encoder for the renderer's atlas {mine}", f"one for atlas {atlas}")
        self.renderer = renderer
        self.encoder = encoder.requires_grad_(train_texture)
        self.token_count = int(token_count)
        self.train_texture = train_texture
        self.residual_cost = residual_cost
        self.max_grad = float(max_grad)
        self.reduction = reduction
        self.validate = validate
        self._first_batch_seen = False
        loops = renderer.surface.boundary_loops
        wrist = torch.tensor(max(loops, key=len) if loops else (), dtype=torch.int64)
        self.wrist: Tensor
        self.register_buffer("wrist", wrist, persistent=False)

    @classmethod
    def from_pretrained(cls, image_size: int | tuple[int, int] = 256, **options: Any) -> DenseTextureAlignmentLoss:
        """The loss for MANO's topology with the bundled prior, in one call.

        Args:
            image_size: pixels of the images, an int for a square or (height, width).
            options: the constructor's own, beside renderer and encoder.

        Example:
            >>> loss_fn = DenseTextureAlignmentLoss.from_pretrained(image_size=128, reduction="none")
        """
        renderer = TexturedHandRenderer(HandSurface.mano(), image_size)
        return cls(renderer, UVTextureEncoder.from_pretrained(), **options)

    def state_dict(self, *args: Any, **kwargs: Any) -> dict[str, Any]:  # type: ignore[override]
        """Without a frozen prior, which its own files hold: a network's checkpoint does not grow by 6 MB."""
        state: dict[str, Any] = super().state_dict(*args, **kwargs)
        if not self.train_texture:
            frozen = kwargs.get("prefix", "") + "encoder."
            for name in [name for name in state if name.startswith(frozen)]:
                del state[name]
        return state

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        if not self.train_texture:  # what is not in the checkpoint stays
            for name, value in self.encoder.state_dict(prefix=f"{prefix}encoder.").items():
                state_dict.setdefault(name, value)
        super()._load_from_state_dict(state_dict, prefix, *args)

    @overload
    def forward(
        self,
        vertices: Tensor,
        camera: PinholeCamera,
        image: Tensor,
        mask: Tensor | None = ...,
        valid: Tensor | None = ...,
        *,
        is_right: Tensor | None = ...,
        group: Tensor | None = ...,
        generator: torch.Generator | None = ...,
        return_details: Literal[False] = ...,
    ) -> Tensor: ...

    @overload
    def forward(
        self,
        vertices: Tensor,
        camera: PinholeCamera,
        image: Tensor,
        mask: Tensor | None = ...,
        valid: Tensor | None = ...,
        *,
        is_right: Tensor | None = ...,
        group: Tensor | None = ...,
        generator: torch.Generator | None = ...,
        return_details: Literal[True],
    ) -> tuple[Tensor, LossDetails]: ...

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
    ) -> Tensor | tuple[Tensor, LossDetails]:
        """Compare the textured hand with the image.

        Args:
            vertices: (B, V, 3) float, metres, camera frame.
            camera: B cameras, in pixels of the image.
            image: (B, 3, H, W) float RGB in [0, 1], of the renderer's size. No gradient.
            mask: (B, 1, H, W) in [0, 1] or None: 1 = visible hand skin. Pixels of 1 only attract the silhouette,
                pixels of 0 only repel it, as far as their colours are the background's (0 may be an occluder, and a
                hand may lie under it). A mask that is 1 everywhere is no segmentation, as if it were None.
            valid: (B, 1, H, W) in [0, 1] or None: 0 where the image shows nothing, such as a crop's padding. These
                pixels are ignored, so a hand may reach into them.
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
        inputs = LossInputs(vertices, camera, image, mask, valid)
        self._check(inputs, is_right)
        dtype = vertices.dtype
        with torch.autocast(vertices.device.type, enabled=False):
            inputs = inputs.as_float32()
            if is_right is not None:
                inputs = inputs.mirrored(~self.renderer.surface.same_side(is_right))
        details = self._compare(inputs, group, generator)
        kept = (~details.skipped).sum().clamp(min=1)
        total = details.per_sample
        if self.reduction != "none":
            total = total.sum() / (kept if self.reduction == "mean" else 1)
        total = total.to(torch.promote_types(dtype, torch.float32)) if dtype == torch.float64 else total
        return (total, details) if return_details else total

    if TYPE_CHECKING:
        __call__ = forward

    def _check(self, inputs: LossInputs, is_right: Tensor | None) -> None:
        self.renderer.check(*inputs, who=WHO)
        if is_right is not None:
            flags = expect_flags(is_right, WHO, "is_right", len(inputs.vertices))
            expect_same_device(WHO, vertices=inputs.vertices, is_right=flags)
        if self.validate:
            check_values(inputs.vertices, inputs.camera, WHO)
            _check_image(inputs.image)
            for name, values in (("mask", inputs.mask), ("valid", inputs.valid)):
                if values is not None:
                    _check_range(name, values)

    @opaque
    def _compare(self, inputs: LossInputs, group: Tensor | None, generator: torch.Generator | None) -> LossDetails:
        bound, given = GradientBound(self.max_grad), inputs
        inputs, unreadable = inputs.readable()
        vertices, camera, image, mask, valid = inputs
        assert valid is not None
        vertices = bound.enter(vertices)
        observed = valid if mask is None else mask * valid
        # Padding proves nothing: there the mask does not repel.
        mask = None if mask is None else torch.lerp(torch.ones_like(mask), mask, valid)
        with torch.autocast(vertices.device.type, enabled=False):
            scene = self.renderer.scene(vertices, camera)
            with torch.no_grad():
                observations = scene.observe(image, observed, self.token_count, generator)
        with torch.set_grad_enabled(self.train_texture and torch.is_grad_enabled()):
            texture = self.encoder(observations, **({} if group is None else {"group": group}))
        with torch.autocast(vertices.device.type, enabled=False):
            texture, unusable = _usable_texture(texture)
            rendering = scene.draw(texture)
            with torch.no_grad():
                region = self._before_wrist(scene.points) * valid
            found = region_competition(rendering.image, rendering.coverage, image, region, mask, self.residual_cost)
            with torch.no_grad():
                hidden = (rendering.coverage * region).sum(dim=(1, 2, 3)) < MINIMUM_PIXELS
                unseen = ~observations.valid.any(dim=1)
                skipped = rendering.dropped | unreadable | unusable | hidden | unseen
            if not self._first_batch_seen and len(skipped):
                reasons = {"dropped": rendering.dropped, "unreadable": unreadable, "unusable": unusable}
                visible = ~(rendering.dropped | unreadable | hidden)
                bare = (rendering.coverage * region * observed).sum(dim=(1, 2, 3)) < MINIMUM_PIXELS
                reasons |= {"hidden": hidden & ~rendering.dropped, "masked": bare & visible}
                reasons["inside out"] = unseen & visible & ~bare
                self._look_at_first_batch(given, skipped, reasons)
            per_sample = bound.leave(found.per_sample.masked_fill(skipped, 0))
        return LossDetails(
            per_sample=per_sample,
            texture=texture.detach(),
            rendering=rendering,
            fitted=found.fitted,
            residual=found.residual,
            evidence=found.evidence,
            coverage=rendering.coverage.detach(),
            skipped=skipped,
        )

    def _look_at_first_batch(self, inputs: LossInputs, skipped: Tensor, reasons: dict[str, Tensor]) -> None:
        """Warn of what looks wrong. Once in a module's life, since it waits for the device."""
        self._first_batch_seen = True
        boundary = torch.tensor(self.renderer.surface.boundary_vertices, dtype=torch.int64).to(skipped.device)
        for finding in first_batch_findings(inputs, boundary, skipped, reasons, WHO):
            warnings.warn(f"{WHO}: {finding}. texalign.adapters.check says more", UserWarning, stacklevel=2)

    def _before_wrist(self, points: Tensor) -> Tensor:
        """(B, 1, H, W): 0 beyond the open wrist, 1 elsewhere."""
        height, width = self.renderer.height, self.renderer.width
        if not len(self.wrist):
            return points.new_ones(len(points), 1, height, width)
        screen = points[..., :2] / points[..., 2:].clamp(min=1e-6)
        return 1 - beyond_wrist(screen[:, self.wrist], screen.mean(dim=1), height, width)

    def extra_repr(self) -> str:
        """What `print` shows."""
        return f"token_count={self.token_count}, max_grad={self.max_grad:g}, reduction={self.reduction!r}"


def _usable_texture(texture: Tensor) -> tuple[Tensor, Tensor]:
    """In float32, black where a sample holds a value that is not finite or beyond 1e4; and which samples do."""
    texture = texture.float()
    good = (texture.detach().abs() <= LARGEST_COLOUR).flatten(1).all(dim=1)
    return torch.where(good[:, None, None, None], texture, 0), ~good


def _check_image(image: Tensor) -> None:
    if image.numel() and -3 <= float(image.amin()) < -1e-3 and float(image.amax()) <= 3:
        span = f"[{float(image.amin()):.2f}, {float(image.amax()):.2f}]"
        expect(False, WHO, "image in [0, 1]", f"{span}: an ImageNet-normalised image? Undo it first")
    _check_range("image", image)


def _check_range(name: str, values: Tensor) -> None:
    good = ((values >= -1e-3) & (values <= 1 + 1e-3)).flatten(1).all(dim=1)
    if not bool(good.all()):
        sample = int((~good).nonzero()[0])
        low, high = float(values[sample].amin()), float(values[sample].amax())
        expect(False, WHO, f"{name} in [0, 1]", f"[{low:.3g}, {high:.3g}] in sample {sample}")
