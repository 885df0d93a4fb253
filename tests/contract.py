"""What every module here promises, whatever it computes; `test_contract.py` says of each how it is made and called."""

from __future__ import annotations

import copy
import io
import pickle
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import pytest
import torch
from torch import Tensor, nn

Tensors = dict[str, Tensor]
COUNT, BAD = 3, 1  # samples of a batch, and the one that is spoilt
HALVES = (torch.float16, torch.bfloat16)
MESSAGE = re.compile(r"\w[\w.]*: expected .+, got .+", re.DOTALL)


@dataclass(frozen=True)
class Case:
    """A module (or a function in one) and how to call it.

    Attributes:
        name: of the case.
        make: a new module, always with the same weights.
        inputs: three samples, float32; every tensor (3, …).
        run: module, generator, inputs → the outputs, every tensor (B, …).
        shows: what `print` shows, among other things.
        learns: inputs that get a gradient.
        has_weights: whether the state dict holds anything.
        draws: whether the outputs depend on the generator.
        rounding: how far equal outputs may be apart that were summed in another order; gradients relative to their
            norm.
        half_rounding: how far weights of half precision or autocast may move outputs.
        output_dtype: of the caller's dtype, the dtype that comes out.
        refuses: inputs of which a number that makes no sense is refused, since leaving it out would mean another thing.
        harmless: inputs in which a number that is not finite leaves all outputs and gradients finite.
        integers_pass: inputs that may be of an integer dtype.
        one_device: whether tensors on two devices are refused.
        refused: more calls that are refused: what is changed, and the message.
    """

    name: str
    make: Callable[[], nn.Module]
    inputs: Callable[[], Tensors]
    run: Callable[..., Tensors]
    shows: str = ""
    learns: tuple[str, ...] = ("vertices",)
    has_weights: bool = False
    draws: bool = False
    rounding: float = 1e-5
    half_rounding: float = 0.0
    output_dtype: Callable[[torch.dtype], torch.dtype] = lambda dtype: torch.float32
    harmless: tuple[str, ...] = ()
    refuses: tuple[str, ...] = ()
    integers_pass: tuple[str, ...] = ()
    one_device: bool = True
    refused: Mapping[str, tuple[Mapping[str, object], str]] = field(default_factory=dict)

    def call(self, module: nn.Module, inputs: Tensors, seed: int = 0) -> Tensors:
        """Outputs, by a generator of this seed."""
        return self.run(module, torch.Generator().manual_seed(seed), **inputs)

    def gradients(self, module: nn.Module, inputs: Tensors, call: Callable | None = None) -> tuple[Tensors, Tensors]:
        """Outputs, and gradients by input of a sum in which every output has its own weight."""
        leaves = {name: inputs[name].clone().requires_grad_() for name in self.learns}
        found = (call or self.call)(module, inputs | leaves)
        parts = [weighted(value) for value in found.values() if value.requires_grad]
        total = torch.stack(parts).sum()
        gradients = torch.autograd.grad(total, list(leaves.values()), allow_unused=True, materialize_grads=True)
        return {name: value.detach() for name, value in found.items()}, dict(zip(leaves, gradients))

    def same(self, found: Tensors, expected: Tensors, tolerance: float | None = None) -> None:
        """Assert that outputs are alike, relative to the largest if above 1; at tolerance 0 to the bit."""
        assert found.keys() == expected.keys()
        for name, value in expected.items():
            limit = (self.rounding if tolerance is None else tolerance) * max(1.0, size(value))
            off = size(found[name].double() - value.double())
            assert off <= limit, f"{name} is off by {off:g}, more than {limit:g}"

    def same_gradients(self, found: Tensors, expected: Tensors, tolerance: float | None = None) -> None:
        """Assert that gradients are alike, relative to their norm."""
        for name, value in expected.items():
            limit = self.rounding if tolerance is None else tolerance
            assert (found[name].double() - value.double()).norm() <= limit * value.double().norm(), name


def weighted(value: Tensor) -> Tensor:
    """A sum in which every element has a weight of its own, the same in a batch of any size."""
    weight = torch.rand(value.shape, generator=torch.Generator().manual_seed(1))
    return (value.double() * weight).sum()


def size(value: Tensor) -> float:
    """The largest magnitude; infinite where one is no number."""
    return float(value.detach().double().abs().nan_to_num(torch.inf).max()) if value.numel() else 0.0


def but(tensors: Tensors, sample: int) -> Tensors:
    """All samples but one."""
    return {name: torch.cat([value[:sample], value[sample + 1 :]]) for name, value in tensors.items()}


def cast(tensors: Tensors, dtype: torch.dtype) -> Tensors:
    return {name: value.to(dtype) if value.is_floating_point() else value for name, value in tensors.items()}


def floating(inputs: Tensors) -> list[str]:
    return [name for name, value in inputs.items() if value.is_floating_point()]


def all_finite(*groups: Tensors) -> bool:
    return all(bool(torch.isfinite(value).all()) for group in groups for value in group.values())


class ModuleContract:
    """The tests; a subclass parametrises `case`."""

    # --- module life -----------------------------------------------------------

    def test_training_mode_changes_no_value(self, case: Case) -> None:
        module, inputs = case.make(), case.inputs()
        training = case.call(module.train(), inputs)
        assert all(each.training for each in module.modules())
        case.same(case.call(module.eval(), inputs), training, 0)
        assert not any(each.training for each in module.modules())
        assert case.shows in repr(module)

    def test_copies_are_the_module(self, case: Case) -> None:
        module, inputs = case.make(), case.inputs()
        found, gradients = case.gradients(module, inputs)  # used once: whatever it keeps is copied with it or left out
        for clone in (copy.deepcopy(module), pickle.loads(pickle.dumps(module)), copy.deepcopy(module).to("cpu")):
            again, gradients_again = case.gradients(clone, inputs)
            case.same(again, found, 0)
            case.same_gradients(gradients_again, gradients, 0)

    def test_the_state_dict_is_the_weights(self, case: Case) -> None:
        module, inputs = case.make(), case.inputs()
        state = module.state_dict()
        assert state.keys() == {name for name, parameter in module.named_parameters() if parameter.requires_grad}
        assert bool(state) == case.has_weights
        found = case.call(module, inputs)
        file = io.BytesIO()
        torch.save(state, file)
        file.seek(0)
        other = case.make()
        if case.has_weights:
            with torch.no_grad():
                for parameter in other.parameters():
                    parameter.normal_(std=0.3)
            assert any(not torch.equal(value, found[name]) for name, value in case.call(other, inputs).items())
        other.load_state_dict(torch.load(file, weights_only=True))
        case.same(case.call(other, inputs), found, 0)

    def test_the_callers_tensors_stay_as_they_are(self, case: Case) -> None:
        inputs = case.inputs()
        case.gradients(case.make(), inputs)
        for name, value in case.inputs().items():
            assert torch.equal(inputs[name], value), name

    # --- precision --------------------------------------------------------------

    @pytest.mark.parametrize("dtype", [*HALVES, torch.float64])
    def test_a_host_of_another_dtype_may_hold_it(self, case: Case, dtype: torch.dtype) -> None:
        module, inputs = case.make(), case.inputs()
        expected, gradients = case.gradients(module, inputs)
        host = nn.Sequential(nn.Linear(2, 2), module).to(dtype)
        assert host[0].weight.dtype == dtype
        found, gradients_found = case.gradients(module, inputs)
        relative = case.half_rounding if dtype in HALVES else case.rounding
        case.same(found, expected, relative)
        assert all_finite(gradients_found)
        if not relative:
            case.same_gradients(gradients_found, gradients, 0)

    @pytest.mark.parametrize("dtype", HALVES)
    def test_autocast(self, case: Case, dtype: torch.dtype) -> None:
        module, inputs = case.make(), case.inputs()
        expected, gradients = case.gradients(module, inputs)
        # Of the forward pass, as torch advises: a backward pass under autocast is rounded by whoever calls it.
        found, gradients_found = case.gradients(module, inputs, torch.autocast("cpu", dtype=dtype)(case.call))
        tolerance = case.half_rounding  # 0 for geometry, which is computed in float32 all the same
        case.same(found, expected, tolerance)
        assert all(found[name].dtype == value.dtype for name, value in expected.items())
        assert all_finite(gradients_found)
        if not tolerance:
            case.same_gradients(gradients_found, gradients, 0)

    @pytest.mark.parametrize("dtype", [*HALVES, torch.float64])
    def test_the_callers_dtype(self, case: Case, dtype: torch.dtype) -> None:
        """It computes what it computes from the same numbers in float32; gradients come back in the caller's dtype."""
        module, given = case.make(), cast(case.inputs(), dtype)
        found, gradients = case.gradients(module, given)
        expected = cast(case.call(module, cast(given, torch.float32)), case.output_dtype(dtype))
        # What is computed in the caller's dtype is as far off as a few of its roundings.
        steps = 4 if case.output_dtype(dtype) == dtype else 0
        case.same(found, expected, case.rounding + steps * torch.finfo(dtype).eps)
        for name, value in found.items():
            assert not value.is_floating_point() or value.dtype == case.output_dtype(dtype), name
        assert all(gradient.dtype == dtype for gradient in gradients.values())
        assert all_finite(gradients) and all(gradient.any() for gradient in gradients.values())

    # --- batches -----------------------------------------------------------------

    def test_an_empty_batch(self, case: Case) -> None:
        module, inputs = case.make(), case.inputs()
        full = case.call(module, inputs)
        found, gradients = case.gradients(module, {name: value[:0] for name, value in inputs.items()})
        for name, value in full.items():
            assert found[name].shape == (0, *value.shape[1:]) and found[name].dtype == value.dtype, name
        assert all(gradient.shape == (0, *inputs[name].shape[1:]) for name, gradient in gradients.items())

    def test_a_batch_is_its_samples(self, case: Case) -> None:
        module, inputs = case.make(), case.inputs()
        found, gradients = case.gradients(module, inputs)
        first = {name: value[:1] for name, value in inputs.items()}
        alone, gradients_alone = case.gradients(module, first)
        case.same({name: value[:1] for name, value in found.items()}, alone)
        case.same_gradients({name: value[:1] for name, value in gradients.items()}, gradients_alone)

    @pytest.mark.parametrize("value", [torch.nan, torch.inf, -1e30])
    def test_one_bad_sample_harms_only_itself(self, case: Case, value: float) -> None:
        module, inputs = case.make(), case.inputs()
        expected, gradients = case.gradients(module, inputs)
        for name in floating(inputs):
            if name in case.refuses:
                continue
            spoilt = inputs | {name: inputs[name].clone(memory_format=torch.contiguous_format)}
            spoilt[name][BAD].view(-1)[-1] = value
            found, gradients_found = case.gradients(module, spoilt)
            case.same(but(found, BAD), but(expected, BAD))
            case.same_gradients(but(gradients_found, BAD), but(gradients, BAD))
            assert name not in case.harmless or all_finite(found, gradients_found), name

    def test_memory_layout_changes_nothing(self, case: Case) -> None:
        module, inputs = case.make(), case.inputs()
        turned = {name: value.transpose(0, -1).contiguous().transpose(0, -1) for name, value in inputs.items()}
        case.same(case.call(module, turned), case.call(module, inputs))

    # --- graphs, randomness, compilation ------------------------------------------

    def test_nothing_is_recorded_where_no_gradient_is_wanted(self, case: Case) -> None:
        inputs = case.inputs()
        module = case.make().requires_grad_(False)
        expected = case.call(module, inputs)
        leaves = inputs | {name: inputs[name].clone().requires_grad_() for name in case.learns}
        with torch.no_grad():
            found = case.call(module, leaves)
        assert not any(value.requires_grad for each in (expected, found) for value in each.values())
        case.same(found, expected, 0)

    def test_inference_mode_leaves_nothing_behind(self, case: Case) -> None:
        """What is kept from a first call in inference mode must serve a training step, too."""
        module, inputs = case.make(), case.inputs()
        with torch.inference_mode():
            found = case.call(module, inputs)
        expected, _ = case.gradients(module, inputs)
        case.same(found, expected)  # attention has another kernel there

    def test_it_repeats_itself_and_leaves_the_global_random_state_alone(self, case: Case) -> None:
        module, inputs = case.make(), case.inputs()
        before = torch.get_rng_state()
        torch.use_deterministic_algorithms(True)
        try:
            (first, gradients), (second, gradients_again) = (case.gradients(module, inputs) for _ in range(2))
        finally:
            torch.use_deterministic_algorithms(False)
        assert torch.equal(torch.get_rng_state(), before)
        case.same(second, first, 0)
        case.same_gradients(gradients_again, gradients, 0)
        other = case.call(module, inputs, seed=1)
        assert case.draws == any(not torch.equal(value, first[name]) for name, value in other.items())

    @pytest.mark.parametrize("backend", ["eager", pytest.param("aot_eager", marks=pytest.mark.slow)])
    def test_compiled_it_is_the_same(self, case: Case, backend: str) -> None:
        """Eager keeps the operators as they are; aot_eager takes them apart, so sums and products round otherwise."""
        module, inputs = case.make(), case.inputs()
        expected, gradients = case.gradients(module, inputs)
        torch._dynamo.reset()
        found, gradients_found = case.gradients(module, inputs, torch.compile(case.call, backend=backend))
        case.same(found, expected)
        case.same_gradients(gradients_found, gradients)

    # --- what is refused -----------------------------------------------------------

    def test_what_is_no_tensor_or_of_another_shape_dtype_or_device(self, case: Case) -> None:
        module, inputs = case.make(), case.inputs()
        for name, value in inputs.items():
            bad = {"a list": (TypeError, value.tolist()), "another shape": (ValueError, value[None])}
            if value.is_floating_point() and name not in case.integers_pass:
                bad["whole numbers"] = (ValueError, value.long())
            if case.one_device and len(inputs) > 1:
                bad["another device"] = (ValueError, value.to("meta"))
            for what, (error, given) in bad.items():
                with pytest.raises(error) as caught:
                    case.call(module, inputs | {name: given})
                message = str(caught.value)
                assert MESSAGE.fullmatch(message), (name, what, message)
                assert name in message or (what == "another device" and "on the device of" in message), (what, message)

    def test_calls_that_do_not_fit(self, case: Case) -> None:
        module, inputs = case.make(), case.inputs()
        for what, (change, message) in case.refused.items():
            with pytest.raises((TypeError, ValueError)) as caught:
                case.run(module, torch.Generator(), **inputs | change)
            assert re.search(message, str(caught.value)), (what, str(caught.value))
            assert MESSAGE.fullmatch(str(caught.value)), what
