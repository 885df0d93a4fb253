from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from einops import rearrange
from torch import Tensor, nn

from texalign._internal import Unscriptable, expect, expect_same_device, expect_tensor
from texalign.prior import weights as weight_files
from texalign.prior.atlas_cells import AtlasCells
from texalign.prior.blocks import Decoder, Reading, SelfAttention
from texalign.prior.observation_features import FREQUENCIES, centre_colours, fourier_features, pool_observations
from texalign.prior.weights import WHO
from texalign.render import UVObservations
from texalign.surface import HandSurface, same_atlas

# Standard deviations between 0.018 and 1 of the range of a colour.
LOG_VARIANCE = (-8.0, 0.0)


class UVTextureEncoder(Unscriptable, nn.Module):
    """The texture prior: completes what an image shows of a hand to a whole texture.

    Observations become tokens (Fourier features of uv, and the colour's deviation from the sample's mean). One query
    for each cell of a coarse UV grid that touches a chart reads the tokens by cross-attention; self-attention mixes the
    cells; a convolutional decoder turns the grid into the texture. The cost is O(N) in tokens. Their order does not
    matter, and nothing is normalised over the batch.

    The encoder predicts a deviation from the observed mean colour, in logits. The coarse grid is a deliberate
    bottleneck: if the encoder could copy every pixel, a wrong pose would explain its own colours, and the loss would
    have no gradient towards the right one.

    It follows autocast; the mean colour and the result stay in float32. Padding, and observations that are not
    finite, have no influence. There is no synchronisation, except with `group` on a CUDA device (ids on the CPU avoid
    it).

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

    Example:
        >>> encoder = UVTextureEncoder.from_pretrained()
        >>> some = torch.ones(1, 50, dtype=torch.bool)
        >>> encoder(UVObservations(uv=torch.rand(1, 50, 2), rgb=torch.full((1, 50, 3), 0.6), valid=some)).shape
        torch.Size([1, 3, 128, 128])
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
            surface = AtlasCells.of(surface, latent_grid)
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
        self.reading = Reading(width, heads, cell=1 / latent_grid)
        self.mixing = nn.ModuleList([SelfAttention(width, heads) for _ in range(layers)])
        self.decoder = Decoder(width, latent_grid, texture_size)

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
            return_log_variance: also return the predicted variance.

        Returns:
            texture (B, 3, T, T) in [0, 1], float32 or wider. With `return_log_variance` a pair: the texture, and the
            logarithm of each texel's predicted variance (B, 1, T, T), in [-8, 0].

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
        """Cells (B, Q, D) → (B, D, G, G), 0 where there is no chart."""
        batch, _, width = cells.shape
        full = cells.new_zeros(batch, self.latent_grid**2, width).index_copy(1, self.cells, cells)
        return rearrange(full, "b (row column) d -> b d row column", row=self.latent_grid)

    def save_pretrained(self, path: str | Path, provenance: Mapping[str, Any] | None = None) -> None:
        """Write the weights (safetensors) and the configuration (JSON), each file atomically.

        Args:
            path: a folder, made if need be, for ``model.safetensors`` and ``config.json``; or a file
                ``NAME.safetensors``, beside which ``NAME.json`` is written.
            provenance: replaces `self.provenance`; anything JSON can hold.
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
            expect(same_atlas(atlas_id, wanted), WHO, f"weights for the surface's atlas {wanted}", got)
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
