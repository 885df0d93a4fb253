from __future__ import annotations

import subprocess
from datetime import date
from pathlib import Path
from typing import Any

import torch

SYNTHETIC_ONLY = "synthetic images only (texalign.synthetic)"


def trained_on(synthetic: bool, photographs: int, start: dict[str, Any] | None) -> str:
    """In words, what weights have seen: synthetic images, so many photographs, and what those they started from saw."""
    seen = ["synthetic images (texalign.synthetic)"] if synthetic else []
    seen += [f"{photographs} photographs"] if photographs else []
    text = " and ".join(seen) if photographs else SYNTHETIC_ONLY
    before = SYNTHETIC_ONLY if start is None else start.get("trained_on", "unknown images")
    return text if before == SYNTHETIC_ONLY else f"{text}; before that {before}"


def versions() -> dict[str, Any]:
    """Date, and versions of what runs."""
    from texalign import __version__

    return {
        "date": date.today().isoformat(),
        "texalign": __version__,
        "torch": str(torch.__version__),
        "commit": commit(Path(__file__).parent),
    }


def commit(folder: Path) -> str | None:
    """The commit of the git checkout whose files lie in the folder, with "-dirty" if any has changed; or None."""

    def git(*arguments: str) -> str:
        done = subprocess.run(
            ["git", "-C", str(folder), *arguments], capture_output=True, text=True, check=True, timeout=30
        )
        return done.stdout.strip()

    try:
        # A package installed below somebody's repository is no part of it.
        return git("describe", "--always", "--dirty", "--abbrev=7", "--exclude=*") if git("ls-files") else None
    except (OSError, subprocess.SubprocessError):
        return None
