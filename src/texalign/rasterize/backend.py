from __future__ import annotations

from typing import Any

Backend = Any
Rasterization = Any
