"""``python -m texalign doctor``."""

from __future__ import annotations

import argparse
from typing import Any

from texalign.cli.arguments import FAILED
from texalign.cli.doctor import diagnose, report_lines


def add_doctor(commands: Any) -> None:
    """Add the command to the parser's."""
    parser = commands.add_parser(
        "doctor",
        help="say what runs on this machine, what does not, and what would fix it",
        description="Print versions, devices and whether each rasterizer really runs on each device. The exit code is "
        "0 if texalign runs on the CPU.",
    )
    parser.set_defaults(command=run_doctor)


def run_doctor(options: argparse.Namespace) -> int:
    """Print the diagnosis."""
    diagnosis = diagnose()
    print("\n".join(report_lines(diagnosis)))
    return 0 if diagnosis.healthy else FAILED
