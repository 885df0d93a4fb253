"""Reading pickles of arrays without unpickling: a small machine for those opcodes that MANO files need.

It knows eleven names and makes inert values of them. It imports nothing, calls nothing that a file names, and looks no
attribute up: a name is a word to compare. `pickle.Unpickler` is not used: even with a restricted ``find_class`` it lets
a file allocate what it likes (a memo of four billion entries takes five bytes) and call what lies on its stack.
"""

from __future__ import annotations

import codecs
import pickle
import struct
import sys
from collections.abc import Callable
from typing import Any

from texalign.mano.arrays import MAX_FILE_BYTES, array_of, demand, refuse, shown
from texalign.mano.values import NAMES, OBJECTS, Array, DroppedSet, Known, NumberType, Shell

# A MANO file has about 500.
MAX_OPCODES = 100_000
# Text and bytes made while reading, all together: enough for arrays that are written as text and encoded again.
MAX_TEXT_BYTES = 3 * MAX_FILE_BYTES


def read_pickle(data: bytes) -> dict[str, Any]:
    """The dict in a pickle of any protocol: arrays and sparse or chumpy values as `dense` takes them, text, numbers.

    Raises:
        ManoFileError: a name, opcode or value that no MANO file needs; it says which.
        Exception: of any kind, where the bytes make no sense.
    """
    value = _Machine(data).run()
    demand(type(value) is dict, "a pickled dict", shown(value) if not isinstance(value, Known) else value.value)
    return value


class _Machine:
    """A pickle's stack, marks and memo, and the bytes that are still to be read."""

    def __init__(self, data: bytes) -> None:
        self.data, self.at, self.made = data, 0, 0
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: dict[int, Any] = {}

    def run(self) -> Any:
        """The value that the pickle stands for."""
        for _ in range(MAX_OPCODES):
            code = self.take(1)
            if code == pickle.STOP:
                break
            step = _STEPS.get(code)
            if step is None:
                refuse("a pickle of arrays only", f"a request for {_REFUSED.get(code, f'opcode {code!r}')}")
            step(self)
        else:
            refuse(f"a pickle of at most {MAX_OPCODES} opcodes", "more")
        demand(self.at == len(self.data), "nothing after the pickle's end", f"{len(self.data) - self.at} bytes")
        demand(len(self.stack) == 1 and not self.marks, "one pickled value", f"{len(self.stack)}")
        return self.stack[0]

    # Reading ------------------------------------------------------------------------------------------

    def take(self, count: int) -> bytes:
        """The next bytes."""
        start, self.at = self.at, self.at + count
        demand(0 <= count <= len(self.data) - start, "a whole pickle", "one that ends in the middle")
        return self.data[start : self.at]

    def number(self, layout: str) -> Any:
        return struct.unpack("<" + layout, self.take(struct.calcsize("<" + layout)))[0]

    def payload(self, layout: str) -> bytes:
        """Bytes after their count."""
        return self.counted(self.take(self.number(layout)))

    def line(self, longest: int = 256) -> bytes:
        end = self.data.find(b"\n", self.at)
        demand(0 <= end - self.at <= longest, f"a line of at most {longest} bytes", "none or a longer one")
        line, self.at = self.data[self.at : end], end + 1
        return line

    def counted(self, value: Any) -> Any:
        """Text or bytes, once they are known to be within the budget."""
        self.made += sys.getsizeof(value)
        demand(self.made <= MAX_TEXT_BYTES, f"at most {MAX_TEXT_BYTES} bytes of text and arrays", "more")
        return value

    def text(self, raw: bytes, encoding: str = "utf-8") -> str:
        return self.counted(raw.decode(encoding, "surrogatepass" if encoding == "utf-8" else "strict"))

    # The stack ----------------------------------------------------------------------------------------

    def push(self, value: Any) -> None:
        self.stack.append(value)

    def pop(self) -> Any:
        demand(len(self.stack) > (self.marks[-1] if self.marks else 0), "a value on the pickle's stack", "none")
        return self.stack.pop()

    def top(self, kind: type | tuple[type, ...]) -> Any:
        value = self.pop()
        demand(isinstance(value, kind), "a pickle whose values fit together", shown(value))
        self.push(value)
        return value

    def items(self) -> list[Any]:
        """What lies above the last mark, which goes."""
        demand(bool(self.marks), "a mark on the pickle's stack", "none")
        start = self.marks.pop()
        items = self.stack[start:]
        del self.stack[start:]
        return items

    def take_tuple(self, count: int) -> None:
        self.push(tuple([self.pop() for _ in range(count)][::-1]))

    def fill(self, target: Any, pairs: list[Any]) -> None:
        """Put keys and values that follow each other into a dict."""
        demand(len(pairs) % 2 == 0, "a key for every value", "one too few")
        for key, value in zip(pairs[::2], pairs[1::2]):
            demand(type(key) is str, "text as a dict's key", shown(key))
            target[key] = value

    def dict_of_items(self) -> None:
        made: dict[str, Any] = {}
        self.fill(made, self.items())
        self.push(made)

    def set_item(self) -> None:
        value, key = self.pop(), self.pop()
        self.fill(self.top(dict), [key, value])

    def set_items(self) -> None:
        items = self.items()
        self.fill(self.top(dict), items)

    def append(self) -> None:
        value = self.pop()
        self.top(list).append(value)

    def extend(self) -> None:
        items = self.items()
        self.top(list).extend(items)

    def add_items(self) -> None:
        self.items()
        self.top(DroppedSet)

    def remember(self, index: int) -> None:
        self.memo[index] = self.top(object)

    def recall(self, index: int) -> None:
        demand(index in self.memo, "a value kept before it is used", f"none at {index}")
        self.push(self.memo[index])

    # Text and numbers in lines (protocol 0) -----------------------------------------------------------

    def whole(self) -> int:
        """A decimal number, short: Python takes time that grows with the square of its length."""
        return int(self.line(40).removesuffix(b"L"))

    def integer(self) -> None:
        line = self.line(40)
        self.push({b"00": False, b"01": True}[line] if line in (b"00", b"01") else int(line))

    def string(self) -> None:
        """Python 2's text, as it prints it, between quotes."""
        line = self.counted(self.line(MAX_FILE_BYTES))
        quoted = len(line) >= 2 and line[:1] == line[-1:] and line[:1] in b"'\""
        demand(quoted, "text between quotes", shown(line))
        # What Python 2 wrote, and no other escape: for those a warning would be given, which imports and opens files.
        single = line.replace(b"\\\\", b"")
        written = sum(single.count(b"\\" + letter) for letter in (b"x", b"n", b"r", b"t", b"'", b'"'))
        demand(written == single.count(b"\\"), "text with Python's escapes", "others")
        raw = codecs.escape_decode(line[1:-1])[0]
        self.push(self.text(raw, "latin-1"))

    # Names and what they make -------------------------------------------------------------------------

    def name(self, module: Any, name: Any) -> None:
        known = NAMES.get((module, name)) if isinstance(module, str) and isinstance(name, str) else None
        if known is None:
            asked = ".".join(part[:80] if isinstance(part, str) else shown(part) for part in (module, name))
            refuse("a pickle that asks for nothing but arrays of numpy, scipy and chumpy", f"a request for {asked}")
        self.push(known)

    def global_name(self) -> None:
        self.name(self.line().decode(), self.line().decode())

    def instance(self) -> None:
        """An old Python 2 object; none of the names is one."""
        module, name = self.line().decode()[:80], self.line().decode()[:80]
        refuse("a pickle that asks for nothing but arrays of numpy, scipy and chumpy", f"a request for {module}.{name}")

    def stack_name(self) -> None:
        name, module = self.pop(), self.pop()
        self.name(module, name)

    def new(self) -> None:
        arguments, kind = self.pop(), self.pop()
        demand(kind in OBJECTS and arguments == (), "a sparse or chumpy value to be made", shown(kind))
        self.push(Shell(kind))

    def call(self) -> None:
        arguments, name = self.pop(), self.pop()
        maker = _MAKERS.get(name) if isinstance(name, Known) else None
        called = name.value if isinstance(name, Known) else shown(name)
        if maker is None or type(arguments) is not tuple:
            refuse("a call that makes an array", f"one of {called}")
        self.push(maker(self, *arguments))

    def make_type(self, code: Any, align: Any = False, copy: Any = True) -> NumberType:
        return NumberType(code)

    def make_array(self, kind: Any, shape: Any, code: Any) -> Array:
        demand(kind is Known.NDARRAY, "numpy.ndarray to be made", shown(kind))
        return Array()

    def make_from_buffer(self, raw: Any, kind: Any, shape: Any, order: Any, axes: Any = None) -> Array:
        demand(isinstance(kind, NumberType), "an array's dtype", shown(kind))
        demand(order in ("C", "F", "K"), "an array's order", shown(order))
        value = array_of(raw, kind.dtype(), shape, order)
        # K: as the axes lie in memory, which are put back into the array's own order.
        return Array(value.transpose(axes) if order == "K" else value)

    def make_shell(self, kind: Any, base: Any, state: Any) -> Shell:
        fits = kind in OBJECTS and base is Known.OBJECT and state is None
        demand(fits, "a sparse or chumpy value to be made", shown(kind))
        return Shell(kind)

    def make_set(self, items: Any = ()) -> DroppedSet:
        demand(type(items) in (list, tuple), "a set of a list", shown(items))
        return DroppedSet()

    def make_bytes(self, text: Any, encoding: Any = None) -> bytes:
        demand(type(text) is str and encoding in ("latin1", "latin-1"), "bytes written as latin-1", shown(encoding))
        return self.counted(text.encode("latin-1"))

    def build(self) -> None:
        """Give a value its state, once."""
        state = self.pop()
        target = self.top(object)
        if isinstance(target, NumberType):
            # Version, byte order, then what only records and arrays of arrays have.
            fits = type(state) is tuple and len(state) == 8 and all(part is None for part in state[2:5])
            fits = fits and target.order is None and type(state[1]) is str and state[1] in ("<", ">", "|", "=")
            demand(fits, "the state of a plain dtype", shown(state))
            target.order = state[1]
        elif isinstance(target, Array):
            fits = (
                type(state) is tuple and len(state) == 5 and isinstance(state[2], NumberType) and target.value is None
            )
            demand(fits, "the state of an array", shown(state))
            raw = self.counted(state[4].encode("latin-1")) if isinstance(state[4], str) else state[4]
            target.value = array_of(raw, state[2].dtype(), state[1], "F" if state[3] else "C")
        else:
            fits = isinstance(target, Shell) and type(state) is dict and target.state is None
            demand(fits, "a state for an array or a sparse or chumpy value", shown(target))
            target.state = state


_MAKERS: dict[Known, Callable[..., Any]] = {
    Known.DTYPE: _Machine.make_type,
    Known.RECONSTRUCT: _Machine.make_array,
    Known.FROMBUFFER: _Machine.make_from_buffer,
    Known.RECONSTRUCTOR: _Machine.make_shell,
    Known.SET: _Machine.make_set,
    Known.ENCODE: _Machine.make_bytes,
}

_STEPS: dict[bytes, Callable[[_Machine], Any]] = {
    pickle.PROTO: lambda m: demand(m.take(1)[0] <= 5, "a pickle of protocol 0 to 5", "a later one"),
    pickle.FRAME: lambda m: m.take(8),
    pickle.MARK: lambda m: m.marks.append(len(m.stack)),
    pickle.POP: lambda m: m.pop(),
    pickle.POP_MARK: lambda m: m.items(),
    pickle.NONE: lambda m: m.push(None),
    pickle.NEWTRUE: lambda m: m.push(True),
    pickle.NEWFALSE: lambda m: m.push(False),
    pickle.INT: _Machine.integer,
    pickle.LONG: lambda m: m.push(m.whole()),
    pickle.BININT: lambda m: m.push(m.number("i")),
    pickle.BININT1: lambda m: m.push(m.number("B")),
    pickle.BININT2: lambda m: m.push(m.number("H")),
    pickle.LONG1: lambda m: m.push(int.from_bytes(m.payload("B"), "little", signed=True)),
    pickle.FLOAT: lambda m: m.push(float(m.line(40))),
    pickle.BINFLOAT: lambda m: m.push(struct.unpack(">d", m.take(8))[0]),
    pickle.STRING: _Machine.string,
    pickle.BINSTRING: lambda m: m.push(m.text(m.payload("i"), "latin-1")),
    pickle.SHORT_BINSTRING: lambda m: m.push(m.text(m.payload("B"), "latin-1")),
    pickle.UNICODE: lambda m: m.push(m.text(m.counted(m.line(MAX_FILE_BYTES)), "raw-unicode-escape")),
    pickle.BINUNICODE: lambda m: m.push(m.text(m.payload("I"))),
    pickle.SHORT_BINUNICODE: lambda m: m.push(m.text(m.payload("B"))),
    pickle.BINUNICODE8: lambda m: m.push(m.text(m.payload("Q"))),
    pickle.BINBYTES: lambda m: m.push(m.payload("I")),
    pickle.SHORT_BINBYTES: lambda m: m.push(m.payload("B")),
    pickle.BINBYTES8: lambda m: m.push(m.payload("Q")),
    pickle.BYTEARRAY8: lambda m: m.push(m.payload("Q")),
    pickle.EMPTY_LIST: lambda m: m.push([]),
    pickle.LIST: lambda m: m.push(m.items()),
    pickle.APPEND: _Machine.append,
    pickle.APPENDS: _Machine.extend,
    pickle.EMPTY_TUPLE: lambda m: m.push(()),
    pickle.TUPLE: lambda m: m.push(tuple(m.items())),
    pickle.TUPLE1: lambda m: m.take_tuple(1),
    pickle.TUPLE2: lambda m: m.take_tuple(2),
    pickle.TUPLE3: lambda m: m.take_tuple(3),
    pickle.EMPTY_DICT: lambda m: m.push({}),
    pickle.DICT: _Machine.dict_of_items,
    pickle.SETITEM: _Machine.set_item,
    pickle.SETITEMS: _Machine.set_items,
    pickle.EMPTY_SET: lambda m: m.push(DroppedSet()),
    pickle.ADDITEMS: _Machine.add_items,
    pickle.PUT: lambda m: m.remember(m.whole()),
    pickle.BINPUT: lambda m: m.remember(m.number("B")),
    pickle.LONG_BINPUT: lambda m: m.remember(m.number("I")),
    pickle.MEMOIZE: lambda m: m.remember(len(m.memo)),
    pickle.GET: lambda m: m.recall(m.whole()),
    pickle.BINGET: lambda m: m.recall(m.number("B")),
    pickle.LONG_BINGET: lambda m: m.recall(m.number("I")),
    pickle.GLOBAL: _Machine.global_name,
    pickle.STACK_GLOBAL: _Machine.stack_name,
    pickle.INST: _Machine.instance,
    pickle.NEWOBJ: _Machine.new,
    pickle.REDUCE: _Machine.call,
    pickle.BUILD: _Machine.build,
}
# What the pickle module knows and no MANO file has, by the names it gives them.
_REFUSED = {
    pickle.DUP: "opcode DUP",
    pickle.OBJ: "opcode OBJ",
    pickle.NEWOBJ_EX: "opcode NEWOBJ_EX",
    pickle.PERSID: "a persistent id (PERSID)",
    pickle.BINPERSID: "a persistent id (BINPERSID)",
    pickle.EXT1: "the extension registry (EXT1)",
    pickle.EXT2: "the extension registry (EXT2)",
    pickle.EXT4: "the extension registry (EXT4)",
    pickle.LONG4: "a number of more than 255 bytes (LONG4)",
    pickle.FROZENSET: "opcode FROZENSET",
    pickle.NEXT_BUFFER: "a buffer outside the file (NEXT_BUFFER)",
    pickle.READONLY_BUFFER: "a buffer outside the file (READONLY_BUFFER)",
}
