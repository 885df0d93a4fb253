"""What every benchmark shares: where it ran, a table on the screen, a JSON file written whole."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import numpy
import torch

import texalign


def environment() -> dict[str, Any]:
    """Machine, versions, commit and date."""
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=Path(__file__).parent, capture_output=True, text=True, check=False
    )
    return {
        "date": date.today().isoformat(),
        "processor": processor(),
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": numpy.__version__,
        "texalign": texalign.__version__,
        "commit": commit.stdout.strip() or None,
    }


def processor() -> str:
    """The processor's own name where the system tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def table(rows: list[dict[str, Any]]) -> str:
    """Rows of equal keys as aligned Markdown."""
    cells = [list(rows[0])] + [[f"{v:.3g}" if isinstance(v, float) else str(v) for v in row.values()] for row in rows]
    widths = [max(len(line[i]) for line in cells) for i in range(len(cells[0]))]
    lines = ["| " + " | ".join(cell.ljust(width) for cell, width in zip(line, widths)) + " |" for line in cells]
    lines.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    return "\n".join(lines)


def interval(values: torch.Tensor, draws: int = 4000) -> tuple[float, float, float]:
    """Mean and 95 % bootstrap interval of values (N,) over images."""
    index = torch.randint(0, len(values), (draws, len(values)), generator=torch.Generator().manual_seed(0))
    means = values[index].mean(dim=1)
    return values.mean().item(), means.quantile(0.025).item(), means.quantile(0.975).item()


def relative_change(values: torch.Tensor, base: torch.Tensor, draws: int = 4000) -> tuple[float, float, float]:
    """Σ values / Σ base − 1 of paired values (N,), and its 95 % bootstrap interval over images."""
    index = torch.randint(0, len(values), (draws, len(values)), generator=torch.Generator().manual_seed(0))
    ratios = values[index].sum(dim=1) / base[index].sum(dim=1) - 1
    return (values.sum() / base.sum() - 1).item(), ratios.quantile(0.025).item(), ratios.quantile(0.975).item()


def comparison(results: dict[str, dict[str, list[float]]], base: str) -> list[dict[str, Any]]:
    """The table of several variants: means over images, and the change against `base`, paired, with its interval."""
    rows = []
    for name, errors in results.items():
        row: dict[str, Any] = {"variant": name}
        for key, values in errors.items():
            mine, others = torch.tensor(values), torch.tensor(results[base][key])
            row[key] = mine.mean().item()
            if key == "IoU":
                change, low, high = interval(mine - others)
                row[f"{key} change"] = f"{change:+.3f} ({low:+.3f} … {high:+.3f})"
            else:
                change, low, high = relative_change(mine, others)
                row[f"{key} change"] = f"{change:+.1%} ({low:+.1%} … {high:+.1%})"
        rows.append(row)
    return rows


class Store:
    """Results by name, a file each: an interrupted benchmark goes on where it was, and several can share the work.

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


def digest(content: bytes) -> str:
    """Sixteen letters that stand for it."""
    return hashlib.sha256(content).hexdigest()[:16]


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write the file whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps(content, indent=1) + "\n")
    temporary.replace(path)
    print(f"written to {path}")
