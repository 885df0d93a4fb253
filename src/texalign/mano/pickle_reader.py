"""Pickles of arrays, read by Python's unpickler with everything taken out of it that calls, imports or looks up."""

from __future__ import annotations

import io
import pickle
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from texalign.mano.arrays import demand, shown

# A MANO file has about 500.
MAX_OPCODES = 100_000
_ALLOWED = (
    "numpy.ndarray numpy.dtype numpy.core.multiarray._reconstruct numpy._core.multiarray._reconstruct "
    "numpy.core.numeric._frombuffer numpy._core.numeric._frombuffer "
    "scipy.sparse.csc.csc_matrix scipy.sparse._csc.csc_matrix chumpy.ch.Ch chumpy.reordering.Select "
    "copy_reg._reconstructor copyreg._reconstructor _codecs.encode "
    "__builtin__.object builtins.object __builtin__.set builtins.set"
)
_NAMES = {tuple(name.rsplit(".", 1)) for name in _ALLOWED.split()}


@dataclass(eq=False)
class Call:
    """A call that a file asks for, written down and not made. The name is text: nothing is looked up by it."""

    name: str
    arguments: tuple[Any, ...]
    state: Any = None


class _Fields(dict[str, Any]):
    """A dict whose keys are text: to hash tuples inside of tuples may take forever, or too much of the stack."""

    def __setitem__(self, key: Any, value: Any) -> None:
        demand(type(key) is str, "text as a dict's key", shown(key))
        super().__setitem__(key, value)


def read_pickle(data: bytes) -> dict[str, Any]:
    """The dict in a pickle of any protocol: text, numbers, and arrays as `dense` takes them.

    Raises:
        ManoFileError: a name, opcode or value that no MANO file needs; it says which.
        Exception: of any kind, where the bytes make no sense.
    """
    file = io.BytesIO(data)
    value = _Reader(file).load()
    demand(type(value) is _Fields, "a pickled dict", shown(value))
    demand(not file.read(1), "nothing after the pickle's end", "more")
    return value


# The one in Python, not the one in C: that allocates whatever index or length five bytes of a file claim.
class _Reader(pickle._Unpickler):
    def __init__(self, file: io.BytesIO) -> None:
        super().__init__(file, encoding="latin1")
        self.dispatch = _Steps(_STEPS)  # type: ignore[misc]

    def find_class(self, module: str, name: str) -> str:
        asked = f"a request for {module[:80]}.{name[:80]}"
        demand((module, name) in _NAMES, "a pickle that asks for nothing but arrays of numpy, scipy and chumpy", asked)
        return name


class _Steps(dict[int, Callable[[Any], None]]):
    """What the reader does at each opcode, as long as there are not too many of them."""

    left = MAX_OPCODES

    def __getitem__(self, code: int) -> Callable[[Any], None]:
        self.left -= 1
        demand(self.left >= 0, f"a pickle of at most {MAX_OPCODES} opcodes", "more")
        demand(code in self, "a pickle of arrays only", f"a request for opcode {bytes([code])!r}")
        return super().__getitem__(code)


def _call(reader: Any) -> None:
    arguments, name = reader.stack.pop(), reader.stack.pop()
    demand(type(name) is str and type(arguments) is tuple, "a call that makes an array", f"one of {shown(name)}")
    reader.append(Call(name, arguments))


def _build(reader: Any) -> None:
    state, target = reader.stack.pop(), reader.stack[-1]
    demand(type(target) is Call, "a state for an array or a sparse or chumpy value", shown(target))
    target.state = state


def _dict(reader: Any) -> None:
    items = reader.pop_mark()
    reader.append(_Fields())
    for key, value in zip(items[::2], items[1::2]):
        reader.stack[-1][key] = value


def _as_usual(names: str) -> dict[int, Callable[[Any], None]]:
    codes = [getattr(pickle, name)[0] for name in names.split()]
    return {code: pickle._Unpickler.dispatch[code] for code in codes}


_STEPS = _as_usual(
    "PROTO STOP MARK POP POP_MARK NONE NEWTRUE NEWFALSE INT LONG BININT BININT1 BININT2 LONG1 FLOAT BINFLOAT "
    "STRING BINSTRING SHORT_BINSTRING UNICODE BINUNICODE SHORT_BINUNICODE BINUNICODE8 "
    "BINBYTES SHORT_BINBYTES BINBYTES8 "
    "EMPTY_LIST LIST APPEND APPENDS EMPTY_TUPLE TUPLE TUPLE1 TUPLE2 TUPLE3 SETITEM SETITEMS "
    "PUT BINPUT LONG_BINPUT MEMOIZE GET BINGET LONG_BINGET GLOBAL STACK_GLOBAL"
) | {
    pickle.FRAME[0]: lambda reader: reader.read(8),  # frames say how to read ahead, and would be a copy of the file
    pickle.BYTEARRAY8[0]: pickle._Unpickler.dispatch[pickle.BINBYTES8[0]],
    pickle.EMPTY_DICT[0]: lambda reader: reader.append(_Fields()),
    pickle.DICT[0]: _dict,
    # No field is a set: it is read as None.
    pickle.EMPTY_SET[0]: lambda reader: reader.append(None),
    pickle.ADDITEMS[0]: lambda reader: reader.pop_mark(),
    pickle.REDUCE[0]: _call,
    pickle.NEWOBJ[0]: _call,
    pickle.BUILD[0]: _build,
}
