"""The encoder's parts: attention that reads tokens, attention among cells, and the decoder."""

from __future__ import annotations

import math

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional

# Above this size a learned positional map costs more weights than it is worth.
LARGEST_MAP = 32
# A squared distance at which no head reads anything. Not infinite: the gradient of a sharpness multiplies it by 0.
OUT_OF_REACH = 1e20


class Reading(nn.Module):
    """Cross-attention from the cells of a grid to tokens, in which each head prefers tokens near its cell.

    −s·d² is added to the softmax logits, with d the distance in the atlas and s learned for each head. A learned null
    token is always present: the softmax is never empty, and it dominates where no other token is near.

    Args:
        width: D, features of a cell and of a token.
        heads: attention heads.
        cell: side of a cell, as a share of the atlas.
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
        """Cells (B, Q, D) at grid_uv (Q, 2), tokens (B, N, D) at uv (B, N, 2), valid (B, N) → cells (B, Q, D)."""
        batch = len(tokens)
        query = _split(self.query(self.norm(grid)), self.heads)
        key_value = self.key_value(tokens)
        null = self.null.to(key_value.dtype).expand(batch, 1, -1)
        key, value = (_split(part, self.heads) for part in torch.cat([null, key_value], dim=1).chunk(2, dim=-1))
        x, y = (grid_uv[:, axis, None] - uv[:, None, :, axis] for axis in (0, 1))
        # The largest array here, made in one product. Its first column is the null token's: 1 · logit.
        square = functional.pad(torch.where(valid[:, None], x * x + y * y, OUT_OF_REACH), (1, 0), value=1.0)
        sharpness = self.log_sharpness.exp()[:, None].expand(-1, uv.shape[1])
        factor = torch.cat([self.null_logit[:, None], -sharpness], dim=1)
        bias = square[:, None] * factor[:, None].to(square.dtype)
        read = functional.scaled_dot_product_attention(query, key, value, attn_mask=bias.to(query.dtype))
        grid = grid + self.output(_join(read))
        return grid + self.mlp(grid)


class SelfAttention(nn.Module):
    """A transformer layer over the cells of the grid."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm = nn.LayerNorm(width)
        self.query_key_value = nn.Linear(width, 3 * width)
        self.output = nn.Linear(width, width)
        self.mlp = _mlp(width)

    def forward(self, grid: Tensor) -> Tensor:
        """Cells (B, Q, D) → (B, Q, D)."""
        features = self.query_key_value(self.norm(grid)).chunk(3, dim=-1)
        query, key, value = (_split(part, self.heads) for part in features)
        mixed = functional.scaled_dot_product_attention(query, key, value)
        grid = grid + self.output(_join(mixed))
        return grid + self.mlp(grid)


class Decoder(nn.Module):
    """Convolutions that double the size level by level, with learned positional maps."""

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
        # Begin at the observed mean colour and a variance that is the same everywhere.
        for parameter in self.head.parameters():
            nn.init.zeros_(parameter)

    def forward(self, features: Tensor) -> Tensor:
        """Features of the grid (B, D, G, G) → (B, 4, T, T)."""
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
