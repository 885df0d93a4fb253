"""A convolution as TensorFlow pads it."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional


class SameConvolution(nn.Module):
    """A convolution with TensorFlow's SAME padding: of an odd number of pixels, the last one is after.

    Args:
        weight: (O, I, K, K), or (C, 1, K, K) of a depthwise one.
        bias: (O,).
        stride: pixels.
        groups: 1, or C.
        bounded: by ReLU6.
    """

    def __init__(self, weight: Tensor, bias: Tensor, stride: int, groups: int, bounded: bool) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(weight), nn.Parameter(bias)
        self.stride, self.groups, self.bounded = stride, groups, bounded

    def forward(self, x: Tensor) -> Tensor:
        """(B, I, H, W) → (B, O, ⌈H / stride⌉, ⌈W / stride⌉)."""
        size, side = self.weight.shape[-1], x.shape[-1]
        if size == self.stride == self.groups == 1:  # a product of matrices, which is faster here
            y = functional.linear(x.permute(0, 2, 3, 1), self.weight[:, :, 0, 0], self.bias).permute(0, 3, 1, 2)
            return functional.relu6(y) if self.bounded else y
        missing = max(0, (-(-side // self.stride) - 1) * self.stride + size - side)
        before, after = missing // 2, missing - missing // 2
        if before == after:
            x = functional.conv2d(x, self.weight, self.bias, self.stride, before, groups=self.groups)
        else:
            x = functional.pad(x, (before, after, before, after))
            x = functional.conv2d(x, self.weight, self.bias, self.stride, groups=self.groups)
        return functional.relu6(x) if self.bounded else x
