"""``python -m texalign doctor``."""

from __future__ import annotations

import argparse
from typing import Any

from texalign.cli import doctor
from texalign.cli.arguments import FAILED


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
    diagnosis = doctor.diagnose()
    print("\n".join(doctor.report_lines(diagnosis)))
    return 0 if diagnosis.healthy else FAILED
