from __future__ import annotations

import pytest
import torch

import texalign as ta


@pytest.mark.parametrize("size", [256.0, "256", (64, 64.0), (64, 64, 3), None, True - 1])
def test_an_image_size_that_is_none(surface, size):
    with pytest.raises(ValueError, match=r"expected image_size > 0, one int or \(height, width\), got "):
        ta.TexturedHandRenderer(surface, image_size=size)


def test_scripting_says_what_to_do_instead(surface):
    loss_fn = ta.DenseTextureAlignmentLoss.from_pretrained(32)
    for module in (loss_fn, loss_fn.renderer, loss_fn.encoder, surface):
        with pytest.raises(RuntimeError, match=r"cannot be compiled by torch.jit.script.*use torch.compile"):
            torch.jit.script(module)
