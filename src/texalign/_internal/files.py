from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any


def write_whole(path: str | os.PathLike[str], write: Callable[[Path], Any]) -> Path:
    """Let `write` fill a file beside the target, then replace it: a reader, or a kill, meets the old file or the new.

    Returns the path. What fails leaves nothing behind.
    """
    target = Path(path)
    if not target.parent.is_dir():
        raise FileNotFoundError(f"expected a folder {target.parent} to write {target.name} into, got none")
    partial = target.with_name(f".{target.name}.{os.getpid()}.partial")
    try:
        write(partial)
        with partial.open("rb+") as file:
            os.fsync(file.fileno())
        partial.replace(target)
    finally:
        partial.unlink(missing_ok=True)
    return target
