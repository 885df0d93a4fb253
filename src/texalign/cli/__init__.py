"""The command line, `python -m texalign`."""

from texalign.cli.main import main

__all__ = ["main"]
