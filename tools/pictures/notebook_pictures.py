"""The last picture of the HaMeR notebook, for its guide.

python tools/pictures/notebook_pictures.py
"""

from __future__ import annotations

import base64
import io
import os
import sys
import tempfile
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from PIL import Image

ROOT = Path(__file__).parents[2]


def main() -> None:
    """Run the notebook from top to bottom and write its last picture to docs/images."""
    notebook = nbformat.read(ROOT / "examples" / "hamer_finetune.ipynb", as_version=4)
    os.environ["PYTHONPATH"] = str(ROOT / "examples")
    with tempfile.TemporaryDirectory() as folder:
        NotebookClient(notebook, timeout=600, resources={"metadata": {"path": folder}}).execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    pictures = [output["data"]["image/png"] for output in outputs if "image/png" in output.get("data", {})]
    sys.stdout.write("".join(output["text"] for output in outputs if output["output_type"] == "stream"))
    picture = Image.open(io.BytesIO(base64.b64decode(pictures[-1]))).convert("RGB").quantize(96)
    picture.save(ROOT / "docs" / "images" / "hamer_before_after.png", optimize=True)


if __name__ == "__main__":
    main()
