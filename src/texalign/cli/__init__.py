"""The command line, `python -m texalign`."""

from texalign.cli.command_line import main
from texalign.cli.demo_hands import synthetic_hands

__all__ = ["main", "synthetic_hands"]
