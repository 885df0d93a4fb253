from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from recording import digest


class Store:
    """Results by name, a file each: an interrupted experiment goes on where it was, and several can share the work.

    Args:
        folder: where they are kept.
        made_by: what all of them depend on, beside the package's modules in use; results of others are not found.
    """

    def __init__(self, folder: Path, made_by: dict[str, Any]) -> None:
        modules = [module for name, module in sorted(sys.modules.items()) if name.partition(".")[0] == "texalign"]
        source = b"".join(Path(module.__file__).read_bytes() for module in modules if module.__file__)
        self.folder = folder / digest(json.dumps(made_by).encode() + source)

    def get(self, name: str, make: Callable[..., Any], *arguments: Any) -> Any:
        """The result of that name, made now, from the arguments, if it is missing."""
        path = self.folder / f"{digest(name.encode())}.json"
        if not path.exists():
            began = time.time()
            result = make(*arguments)
            path.parent.mkdir(parents=True, exist_ok=True)
            temporary = path.with_suffix(f".{os.getpid()}")
            temporary.write_text(json.dumps({"name": name, "result": result}))
            temporary.replace(path)
            print(f"{name} ({time.time() - began:.0f} s)", flush=True)
        return json.loads(path.read_text())["result"]
