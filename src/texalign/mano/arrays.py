"""What the readers of MANO files share: the error they raise and arrays made from raw bytes."""

from __future__ import annotations

import math
import re
from typing import Any, NoReturn

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


def refuse(expected: str, got: object) -> NoReturn:
    """Raise a `ManoFileError`. `got` must be short: a value out of a file goes through `shown`."""
    raise ManoFileError(f"expected {expected}, got {got}")


def demand(condition: bool, expected: str, got: object) -> None:
    """`refuse` unless the condition holds."""
    if not condition:
        refuse(expected, got)


def shown(value: Any) -> str:
    """A value out of a file for a message: text and numbers cut short, of anything else only the type."""
    if isinstance(value, (str, bytes, int, float, bool)):
        text = repr(value[:80] if isinstance(value, (str, bytes)) else value)
        return text if len(text) <= 100 else text[:100] + "…"
    return f"a {type(value).__name__}"


def number_type(code: Any) -> np.dtype:
    """The dtype of a code such as ``<f8``: bool, integers and floats; no objects, no records, no text."""
    fits = isinstance(code, str) and _CODE.fullmatch(code) is not None
    demand(fits, "numbers (bool, int or float)", f"dtype {shown(code)}")
    return np.dtype(code)


def array_of(raw: Any, dtype: np.dtype, shape: Any, order: str) -> np.ndarray:
    """An array over `raw`, not copied, once its size is known to be what `shape` and `dtype` say."""
    sizes_fit = isinstance(shape, tuple) and len(shape) <= 4 and all(type(size) is int and size >= 0 for size in shape)
    demand(sizes_fit, "a shape of at most four sizes", shown(shape))
    demand(isinstance(raw, bytes), "an array's bytes", shown(raw))
    count = math.prod(shape)
    demand(count <= MAX_VALUES, f"arrays of at most {MAX_VALUES} values", count if count < 2**63 else "2^63 or more")
    demand(count * dtype.itemsize == len(raw), f"{count * dtype.itemsize} bytes of an array", len(raw))
    return np.frombuffer(raw, dtype=dtype).reshape(shape, order="F" if order == "F" else "C")
