from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[2]
# Not experiments/hamer's parent before HaMeR's own package: the scripts are imported by their own names.
sys.path += [str(ROOT / folder) for folder in ("benchmarks", "experiments", "experiments/hamer", "experiments/align")]

torch.set_num_threads(1)  # tiny tensors: more threads only wait for each other


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup():
    """What a test draws does not depend on the tests before it."""
    torch.manual_seed(0)
