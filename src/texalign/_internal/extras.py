from __future__ import annotations

DEMO_EXTRA_MISSING = 'texalign demo needs pillow and tqdm: pip install "texalign[demo]"'


class MissingExtraError(ImportError):
    """An optional package is not installed; the message holds the command that installs it."""
