"""The small outputs that the notebooks are committed with, and a picture for HaMeR's guide. Needs pillow.

python tools/pictures/notebook_pictures.py
"""

from __future__ import annotations

import base64
import io
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient
from PIL import Image

ROOT = Path(__file__).parents[2]
WIDTH, QUALITY = 680, 70  # pixels, and JPEG's: a notebook stays below 200 kB


def smaller(picture: Image.Image) -> str:
    """The same as a JPEG in base64."""
    picture.thumbnail((WIDTH, 10 * WIDTH))
    file = io.BytesIO()
    picture.convert("RGB").save(file, "JPEG", quality=QUALITY, optimize=True)
    return base64.b64encode(file.getvalue()).decode()


def run(path: Path) -> Image.Image:
    """Run a notebook from top to bottom and write it with its outputs; its last picture."""
    notebook: Any = nbformat.read(path, as_version=4)
    with tempfile.TemporaryDirectory() as folder:
        NotebookClient(notebook, timeout=1200, resources={"metadata": {"path": folder}}).execute()
    for cell in notebook.cells:
        cell.metadata.clear()
        cell["outputs"] = [output for output in cell.get("outputs", []) if output.get("name") != "stderr"]
        if cell.cell_type != "code":
            del cell["outputs"]
            continue
        for output in cell.outputs:
            if "image/png" in output.get("data", {}):
                last = Image.open(io.BytesIO(base64.b64decode(output.data["image/png"]))).convert("RGB")
                output.data = {"image/jpeg": smaller(last.copy())}
            sys.stdout.write(output.get("text", ""))
    notebook.metadata = {"kernelspec": notebook.metadata.kernelspec, "language_info": {"name": "python"}}
    nbformat.write(notebook, path)
    return last


def main() -> None:
    """Run both notebooks."""
    os.environ["PYTHONPATH"] = os.pathsep.join([str(ROOT / "examples"), os.environ.get("PYTHONPATH", "")])
    pictures = {path.stem: run(path) for path in sorted((ROOT / "examples").glob("*.ipynb"))}
    picture = pictures["hamer_finetune"].quantize(96)
    picture.save(ROOT / "docs" / "images" / "hamer_before_after.png", optimize=True)


if __name__ == "__main__":
    main()
