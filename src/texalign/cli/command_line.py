from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from texalign import __version__
from texalign._internal import MissingExtraError
from texalign.cli.align_command import add_align
from texalign.cli.arguments import INTERRUPTED, MISUSED
from texalign.cli.demo_command import add_demo
from texalign.cli.doctor_command import add_doctor
from texalign.cli.pretrain_command import add_pretrain


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line, `python -m texalign`.

    Args:
        arguments: without the program's name; None takes the process's own.

    Returns:
        The exit code: 0, 1 if something does not work here, 2 for a user's mistake, told in one line on standard error.

    Example:
        >>> main(["align", "no-such-photo.jpg"])
        2
    """
    parser = build_parser()
    options = parser.parse_args(arguments)
    if options.command is None:
        parser.print_help()
        return 0
    try:
        return int(options.command(options))
    except (MissingExtraError, OSError) as error:
        print(f"texalign: {error}", file=sys.stderr)
        return MISUSED
    except KeyboardInterrupt:
        print("texalign: interrupted", file=sys.stderr)
        return INTERRUPTED


def build_parser() -> argparse.ArgumentParser:
    """The parser; each subcommand stores the function that does it as `command`."""
    parser = argparse.ArgumentParser(
        prog="python -m texalign",
        description="Texture as a training signal for 3D hand reconstruction.",
    )
    parser.add_argument("--version", action="version", version=f"texalign {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND")
    parser.set_defaults(command=None)
    for add in (add_demo, add_align, add_pretrain, add_doctor):
        add(commands)
    return parser
