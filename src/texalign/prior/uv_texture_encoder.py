from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional

from texalign._internal import expect, expect_same_device, expect_tensor, opaque
from texalign.prior import weights as weight_files
from texalign.prior.weights import WHO
from texalign.render import UVObservations
from texalign.surface import HandSurface

# Colours are compared as logits, so that a change of exposure is nearly a shift; this far from black and white at most.
COLOUR_MARGIN = 0.02
# In logits: about 2 % of the range of a mid-grey.
LEAST_CONTRAST = 0.1
# Standard deviations between 0.018 and 1 of the range of a colour.
LOG_VARIANCE = (-8.0, 0.0)
# Sine and cosine of 2^k π u: the finest wave is as long as a 32nd of the atlas.
FREQUENCIES = 7
# Beyond this size a learned map of what belongs where costs more weights than it is worth.
LARGEST_MAP = 32


class AtlasCells(NamedTuple):
    """The part of a surface that the encoder depends on: whose atlas, and which cells of its grid touch a chart."""

    atlas_id: str
    cells: tuple[int, ...]


class UVTextureEncoder(nn.Module):
    """The texture prior: completes what an image shows of a hand to a whole texture.

    Observations become tokens (Fourier features of uv, and the colour's deviation from the sample's mean). Queries, one
    for each cell of a coarse UV grid that touches a chart, read them by cross-attention, talk to each other by
    self-attention, and a convolutional decoder draws the texture from the grid. It costs O(N) in tokens, does not
    depend on their order, and normalises nothing over the batch.

    What is predicted is a deviation from the observed mean colour, in logits. The grid is a bottleneck on purpose: an
    encoder that could copy every pixel would let any pose explain its own colours, and say nothing about the pose.

    It follows autocast; the mean colour and the result stay in float32. Padding, and observations that are not
    finite, have no influence. Nothing synchronises, except `group` on a CUDA device (pass ids on the CPU to avoid it).

    Args:
        surface: the hand whose atlas the texture belongs to. Weights fit one atlas.
        texture_size: T, a power of two ≥ 4 · latent_grid.
        latent_grid: cells along a side of the query grid, a power of two: the smaller, the tighter the bottleneck.
        width: features of a token and of a cell, a multiple of 2 · heads.
        layers: self-attention layers over the grid.
        heads: attention heads.

    Attributes:
        atlas_id: `surface.atlas_id`.
        provenance: a dict that says where the weights come from; saved and loaded with them.

    Raises:
        TypeError: `surface` is not a HandSurface.
        ValueError: sizes that do not fit together.
    """

    cells: Tensor
    cell_uv: Tensor

    def __init__(
        self,
        surface: HandSurface | AtlasCells,
        texture_size: int = 128,
        latent_grid: int = 16,
        width: int = 192,
        layers: int = 3,
        heads: int = 6,
    ) -> None:
        super().__init__()
        if not isinstance(surface, (HandSurface, AtlasCells)):
            raise TypeError(f"{WHO}: expected surface to be a HandSurface, got {type(surface).__name__}")
        for name, value in {"texture_size": texture_size, "latent_grid": latent_grid}.items():
            power = isinstance(value, int) and value > 0 and value & (value - 1) == 0
            expect(power, WHO, f"{name} to be a power of two", repr(value))
        least = 4 * latent_grid
        expect(texture_size >= least, WHO, f"texture_size >= 4 * latent_grid = {least}", texture_size)
        expect(isinstance(layers, int) and layers >= 0, WHO, "layers >= 0", repr(layers))
        expect(isinstance(heads, int) and heads > 0, WHO, "heads > 0", repr(heads))
        fits = isinstance(width, int) and width > 0 and width % (2 * heads) == 0
        expect(fits, WHO, f"width to be a multiple of 2 * heads = {2 * heads}", repr(width))
        if isinstance(surface, HandSurface):
            surface = AtlasCells(surface.atlas_id, touched_cells(surface, latent_grid))
        inside = all(isinstance(cell, int) and 0 <= cell < latent_grid**2 for cell in surface.cells)
        expect(inside, WHO, f"cells in [0, {latent_grid**2})", surface.cells)
        self.atlas_id = surface.atlas_id
        self.texture_size, self.latent_grid, self.heads = texture_size, latent_grid, heads
        self.width, self.layers = width, layers
        self.provenance: dict[str, Any] = {}
        cells = torch.tensor(surface.cells, dtype=torch.int64)
        centre = torch.stack([cells % latent_grid, cells // latent_grid], dim=-1).add(0.5) / latent_grid
        self.register_buffer("cells", cells, persistent=False)
        self.register_buffer("cell_uv", centre, persistent=False)

        self.mean_colour = nn.Parameter(torch.zeros(3))
        self.place = nn.Linear(2 + 4 * FREQUENCIES, width)
        self.colour = nn.Linear(3, width)
        self.token = nn.Sequential(nn.SiLU(), nn.Linear(width, width), nn.LayerNorm(width))
        self.palette = nn.Linear(5, width)
        self.query = nn.Parameter(0.02 * torch.randn(len(cells), width))
        self.reading = _Reading(width, heads, cell=1 / latent_grid)
        self.mixing = nn.ModuleList([_SelfAttention(width, heads) for _ in range(layers)])
        self.decoder = _Decoder(width, latent_grid, texture_size)

    @property
    def architecture(self) -> dict[str, int]:
        """The constructor's arguments beside `surface`."""
        names = ("texture_size", "latent_grid", "width", "layers", "heads")
        return {name: getattr(self, name) for name in names}

    def forward(
        self, observations: UVObservations, group: Tensor | None = None, return_log_variance: bool = False
    ) -> Any:
        """Predict a whole texture from observations of parts of it. Differentiable in colours, uv and weights.

        Args:
            observations: of B samples, any number of tokens; a sample without a valid one gets the mean texture.
            group: (B,) integer ids. Images with the same id show the same hand under the same light: their
                observations are pooled, and they share one texture.
            return_log_variance: also say how sure the prior is.

        Returns:
            texture (B, 3, T, T) in [0, 1], float32 or wider. With `return_log_variance` a pair: the texture, and the
            logarithm of each texel's variance about it (B, 1, T, T), in [-8, 0].

        Raises:
            TypeError: `observations` is not a UVObservations, or `group` not a tensor.
            ValueError: `group` of another shape or not of an integer dtype, or tensors on different devices.
        """
        if not isinstance(observations, UVObservations):
            raise TypeError(f"{WHO}: expected observations to be UVObservations, got {type(observations).__name__}")
        expect_same_device(WHO, weights=self.cells, uv=observations.uv, rgb=observations.rgb, valid=observations.valid)
        if group is None:
            texture, log_variance = self._encode(observations)
        else:
            batch = observations.valid.shape[0]
            expect(expect_tensor(group, WHO, "group").shape == (batch,), WHO, f"group ({batch},)", tuple(group.shape))
            integer = not (group.is_floating_point() or group.is_complex() or group.dtype == torch.bool)
            expect(integer, WHO, "group of an integer dtype", group.dtype)
            pooled, member = pool_observations(observations, group)
            texture, log_variance = (values.index_select(0, member) for values in self._encode(pooled))
        return (texture, log_variance) if return_log_variance else texture

    def _encode(self, observations: UVObservations) -> tuple[Tensor, Tensor]:
        if not len(observations.valid):
            # Computed for a sample that shows nothing: kernels leave weights out of the graph of an empty batch.
            blank = (each.new_zeros(1, *each.shape[1:]) for each in vars(observations).values())
            texture, log_variance = self._encode(UVObservations(*blank))
            return texture[:0], log_variance[:0]
        dtype = self.place.weight.dtype
        exact = torch.promote_types(observations.rgb.dtype, torch.float32)
        uv, rgb = observations.uv.to(exact), observations.rgb.to(exact)
        valid = observations.valid & torch.isfinite(uv).all(dim=-1) & torch.isfinite(rgb).all(dim=-1)
        uv = torch.where(valid[..., None], uv, 0).clamp(0, 1)
        rgb = torch.where(valid[..., None], rgb, 0)
        residual, mean, contrast, palette = centre_colours(rgb, valid, self.mean_colour.to(exact))

        tokens = self.token(self.place(fourier_features(uv).to(dtype)) + self.colour(residual.to(dtype)))
        cell_uv = self.cell_uv.to(exact)
        grid = self.query + self.place(fourier_features(cell_uv).to(dtype)) + self.palette(palette.to(dtype))[:, None]
        grid = self.reading(grid, cell_uv, tokens, uv, valid)
        for layer in self.mixing:
            grid = layer(grid)
        decoded = self.decoder(self._on_grid(grid))
        texture = (decoded[:, :3] * contrast[:, :, None, None] + mean[:, :, None, None]).sigmoid()
        low, high = LOG_VARIANCE
        return texture, low + (high - low) * decoded[:, 3:].to(exact).sigmoid()

    def _on_grid(self, cells: Tensor) -> Tensor:
        """(B, Q, D) cells → (B, D, G, G), 0 where no chart is."""
        batch, _, width = cells.shape
        full = cells.new_zeros(batch, self.latent_grid**2, width).index_copy(1, self.cells, cells)
        return rearrange(full, "b (row column) d -> b d row column", row=self.latent_grid)

    def save_pretrained(self, path: str | Path, provenance: Mapping[str, Any] | None = None) -> None:
        """Write the weights (safetensors) and what rebuilds the encoder (JSON), each whole or not at all.

        Args:
            path: a folder, made if need be, for ``model.safetensors`` and ``config.json``; or a file
                ``NAME.safetensors``, beside which ``NAME.json`` is written.
            provenance: what `self.provenance` shall say from now on; anything JSON can hold.
        """
        if provenance is not None:
            self.provenance = dict(provenance)
        config = {
            "architecture": self.architecture,
            "atlas_id": self.atlas_id,
            "cells": self.cells.tolist(),
            "provenance": self.provenance,
        }
        weight_files.save(Path(path), self.state_dict(), config)

    @classmethod
    def from_pretrained(cls, path: str | Path | None = None, surface: HandSurface | None = None) -> UVTextureEncoder:
        """Load an encoder, on the CPU, in evaluation mode. Never runs code from the file.

        Args:
            path: a folder or a file as `save_pretrained` writes them; None loads the weights bundled with the package,
                trained on synthetic images only, for `HandSurface.mano()`.
            surface: if given, weights for another atlas are refused.

        Raises:
            FileNotFoundError: no such file, or this installation has no bundled weights.
            ValueError: a pickle, a truncated or altered file, tensors of other names or shapes, or another atlas.
        """
        if surface is not None and not isinstance(surface, HandSurface):
            raise TypeError(f"{WHO}: expected surface to be a HandSurface, got {type(surface).__name__}")
        with weight_files.locate(path) as (weights_path, config_path):
            config = weight_files.read_config(config_path, ("architecture", "atlas_id", "cells", "provenance"))
            atlas_id = config["atlas_id"]
            wanted = atlas_id if surface is None else surface.atlas_id
            got = f"weights for atlas {atlas_id} in {weights_path}"
            expect(atlas_id == wanted, WHO, f"weights for the surface's atlas {wanted}", got)
            try:
                encoder = cls(AtlasCells(atlas_id, tuple(config["cells"])), **config["architecture"])
            except (TypeError, ValueError) as error:
                raise ValueError(f"{WHO}: expected an encoder's configuration in {config_path}, got {error}") from error
            weights = weight_files.read_weights(weights_path, config, encoder.state_dict())
        encoder.load_state_dict(weights)
        encoder.provenance = config["provenance"]
        return encoder.eval()

    def extra_repr(self) -> str:
        """What `print` shows."""
        sizes = ", ".join(f"{name}={value}" for name, value in self.architecture.items())
        return f"{sizes}, {len(self.cells)} cells, atlas {self.atlas_id}"


def touched_cells(surface: HandSurface, grid: int) -> tuple[int, ...]:
    """Cells (row · grid + column) of a grid over the atlas in which at least one texel centre lies in a chart."""
    texels_a_side = max(256 // grid, 1)
    inside = surface.texel_map(grid * texels_a_side).face_index >= 0
    cell = rearrange(inside, "(row y) (column x) -> (row column) (y x)", y=texels_a_side, x=texels_a_side)
    return tuple(cell.any(dim=1).nonzero()[:, 0].tolist())


def fourier_features(uv: Tensor) -> Tensor:
    """Coordinates (…, 2) → (…, 2 + 4 · FREQUENCIES): themselves around 0, then sines and cosines, coarse to fine."""
    scale = math.pi * 2.0 ** torch.arange(FREQUENCIES, device=uv.device, dtype=uv.dtype)
    angle = (uv[..., None] * scale).flatten(-2)
    return torch.cat([2 * uv - 1, angle.sin(), angle.cos()], dim=-1)


def centre_colours(rgb: Tensor, valid: Tensor, default: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Split colours into a mean, a contrast and what remains, as logits: rgb = sigmoid(mean + contrast · residual).

    Args:
        rgb: (B, N, 3) in [0, 1], 0 where not valid.
        valid: (B, N) bool.
        default: (3,) logits, the mean where nothing is valid.

    Returns:
        residual (B, N, 3), of variance about 1; mean (B, 3); contrast (B, 1) > 0; and in numbers around 0 what the
        first three no longer say, (B, 5): mean, logarithm of contrast and 1, or all 0 where nothing is valid.
    """
    some = valid.any(dim=1, keepdim=True)
    weight = valid[..., None].to(rgb.dtype)
    count = weight.sum(dim=1).clamp(min=1)
    mean = torch.where(some, _logit(rgb.sum(dim=1) / count), default)
    deviation = (_logit(rgb) - mean[:, None]) * weight
    variance = (deviation.square().sum(dim=1) / count).mean(dim=1, keepdim=True)
    # Contrast below that of noise is not blown up; nothing seen counts as an ordinary contrast.
    contrast = torch.where(some, variance + LEAST_CONTRAST**2, 10 * LEAST_CONTRAST**2).sqrt()
    palette = torch.cat([mean, contrast.log(), torch.ones_like(contrast)], dim=1)
    return deviation / contrast[:, None], mean, contrast, torch.where(some, palette, 0)


def _logit(colour: Tensor) -> Tensor:
    return colour.clamp(COLOUR_MARGIN, 1 - COLOUR_MARGIN).logit()


@opaque
def pool_observations(observations: UVObservations, group: Tensor) -> tuple[UVObservations, Tensor]:
    """Put the observations of images that share an id side by side.

    Args:
        observations: of B images, N each.
        group: (B,) integer ids, any values.

    Returns:
        observations of G groups, N times the largest group's images each (smaller groups are padded), and (B,) int64:
        the group of each image.
    """
    device = observations.valid.device
    _, member, counts = torch.unique(group.cpu(), return_inverse=True, return_counts=True)
    slot = torch.arange(int(counts.max()) if len(counts) else 0)
    first = counts.cumsum(0) - counts
    image = member.argsort(stable=True)[(first[:, None] + slot).clamp(max=max(len(group) - 1, 0))].to(device)
    present = (slot < counts[:, None]).to(device)
    pooled = UVObservations(
        observations.uv[image].flatten(1, 2),
        observations.rgb[image].flatten(1, 2),
        (observations.valid[image] & present[..., None]).flatten(1, 2),
    )
    return pooled, member.to(device)


class _Reading(nn.Module):
    """Cross-attention from the cells of a grid to tokens, in which each head prefers tokens near its cell.

    Softmax logits get −s·d², with d the distance in the atlas and s learned for each head. A learned token that is
    always there takes over where no other is near, so that a softmax is never empty and a cell knows what it has not
    seen.
    """

    def __init__(self, width: int, heads: int, cell: float) -> None:
        super().__init__()
        self.heads = heads
        self.norm = nn.LayerNorm(width)
        self.query = nn.Linear(width, width)
        self.key_value = nn.Linear(width, 2 * width)
        self.output = nn.Linear(width, width)
        self.mlp = _mlp(width)
        self.null = nn.Parameter(0.02 * torch.randn(2 * width))
        self.null_logit = nn.Parameter(torch.full((heads,), -3.0))
        # From half a cell to the whole atlas.
        reach = torch.logspace(math.log10(0.5 * cell), 0, heads)
        self.log_sharpness = nn.Parameter(-(2 * reach.square()).log())

    def forward(self, grid: Tensor, grid_uv: Tensor, tokens: Tensor, uv: Tensor, valid: Tensor) -> Tensor:
        batch = len(tokens)
        query = _split(self.query(self.norm(grid)), self.heads)
        key_value = self.key_value(tokens)
        null = self.null.to(key_value.dtype).expand(batch, 1, -1)
        key, value = (_split(part, self.heads) for part in torch.cat([null, key_value], dim=1).chunk(2, dim=-1))
        square = (grid_uv[:, None] - uv[:, None]).square().sum(dim=-1)
        sharpness = rearrange(self.log_sharpness.exp(), "h -> h 1 1")
        near = (-sharpness * square[:, None]).masked_fill(~valid[:, None, None], -math.inf)
        null_logit = rearrange(self.null_logit, "h -> 1 h 1 1").expand(batch, -1, len(grid_uv), -1)
        bias = torch.cat([null_logit.to(near.dtype), near], dim=-1)
        read = functional.scaled_dot_product_attention(query, key, value, attn_mask=bias.to(query.dtype))
        grid = grid + self.output(_join(read))
        return grid + self.mlp(grid)


class _SelfAttention(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm = nn.LayerNorm(width)
        self.query_key_value = nn.Linear(width, 3 * width)
        self.output = nn.Linear(width, width)
        self.mlp = _mlp(width)

    def forward(self, grid: Tensor) -> Tensor:
        features = self.query_key_value(self.norm(grid)).chunk(3, dim=-1)
        query, key, value = (_split(part, self.heads) for part in features)
        mixed = functional.scaled_dot_product_attention(query, key, value)
        grid = grid + self.output(_join(mixed))
        return grid + self.mlp(grid)


class _Decoder(nn.Module):
    """(B, D, G, G) → (B, 4, T, T): doubles the size level by level; a convolution forgets where it is, so maps tell."""

    def __init__(self, width: int, grid: int, texture_size: int) -> None:
        super().__init__()
        self.convolutions, self.maps = nn.ModuleList(), nn.ParameterList()
        channels, size = width, grid
        while size < texture_size:
            out = max(width * grid // (2 * size), 16)
            self.convolutions.append(nn.Conv2d(channels, out, 3, padding=1))
            self.maps.append(torch.zeros(out, size, size) if size <= LARGEST_MAP else torch.zeros(out, 1, 1))
            channels, size = out, 2 * size
        # The last doubling rearranges channels: a quarter of the arithmetic.
        self.head = nn.Conv2d(channels, 16, 3, padding=1)
        # Begin at the observed mean colour, everywhere equally sure.
        for parameter in self.head.parameters():
            nn.init.zeros_(parameter)

    def forward(self, features: Tensor) -> Tensor:
        for level, (convolution, where) in enumerate(zip(self.convolutions, self.maps)):
            if level:
                features = functional.interpolate(features, scale_factor=2, mode="bilinear", align_corners=False)
            features = functional.silu(convolution(features) + where)
        return functional.pixel_shuffle(self.head(features), 2)


def _mlp(width: int) -> nn.Sequential:
    return nn.Sequential(nn.LayerNorm(width), nn.Linear(width, 2 * width), nn.SiLU(), nn.Linear(2 * width, width))


def _split(features: Tensor, heads: int) -> Tensor:
    return rearrange(features, "b n (h d) -> b h n d", h=heads)


def _join(features: Tensor) -> Tensor:
    return rearrange(features, "b h n d -> b n (h d)")
