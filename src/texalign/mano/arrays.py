"""What the readers of MANO files share: the error they raise and arrays made from raw bytes."""

from __future__ import annotations

import re
from typing import Any

import numpy as np

# MANO's own files have 4 MB; as text (protocol 0) 12.
MAX_FILE_BYTES = 32 * 2**20
# Of one array. 10,000 vertices' pose directions are 4 million numbers.
MAX_VALUES = 2**22
_CODE = re.compile(r"[<>=|]?(?:b1|[iu][1248]|f[248])")


class ManoFileError(ValueError):
    """A file that is not a MANO model, or that asks for more than arrays. Nothing in it was run.

    The message says what was expected and what came; for a pickle, which name it asked for.
    """


def demand(condition: bool, expected: str, got: object) -> None:
    """Raise a `ManoFileError` unless the condition holds. `got` must be short: `shown` for values out of a file."""
    if not condition:
        raise ManoFileError(f"expected {expected}, got {got}")


def shown(value: Any) -> str:
    """A value out of a file for a message: text and numbers cut short, of anything else only the type."""
    if isinstance(value, (str, bytes, int, float)):
        text = repr(value[:80] if isinstance(value, (str, bytes)) else value)
        return text if len(text) <= 100 else text[:100] + "…"
    return f"a {type(value).__name__}"


def number_type(code: Any) -> np.dtype:
    """The dtype of a code such as ``<f8``: bool, integers and floats; no objects, no records, no text."""
    fits = isinstance(code, str) and _CODE.fullmatch(code) is not None
    demand(fits, "numbers (bool, int or float)", f"dtype {shown(code)}")
    return np.dtype(code)


def array_of(dtype: np.dtype, shape: tuple[int, ...], raw: bytes | memoryview, by_columns: bool = False) -> np.ndarray:
    """An array over `raw`, not copied: numpy refuses a shape of another size."""
    array = np.frombuffer(raw, dtype=dtype)
    demand(array.size <= MAX_VALUES, f"arrays of at most {MAX_VALUES} values", array.size)
    return array.reshape(shape, order="F" if by_columns else "C")
