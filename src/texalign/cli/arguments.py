"""Types of arguments, and exit codes."""

from __future__ import annotations

import argparse

FAILED, MISUSED, INTERRUPTED = 1, 2, 130
# What torch can count to in every place.
_LARGEST = 2**31 - 1


def seed(text: str) -> int:
    """A seed of torch's generators."""
    number = int(text)
    if not 0 <= number < 2**63:
        raise argparse.ArgumentTypeError(f"expected 0 to 2**63 - 1, got {text}")
    return number


def positive(text: str) -> int:
    """A whole number above 0."""
    number = int(text)
    if not 0 < number <= _LARGEST:
        raise argparse.ArgumentTypeError(f"expected 1 to {_LARGEST}, got {text}")
    return number


def number_range(text: str) -> range:
    """FIRST-LAST, both included."""
    first, dash, last = text.partition("-")
    if not (dash and first.isdecimal() and last.isdecimal() and int(first) <= int(last)):
        raise argparse.ArgumentTypeError(f"expected FIRST-LAST, as 0-99, got {text}")
    return range(int(first), int(last) + 1)
