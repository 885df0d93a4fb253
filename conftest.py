"""What the suites of tests/ and experiments/tests/ share."""

from __future__ import annotations

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    """`python -m pytest --slow` runs everything; `--slow -m slow` what is slow alone."""
    parser.addoption("--slow", action="store_true", help="also run what starts processes, trains or runs notebooks")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave slow tests out unless they are asked for."""
    if not config.getoption("--slow"):
        slow = [item for item in items if item.get_closest_marker("slow")]
        config.hook.pytest_deselected(items=slow)
        items[:] = [item for item in items if not item.get_closest_marker("slow")]
