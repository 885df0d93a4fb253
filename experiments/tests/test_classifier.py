"""An image classifier's weights, read from a file that only a user has."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from image_only.classifier import CHANNELS, EPSILON, FROZEN, Classifier


@pytest.fixture(scope="module")
def state():
    """As the file has them, but random."""
    torch.manual_seed(0)
    classifier, state = Classifier(), {}

    def add(convolution, name, norm):
        channels = len(convolution.bias)
        state[f"{name}.weight"] = 0.1 * torch.randn(convolution.weight.shape)
        state[f"{norm}.running_mean"] = 0.1 * torch.randn(channels)
        state[f"{norm}.running_var"] = 0.5 + torch.rand(channels)
        state[f"{norm}.weight"] = 0.5 + torch.rand(channels)
        state[f"{norm}.bias"] = 0.1 * torch.randn(channels)

    add(classifier.stem, "_conv_stem", "_bn0")
    for number, block in enumerate(classifier.blocks()):
        if block.expand is not None:
            add(block.expand, f"_blocks.{number}._expand_conv", f"_blocks.{number}._bn0")
        add(block.depthwise, f"_blocks.{number}._depthwise_conv", f"_blocks.{number}._bn1")
        add(block.project, f"_blocks.{number}._project_conv", f"_blocks.{number}._bn2")
    return state


@pytest.fixture
def classifier(state, tmp_path):
    torch.save(state, tmp_path / "weights.pth")
    found = Classifier()
    found.read(tmp_path / "weights.pth")
    return found


def test_features_have_an_eighth_a_sixteenth_and_a_thirty_second_of_the_image(classifier):
    found = classifier(torch.rand(2, 3, 96, 96))
    assert [tuple(maps.shape) for maps in found] == [
        (2, channels, side, side) for channels, side in zip(CHANNELS, (12, 6, 3))
    ]


def test_batch_norms_are_folded_into_the_convolutions(classifier, state):
    image = torch.randn(1, 3, 16, 16)
    # The padding of an even side at stride 2: one pixel, after.
    expected = functional.conv2d(functional.pad(image, (0, 1, 0, 1)), state["_conv_stem.weight"], stride=2)
    norm = (state[f"_bn0.{name}"] for name in ("running_mean", "running_var", "weight", "bias"))
    expected = functional.batch_norm(expected, *norm, eps=EPSILON).clamp(0, 6)
    assert torch.allclose(classifier.stem(image), expected, atol=1e-5)


def test_the_first_stages_and_depthwise_filters_are_not_trained(classifier):
    sum(maps.sum() for maps in classifier(torch.rand(1, 3, 64, 64))).backward()
    trained = {name for name, parameter in classifier.named_parameters() if parameter.grad is not None}
    assert trained
    assert not any("depthwise" in name or name.startswith("stem") for name in trained)
    assert {int(name.split(".")[1]) for name in trained} == set(range(FROZEN, 7))


def test_a_file_of_another_network_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="efficientnet-lite0"):
        Classifier().read(tmp_path / "nothing.pth")
    torch.save({"weight": torch.zeros(2)}, tmp_path / "other.pth")
    with pytest.raises(ValueError, match="EfficientNet-Lite0"):
        Classifier().read(tmp_path / "other.pth")
