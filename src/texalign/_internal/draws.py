from __future__ import annotations

import zlib
from collections.abc import Callable

import torch
from torch import Tensor


class Draws:
    """Random numbers for a batch: every method returns `count` rows from one generator.

    Args:
        count: B, the first dimension of everything drawn.
        generator: where randomness comes from, on its own device; None takes torch's global one.
        device: where the numbers are wanted.
        repeats: so many neighbouring rows are the same, as several views of one hand have it; divides `count`.
    """

    def __init__(self, count: int, generator: torch.Generator | None, device: torch.device, repeats: int = 1) -> None:
        self.count = count
        self.generator = generator
        self.repeats = repeats
        self.device = device
        self._source = generator.device if generator is not None else device

    def aside(self) -> Draws:
        """Draws of the same batch from another generator, seeded by this one's state, which they leave as it is."""
        seed = zlib.crc32(self._state().numpy().tobytes())
        return Draws(self.count, torch.Generator(self._source).manual_seed(seed), self.device, self.repeats)

    def uniform(self, *shape: int, low: float = 0.0, high: float = 1.0) -> Tensor:
        """(B, *shape) float32, even between low and high."""
        return low + (high - low) * self._rows(torch.rand, *shape)

    def log_uniform(self, *shape: int, low: float, high: float) -> Tensor:
        """(B, *shape) float32 whose logarithm is even between those of low and high."""
        return low * (high / low) ** self.uniform(*shape)

    def normal(self, *shape: int) -> Tensor:
        """(B, *shape) float32, standard normal."""
        return self._rows(torch.randn, *shape)

    def _state(self) -> Tensor:
        if self.generator is not None:
            return self.generator.get_state()
        return torch.get_rng_state() if self._source.type == "cpu" else torch.cuda.get_rng_state(self._source)

    def _rows(self, draw: Callable[..., Tensor], *shape: int) -> Tensor:
        rows = self.count // self.repeats
        values = draw(rows, *shape, generator=self.generator, device=self._source, dtype=torch.float32)
        return values.to(self.device).repeat_interleave(self.repeats, dim=0)

    def chance(self, share: float, *shape: int) -> Tensor:
        """(B, *shape) float32, 1 with probability `share`, else 0."""
        return (self.uniform(*shape) < share).to(torch.float32)

    def integers(self, *shape: int, high: int) -> Tensor:
        """(B, *shape) int64 in [0, high)."""
        return (self.uniform(*shape) * high).to(torch.int64).clamp(max=high - 1)

    def directions(self, *shape: int) -> Tensor:
        """(B, *shape, 3) unit vectors, even over the sphere."""
        return torch.nn.functional.normalize(self.normal(*shape, 3), dim=-1)

    def equal_shares(self, groups: int) -> Tensor:
        """(B,) int64 in [0, groups): as many of each as can be, in random order, starting with a random group."""
        order = self.uniform().argsort()
        start = torch.rand(1, generator=self.generator, device=self._source, dtype=torch.float32).to(self.device)
        return (order + (start * groups).to(torch.int64)) % groups


def per_sample(values: Tensor, dimensions: int) -> Tensor:
    """(B,) → (B, 1, …) of so many dimensions, to broadcast against a batch."""
    return values.reshape(-1, *[1] * (dimensions - 1))
