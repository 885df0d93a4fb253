"""Mutated MANO files, many: no code runs, no error but the documented one, no memory above the stated cap."""

from __future__ import annotations

import json
import pickle
import pickletools
import random
import subprocess
import sys
import warnings
from collections import Counter
from pathlib import Path

import pytest

MUTANTS = 24_000
# Opening files takes longer than reading them: of so many mutants one goes through a file, the others from memory.
FILE_EVERY = 20
CAP = 256 * 2**20
# A module that leaves a mark when it is imported or called.
CANARY = """
from pathlib import Path
def fire(*arguments):
    Path(__file__).with_name("fired").write_text("fired")
fire()
"""


def text(value):
    raw = value.encode()
    return pickle.SHORT_BINUNICODE + bytes([len(raw)]) + raw


def named(module, name):
    """Both ways to ask for a name, and the old one that calls it at once."""
    return [
        pickle.GLOBAL + f"{module}\n{name}\n".encode(),
        text(module) + text(name) + pickle.STACK_GLOBAL,
        pickle.MARK + text("argument") + pickle.INST + f"{module}\n{name}\n".encode(),
    ]


def hostile():
    """Pieces of pickles that would run something, allocate much or confuse a reader."""
    wanted = [
        ("os", "system"), ("posix", "system"), ("builtins", "eval"), ("__builtin__", "exec"), ("builtins", "getattr"),
        ("texalign_canary", "fire"), ("numpy", "ndarray.tofile"), ("numpy", "load"), ("numpy", "save"),
        ("numpy.core.multiarray", "scalar"), ("numpy.f2py", "compile"), ("scipy.sparse", "csc_matrix"),
        ("chumpy.ch", "ChLambda"), ("copyreg", "__newobj__"), ("_codecs", "decode"), ("builtins", "bytearray"),
        ("collections", "OrderedDict"), ("subprocess", "Popen"),
    ]  # fmt: skip
    pieces = [piece for module, name in wanted for piece in named(module, name)]
    calls = [piece + text("true") + pickle.TUPLE1 + pickle.REDUCE for piece in pieces[::2]]
    calls += [piece + pickle.EMPTY_TUPLE + pickle.NEWOBJ for piece in pieces[1::5]]
    array, kind, rebuild = (
        pickle.GLOBAL + name
        for name in (b"numpy\nndarray\n", b"numpy\ndtype\n", b"numpy.core.multiarray\n_reconstruct\n")
    )
    objects = kind + text("O8") + pickle.NEWFALSE + pickle.NEWTRUE + pickle.TUPLE3 + pickle.REDUCE
    huge = pickle.BININT + b"\xff\xff\xff\x7f"
    giant = rebuild + array + pickle.BININT1 + b"\0" + pickle.TUPLE1 + text("b") + pickle.TUPLE3 + pickle.REDUCE
    giant += pickle.MARK + pickle.BININT1 + b"\1" + pickle.MARK + huge * 4 + pickle.TUPLE + objects + pickle.NEWFALSE
    giant += text("") + pickle.TUPLE + pickle.BUILD
    encode = pickle.GLOBAL + b"_codecs\nencode\n" + text("a") + text("latin1") + pickle.TUPLE2 + pickle.REDUCE
    shell = pickle.GLOBAL + b"chumpy.ch\nCh\n" + pickle.EMPTY_TUPLE + pickle.NEWOBJ
    itself = shell + pickle.MEMOIZE + pickle.EMPTY_DICT + text("x") + pickle.BINGET + b"\0" + pickle.SETITEM
    laughs = pickle.EMPTY_TUPLE + (pickle.MEMOIZE + pickle.BINGET + b"\0" + pickle.TUPLE2) * 30
    more = [
        objects, giant, encode, encode * 50, shell + pickle.EMPTY_DICT + pickle.BUILD, itself + pickle.BUILD, laughs,
        laughs + pickle.DUP * 40, kind + text("f8") * 3 + pickle.TUPLE3 + pickle.REDUCE + pickle.NONE + pickle.BUILD,
        pickle.LONG_BINPUT + b"\xff" * 4, pickle.PUT + b"99999999999999999999\n", pickle.PUT + b"9" * 5000 + b"\n",
        pickle.LONG_BINGET + b"\xff" * 4, pickle.BINBYTES8 + b"\xff" * 7 + b"\x7f", pickle.BINBYTES + b"\xff" * 4,
        pickle.BINSTRING + b"\xff" * 4, pickle.BYTEARRAY8 + b"\xff" * 8, pickle.BINUNICODE8 + b"\xff" * 8,
        pickle.LONG4 + b"\xff\xff\xff\x7f", pickle.LONG1 + b"\xff" + b"\x7f" * 255, pickle.FRAME + b"\xff" * 8,
        pickle.INT + b"9" * 6000 + b"\n", pickle.LONG + b"9" * 6000 + b"L\n", pickle.FLOAT + b"1e400\n",
        pickle.STRING + b"'\\d\\9\\N{DASH}'\n", pickle.UNICODE + b"\\U0010ffff" * 20 + b"\n", pickle.DUP * 20,
        pickle.PERSID + b"1\n", pickle.BINPERSID, pickle.EXT1 + b"\1", pickle.EXT2 + b"\1\0", pickle.EXT4 + b"\1\0\0\0",
        pickle.NEXT_BUFFER, pickle.READONLY_BUFFER, pickle.MARK * 200, pickle.MARK + pickle.OBJ, pickle.NEWOBJ_EX,
        pickle.EMPTY_LIST * 500 + pickle.APPEND * 499, pickle.POP * 3, pickle.POP_MARK, pickle.BUILD, pickle.REDUCE,
        pickle.EMPTY_SET + pickle.MARK + pickle.NONE + pickle.ADDITEMS, pickle.MARK + pickle.FROZENSET, pickle.SETITEMS,
        pickle.EMPTY_DICT + laughs + pickle.NONE + pickle.SETITEM, pickle.STOP, pickle.PROTO + b"\xff",
        pickle.STACK_GLOBAL,
    ]  # fmt: skip
    return pieces, [*calls, *more]


def boundaries(data):
    """Where opcodes begin, as far as they can be told."""
    found = []
    try:
        for _, _, position in pickletools.genops(data):
            found.append(position)
    except ValueError:  # Python 2's text in lines is not ASCII
        found += [match for match in range(len(data)) if data[match - 1 : match] == b"\n"]
    return found


class Mutator:
    def __init__(self, files, seed):
        self.random = random.Random(seed)
        self.files = files
        self.places = [boundaries(data) if data[:2] != b"PK" else list(range(0, len(data), 50)) for data in files]
        # Bytes of long payloads seldom decide anything.
        self.skeleton = []
        for data, places in zip(files, self.places):
            ends = [*places[1:], len(data)]
            self.skeleton.append([at for start, end in zip(places, ends) for at in range(start, min(end, start + 40))])
        self.pieces, self.fragments = hostile()
        self.kinds = [self.flip, self.flip, self.cut, self.splice, self.insert, self.insert, self.rename, self.shuffle]
        self.kinds += [self.overwrite]

    def mutant(self):
        self.index = self.random.randrange(len(self.files))
        self.spots = self.places[self.index]
        data = bytearray(self.files[self.index])
        kinds = self.random.sample(self.kinds, self.random.choice((1, 1, 1, 2, 3)))
        for kind in kinds:
            kind(data)
        return bytes(data), "+".join(sorted(kind.__name__ for kind in kinds))

    def spot(self, data):
        return min(self.random.choice(self.spots), len(data))

    def flip(self, data):
        for _ in range(self.random.choice((1, 1, 2, 8))):
            everywhere = self.random.random() < 0.2
            at = self.random.randrange(len(data)) if everywhere else self.random.choice(self.skeleton[self.index])
            if at < len(data):
                data[at] ^= 1 << self.random.randrange(8)

    def cut(self, data):
        del data[self.random.randrange(len(data)) if self.random.random() < 0.5 else self.spot(data) :]
        data += self.random.choice((b"", b".", b"u.", b"0."))

    def splice(self, data):
        other = self.random.randrange(len(self.files))
        data[self.spot(data) :] = self.files[other][self.random.choice(self.places[other]) :]

    def insert(self, data):
        at = self.spot(data)
        # Dropped again, a piece leaves the rest of the file as it was: all of it is read.
        end = self.random.choice((b"", b"", pickle.POP))
        data[at:at] = self.random.choice(self.fragments) + end

    def rename(self, data):
        places = [at for at in self.spots if data[at : at + 1] in (pickle.GLOBAL, pickle.STACK_GLOBAL)]
        if not places:
            return self.insert(data)
        at = self.random.choice(places)
        lines = data[at : at + 200].split(b"\n")
        length = len(lines[0]) + len(lines[1]) + 2 if data[at : at + 1] == pickle.GLOBAL and len(lines) > 2 else 1
        data[at : at + length] = self.random.choice(self.pieces)
        return None

    def shuffle(self, data):
        start, end = sorted((self.spot(data), self.spot(data)))
        end = min(end, start + self.random.choice((1, 20, 400, 20_000)))
        piece = data[start:end]
        if self.random.random() < 0.5:
            del data[start:end]
        at = self.spot(data)
        data[at:at] = piece

    def overwrite(self, data):
        opcodes = [opcode.code.encode("latin-1") for opcode in pickletools.opcodes]
        at = self.spot(data)
        data[at : at + 1] = self.random.choice(opcodes)


def bases():
    import mano_files

    plain = mano_files.small_fields()
    files = [
        mano_files.pickled(mano_files.typed(plain), protocol, python) for python in (2, 3) for protocol in (0, 1, 2)
    ]
    files += [mano_files.pickled(mano_files.typed(plain), protocol) for protocol in (3, 4, 5)]
    files += [mano_files.pickled(plain, protocol) for protocol in (2, 5)]
    return [*files, mano_files.archived(plain)]


def child(folder, seed, count):
    """Load mutants and print what happened, as JSON."""
    import resource

    from texalign import mano

    files = bases()
    path = folder / "mutant.pkl"
    for data in files:  # each way of reading once: what is imported late is imported now
        path.write_bytes(data)
        mano.load(path)
    mutator = Mutator(files, seed)
    events, watching = [], False

    def hook(event, arguments):
        if watching and not (event == "open" and arguments[0] == str(path)):
            events.append(f"{event} {arguments!r}"[:300])

    sys.addaudithook(hook)
    outcomes, wrong, kinds = Counter(), [], Counter()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        for number in range(count):
            data, kind = mutator.mutant()
            kinds.update(kind.split("+"))
            as_file = number % FILE_EVERY == 0
            if as_file:
                path.write_bytes(data)
            watching = True
            try:
                mano.load(path) if as_file else mano._parse(data, path)
                outcome = "read"
            except mano.ManoFileError:
                outcome = "refused"
            except BaseException as error:
                outcome = "wrong"
                wrong.append(f"{number} {kind}: {error!r}")
            watching = False
            outcomes[outcome] += 1
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    unit = 1 if sys.platform == "darwin" else 1024
    report = dict(outcomes=outcomes, kinds=kinds, wrong=wrong[:20], events=events[:20], grown=(after - before) * unit)
    print(json.dumps({**report, "warnings": [str(warning.message) for warning in said][:20]}))


@pytest.mark.skipif(sys.platform == "win32", reason="the resource module, which measures memory, is not on Windows")
def test_mutants_run_nothing_and_fail_in_one_way(tmp_path):
    (tmp_path / "texalign_canary.py").write_text(CANARY)
    here = Path(__file__).parent
    parts = [
        "import sys",
        f"sys.path[:0] = [{str(here)!r}, {str(tmp_path)!r}]",
        "import pathlib, test_mano_fuzz as fuzz",
    ]
    code = "; ".join([*parts, f"fuzz.child(pathlib.Path({str(tmp_path)!r}), 0, {MUTANTS})"])
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    report = json.loads(done.stdout)
    assert report["wrong"] == [] and report["warnings"] == []
    assert report["events"] == []  # no import, no exec, no process, no file but the mutant
    assert not (tmp_path / "fired").exists()
    assert report["grown"] < CAP
    # Some mutants are still whole files, most are not, and there were many of each kind.
    assert report["outcomes"]["refused"] > MUTANTS / 2 and report["outcomes"]["read"] > MUTANTS / 50
    assert sum(report["outcomes"].values()) == MUTANTS >= 20_000
    assert min(report["kinds"].values()) > MUTANTS / 30


def test_the_canary_would_be_seen(tmp_path):
    """An ordinary unpickler sets it off."""
    (tmp_path / "texalign_canary.py").write_text(CANARY)
    (tmp_path / "file.pkl").write_bytes(named("texalign_canary", "fire")[0] + pickle.STOP)
    code = "import pickle, sys; sys.path.insert(0, '.'); pickle.load(open('file.pkl', 'rb'))"
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True)
    assert (tmp_path / "fired").exists()
