"""A hook of MkDocs: the notebooks of examples/, with the outputs they are committed with, as pages of the site."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mkdocs.plugins import event_priority
from mkdocs.structure.files import File

EXAMPLES = Path(__file__).parents[1] / "examples"


@event_priority(100)  # before the plugin that renders them
def on_files(files: Any, config: Any) -> Any:
    """Add each notebook under its name."""
    for path in sorted(EXAMPLES.glob("*.ipynb")):
        files.append(File(path.name, str(EXAMPLES), config.site_dir, config.use_directory_urls))
    return files
