"""MediaPipe's hand landmark network (Apache-2.0) in torch, read from a user's own file.

The file is `mediapipe/modules/hand_landmark/hand_landmark_full.tflite` of the wheel mediapipe 0.10.21. Neither it nor
weights made of it are part of this repository. Needs `pip install tflite`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from image_only.backbone import Backbone
from image_only.same_convolution import SameConvolution

# The trained part begins behind the first sum of maps of this shape (height, width, channels): of the 7 × 7 residual
# blocks two are trained, 1.3 of 2.7 million parameters.
BOUNDARY = (7, 7, 192)
CONVOLUTIONS = ("CONV_2D", "DEPTHWISE_CONV_2D")
KNOWN = (*CONVOLUTIONS, "ADD", "MEAN", "FULLY_CONNECTED")
RELU6 = 3


class Step(NamedTuple):
    """One operator: the numbers of the tensors that it reads and writes, and its module, if it has weights."""

    kind: str
    inputs: tuple[int, ...]
    output: int
    module: int | None


class Steps(nn.Module):
    """Operators one after the other.

    Args:
        steps: of them.
        modules: those with weights.
        begin: number of the tensor that comes in.
        ends: numbers of the tensors that go out.
    """

    def __init__(self, steps: list[Step], modules: list[nn.Module], begin: int, ends: tuple[int, ...]) -> None:
        super().__init__()
        used = [step.module for step in steps if step.module is not None]
        self.weighted = nn.ModuleList([modules[i] for i in used])
        self.steps = [step if step.module is None else step._replace(module=used.index(step.module)) for step in steps]
        self.begin, self.ends = begin, ends

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, ...]:
        """The tensor that goes out, or a tuple of them."""
        known = {self.begin: x.contiguous(memory_format=torch.channels_last) if x.dim() == 4 else x}
        for step in self.steps:
            inputs = [known[number] for number in step.inputs]
            if step.module is not None:
                known[step.output] = self.weighted[step.module](inputs[0])
            else:
                known[step.output] = inputs[0].mean(dim=(2, 3)) if step.kind == "MEAN" else inputs[0] + inputs[1]
        found = tuple(known[number] for number in self.ends)
        return found if len(found) > 1 else found[0]


def read_backbone(path: str | Path) -> Backbone:
    """The network of a file.

    Raises:
        FileNotFoundError: there is none.
        ValueError: it is another network.
        ImportError: the package `tflite` is not installed.
    """
    import tflite

    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"read_backbone: expected hand_landmark_full.tflite of mediapipe 0.10.21 in {path}")
    model = tflite.Model.GetRootAsModel(path.read_bytes(), 0)
    graph = model.Subgraphs(0)
    kinds = {value: name for name, value in vars(tflite.BuiltinOperator).items() if isinstance(value, int)}
    constants: dict[int, Tensor] = {}
    for number in range(graph.TensorsLength()):
        data = model.Buffers(graph.Tensors(number).Buffer()).DataAsNumpy()
        if not isinstance(data, int):
            constants[number] = _constant(graph.Tensors(number), data)
    steps: list[Step] = []
    modules: list[nn.Module] = []
    for i in range(graph.OperatorsLength()):
        operator = graph.Operators(i)
        code = model.OperatorCodes(operator.OpcodeIndex())
        kind = kinds[max(code.BuiltinCode(), code.DeprecatedBuiltinCode())]
        inputs, output = [int(number) for number in operator.InputsAsNumpy()], int(operator.Outputs(0))
        if kind == "DEQUANTIZE":
            constants[output] = constants[inputs[0]].float()
        elif kind in KNOWN:
            module = _module(tflite, kind, operator, constants, inputs)
            modules += [] if module is None else [module]
            reads = tuple(number for number in inputs if number not in constants)
            steps.append(Step(kind, reads, output, None if module is None else len(modules) - 1))
        elif kind != "LOGISTIC":  # whether there is a hand, and which
            raise ValueError(f"read_backbone: expected operators of {', '.join(KNOWN)} in {path}, got {kind}")
    shapes = {step.output: tuple(graph.Tensors(step.output).ShapeAsNumpy()[1:].tolist()) for step in steps}
    sums = [step.output for step in steps if step.kind == "ADD" and shapes[step.output] == BOUNDARY]
    outputs = [int(number) for number in graph.OutputsAsNumpy()]
    points = tuple(number for number in outputs if shapes.get(number) == (63,))
    if not sums or len(points) != 2:
        raise ValueError(f"read_backbone: expected sums {BOUNDARY} and two outputs of 63 numbers in {path}, got others")
    at = next(i for i, step in enumerate(steps) if step.output == sums[0]) + 1
    stem = Steps(steps[:at], modules, int(graph.Inputs(0)), (sums[0],))
    kept = [step for step in steps[at:] if shapes[step.output] != (1,)]
    return Backbone(stem, Steps(kept, modules, sums[0], points))


def _constant(tensor: Any, data: np.ndarray) -> Tensor:
    kinds = {0: np.float32, 1: np.float16, 2: np.int32}
    return torch.from_numpy(data.view(kinds[tensor.Type()]).reshape(tensor.ShapeAsNumpy()).copy())


def _module(tflite: Any, kind: str, operator: Any, constants: dict[int, Tensor], inputs: list[int]) -> nn.Module | None:
    """With the weights of an operator, or None if it has none."""
    table = operator.BuiltinOptions()
    if kind == "FULLY_CONNECTED":
        weight, bias = constants[inputs[1]], constants[inputs[2]]
        linear = nn.Linear(weight.shape[1], weight.shape[0])
        linear.weight, linear.bias = nn.Parameter(weight), nn.Parameter(bias)
        return linear
    if kind not in CONVOLUTIONS:
        return None
    depthwise = kind == "DEPTHWISE_CONV_2D"
    options = tflite.DepthwiseConv2DOptions() if depthwise else tflite.Conv2DOptions()
    options.Init(table.Bytes, table.Pos)
    weight, bias = constants[inputs[1]], constants[inputs[2]]
    # (1, H, W, C) and (O, H, W, I).
    weight = weight.permute(3, 0, 1, 2) if depthwise else weight.permute(0, 3, 1, 2)
    groups = len(weight) if depthwise else 1
    bounded = options.FusedActivationFunction() == RELU6
    return SameConvolution(weight.contiguous(), bias, options.StrideH(), groups, bounded)
