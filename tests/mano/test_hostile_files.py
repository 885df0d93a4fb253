"""Mutated MANO files and files that ask for memory: nothing runs, one error, no more memory than is promised."""

from __future__ import annotations

import contextlib
import io
import json
import pickle
import pickletools
import random
import subprocess
import sys
import tracemalloc
import zipfile
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

import mano_files
from texalign import mano

CAP = 256 * 2**20  # what `load` promises
# A module that leaves a mark when it is imported or called.
CANARY = """
from pathlib import Path
def fire(*arguments):
    Path(__file__).with_name("fired").write_text("fired")
fire()
"""
ENCODE = pickle.GLOBAL + b"_codecs\nencode\n"
ARRAY = pickle.GLOBAL + b"numpy.core.multiarray\n_reconstruct\n" + pickle.GLOBAL + b"numpy\nndarray\nK\0\x85U\1b\x87R"
KIND = pickle.GLOBAL + b"numpy\ndtype\n"
CH = pickle.GLOBAL + b"chumpy.ch\nCh\n)" + pickle.NEWOBJ
HUGE = pickle.BININT + b"\xff\xff\xff\x7f"
LAUGHS = b")" + (pickle.MEMOIZE + pickle.BINGET + b"\0" + pickle.TUPLE2) * 30


def text(value):
    return pickle.SHORT_BINUNICODE + bytes([len(value)]) + value.encode()


def requests():
    """Names in all three ways to ask for one; the last calls it at once."""
    names = "os.system builtins.eval __builtin__.exec builtins.getattr texalign_canary.fire numpy.load numpy.save "
    names += (
        "numpy.core.multiarray.scalar scipy.sparse.csc_matrix chumpy.ch.ChLambda copyreg.__newobj__ subprocess.Popen"
    )
    for module, name in (name.rsplit(".", 1) for name in names.split()):
        yield pickle.GLOBAL + f"{module}\n{name}\n".encode()
        yield text(module) + text(name) + pickle.STACK_GLOBAL
        yield pickle.MARK + text("argument") + pickle.INST + f"{module}\n{name}\n".encode()


def fragments():
    """Pieces of pickles that would run something, allocate much or confuse a reader."""
    asked = list(requests())
    yield from (piece + text("true") + pickle.TUPLE1 + pickle.REDUCE for piece in asked[::2])
    yield from (piece + pickle.EMPTY_TUPLE + pickle.NEWOBJ for piece in asked[1::5])
    objects = KIND + text("O8") + pickle.NEWFALSE + pickle.NEWTRUE + pickle.TUPLE3 + pickle.REDUCE
    encode = ENCODE + text("a") + text("latin1") + pickle.TUPLE2 + pickle.REDUCE
    itself = CH + pickle.MEMOIZE + pickle.EMPTY_DICT + text("x") + pickle.BINGET + b"\0" + pickle.SETITEM
    yield from (objects, ARRAY + b"(K\1(" + HUGE * 4 + b"t" + objects + b"\x89" + text("") + b"tb", encode, encode * 50)
    yield from (CH + b"}b", itself + b"b", KIND + b"}" + text("x") + b"Nsb")
    yield from (LAUGHS, b"}" + LAUGHS + b"Ns", pickle.EMPTY_SET + b"(" + LAUGHS + b"\x90")
    yield from (b"F1e400\n", b"S'\\d\\9\\N{DASH}'\n", b"V" + b"\\U0010ffff" * 20 + b"\n", b"(" * 200, b"0" * 3)
    yield from (pickle.LONG1 + b"\xff" + b"\x7f" * 255, pickle.EMPTY_LIST * 500 + b"a" * 499, b"(" + pickle.OBJ)
    for opcode in pickletools.opcodes:  # alone, with a length out of reach, and with a line too long
        for argument in (b"", HUGE[1:] * 2, b"9" * 6000 + b"\n"):
            yield opcode.code.encode("latin-1") + argument


class Mutator:
    """Draws one of the files and changes it in one to three ways."""

    def __init__(self, seed):
        plain = mano_files.small_fields()
        typed = mano_files.typed(plain)
        self.files = [mano_files.pickled(typed, protocol, python=2) for protocol in range(3)]
        self.files += [mano_files.pickled(typed, protocol) for protocol in range(6)]
        self.files += [mano_files.pickled(plain, 2), mano_files.pickled(plain, 5), mano_files.archived(plain)]
        self.places = [self.opcodes(data) for data in self.files]
        self.random = random.Random(seed)
        self.requests, self.fragments = list(requests()), list(fragments())

    @staticmethod
    def opcodes(data):
        """Where opcodes begin, as far as they can be told."""
        if data[:2] == b"PK":
            return list(range(0, len(data), 50))
        with contextlib.suppress(ValueError):
            return [position for _, _, position in pickletools.genops(data)]
        return [at for at in range(1, len(data)) if data[at - 1 : at] == b"\n"]  # Python 2's text is not ASCII

    def mutant(self):
        index = self.random.randrange(len(self.files))
        self.spots, data = self.places[index], bytearray(self.files[index])
        kinds = [self.flip, self.flip, self.cut, self.splice, self.insert, self.insert, self.rename]
        for kind in self.random.sample(kinds, self.random.choice((1, 1, 1, 2, 3))):
            kind(data)
        return bytes(data)

    def spot(self, data):
        return min(self.random.choice(self.spots), len(data))

    def flip(self, data):
        for _ in range(self.random.choice((1, 1, 2, 8))):
            # Bytes of long payloads seldom decide anything.
            at = self.spot(data) + self.random.choice((0, 0, 1, 2, 5, 30, 1000))
            if at < len(data):
                data[at] ^= 1 << self.random.randrange(8)

    def cut(self, data):
        del data[self.spot(data) + self.random.choice((0, 1, 50)) :]
        data += self.random.choice((b"", b".", b"u.", b"0."))

    def splice(self, data):
        other = self.random.randrange(len(self.files))
        data[self.spot(data) :] = self.files[other][self.random.choice(self.places[other]) :]

    def insert(self, data):
        at = self.spot(data)
        # Dropped again, a piece leaves the rest of the file as it was: all of it is read.
        data[at:at] = self.random.choice(self.fragments) + self.random.choice((b"", b"", pickle.POP))

    def rename(self, data):
        places = [at for at in self.spots if data[at : at + 1] in (pickle.GLOBAL, pickle.STACK_GLOBAL)]
        at = self.random.choice(places or self.spots)
        lines = data[at : at + 200].split(b"\n")
        length = len(lines[0]) + len(lines[1]) + 2 if data[at : at + 1] == pickle.GLOBAL and len(lines) > 2 else 1
        data[at : at + length] = self.random.choice(self.requests)


class Watch:
    """Keeps what Python reports (imports, files, processes, …) between `with` and its end."""

    def __init__(self, path):
        self.path, self.on, self.seen = str(path), False, []
        sys.addaudithook(self.hook)

    def hook(self, event, arguments):
        if self.on and not (event == "open" and str(arguments[0]) == self.path):
            self.seen.append(f"{event} {arguments!r}"[:300])

    def __enter__(self):
        self.on = True

    def __exit__(self, *_):
        self.on = False


def read_mutants(folder, count):
    """Load mutants: how many were read and refused, what else was raised, what Python reported."""
    path, mutator = folder / "mutant.pkl", Mutator(seed=0)
    for data in mutator.files:  # each way of reading once: what is imported late is imported now
        path.write_bytes(data)
        mano.load(path)
    watch, outcomes, wrong = Watch(path), Counter(), []
    for number in range(count):
        path.write_bytes(mutator.mutant())
        try:
            with watch:
                mano.load(path)
            outcomes["read"] += 1
        except mano.ManoFileError:
            outcomes["refused"] += 1
        except BaseException as error:
            wrong.append(f"{number}: {error!r}")
    return dict(outcomes=outcomes, wrong=wrong[:20], events=watch.seen[:20])


def check(report, count, folder):
    assert report["wrong"] == []
    assert report["events"] == []  # no import, no exec, no process, no file but the mutant
    assert not (folder / "fired").exists()
    # Some mutants are still whole files, most are not.
    assert report["outcomes"]["refused"] > count / 2 and report["outcomes"]["read"] > count / 50


@pytest.fixture
def canary(tmp_path, monkeypatch):
    (tmp_path / "texalign_canary.py").write_text(CANARY)
    monkeypatch.syspath_prepend(tmp_path)


@pytest.mark.filterwarnings("ignore:invalid escape sequence:DeprecationWarning")
def test_mutants_run_nothing_and_fail_in_one_way(tmp_path, canary):
    check(read_mutants(tmp_path, 1_000), 1_000, tmp_path)
    # An ordinary unpickler sets the canary off.
    watch = Watch(tmp_path / "none")
    with watch:
        pickle.loads(next(piece for piece in requests() if b"texalign_canary" in piece) + pickle.STOP)
    assert (tmp_path / "fired").exists() and "texalign_canary" in str(watch.seen)
    del sys.modules["texalign_canary"]


def small_bombs():
    """Names and bytes of files that claim much in a few bytes."""
    yield "memo", b"N" + pickle.LONG_BINPUT + b"\xff" * 4 + b"."
    yield "length of bytes", pickle.BINBYTES8 + b"\xff" * 7 + b"\x7f."
    yield "length of a bytearray", pickle.BYTEARRAY8 + (2**33).to_bytes(8, "little") + b"."
    yield "key", pickle.EMPTY_DICT + LAUGHS + b"Ns."
    once = pickle.BINUNICODE + (10**6).to_bytes(4, "little") + b"a" * 10**6 + pickle.BINPUT + b"\0"
    again = ENCODE + pickle.BINGET + b"\0" + text("latin1") + pickle.TUPLE2 + pickle.REDUCE
    yield "encoded again and again", pickle.MARK + once + again * 200 + pickle.LIST + b"."
    fields = mano_files.small_fields()
    state = ARRAY + b"(K\1(" + HUGE * 3 + b"t" + KIND + text("f8") + b"\x85R\x89" + text("") + b"tb"
    yield "shape", mano_files.pickled({**fields, "f": 0}, 2).replace(b"K\0", state, 1)
    yield "zeros in an archive", mano_files.archived({**fields, "hands_coeffs": np.zeros((10**5, 45))})
    claim = io.BytesIO()
    np.lib.format.write_array_header_1_0(claim, dict(descr="<f8", fortran_order=False, shape=(9_999_999, 45)))
    yield "claim in an archive", archive_of(claim.getvalue() + bytes(720), zipfile.ZIP_DEFLATED)
    yield "another compression", archive_of(bytes(10**7), zipfile.ZIP_LZMA)


def large_bombs():
    """Names and bytes of files of many megabytes; the last two are read."""
    mebi, wide = 2**20, "😀".encode()
    yield "number", pickle.INT + b"9" * 10**7 + b"\n."
    yield "depth", pickle.EMPTY_LIST * 49_000 + pickle.APPEND * 48_999 + b"."
    yield "deep key", pickle.EMPTY_DICT + b")" + pickle.TUPLE1 * 90_000 + b"Ns."
    yield "dicts", pickle.MARK + pickle.EMPTY_DICT * 10**7 + pickle.LIST + b"."
    yield "wide text", pickle.BINUNICODE + (30 * mebi + 4).to_bytes(4, "little") + b"a" * 30 * mebi + wide + b"."
    yield "escapes", pickle.STRING + b"'" + b"\\x00" * (8 * mebi - 10) + b"'\n."
    local, central = b"PK\3\4" + bytes(26), b"PK\1\2" + bytes(24) + b"\1" + bytes(17) + b"a"
    end = b"PK\5\6" + bytes(4) + b"\xff\xff" * 2 + (300_000 * len(central)).to_bytes(4, "little")
    yield "members", local + central * 300_000 + end + len(local).to_bytes(4, "little") + b"\0\0"
    one, joints = np.zeros((10_000, 3, 135), np.float16), np.zeros((10_000, 45), np.float16)
    fields = {**mano_files.small_fields(), "v_template": one[:, :, 0], "shapedirs": one[:, :, :100], "posedirs": one}
    fields |= {"weights": joints[:, :16], "hands_coeffs": joints, "J_regressor": joints[:, :16].T}
    yield "the largest model", mano_files.pickled(fields, 5)
    # Every large field picks one number four million times, thrice over, beside as much wide text as will fit.
    for name in ("shapedirs", "posedirs"):
        idxs, value = np.zeros(fields[name].size, np.int8), np.zeros(1)
        for _ in range(3):
            value = mano_files.Select(a=value, idxs=idxs, preferred_shape=fields[name].shape)
        fields[name] = value
    fields["posedirs"].more = "a" * 22 * mebi + "😀"
    yield "selections of selections", mano_files.pickled(fields, 5)


def archive_of(data, compression):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as archive:
        archive.writestr("hands_coeffs.npy", data)
    return buffer.getvalue()


def test_claims_allocate_nothing(tmp_path):
    path = tmp_path / "MANO_RIGHT.pkl"
    for name, data in small_bombs():
        path.write_bytes(data)
        tracemalloc.start()
        try:
            with pytest.raises(mano.ManoFileError):
                mano.load(path)
            assert tracemalloc.get_traced_memory()[1] < 40 * 2**20, name
        finally:
            tracemalloc.stop()


def child(folder):
    """Load mutants and bombs, and print what happened as JSON, with the process's growth in bytes."""
    import resource

    report = read_mutants(folder, 24_000)
    unit = 1 if sys.platform == "darwin" else 1024
    before, grown, read = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, {}, []
    for path in sorted(folder.glob("*.bomb")):
        with contextlib.suppress(mano.ManoFileError):
            mano.load(path)
            read.append(path.stem)
        grown[path.stem] = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * unit
    print(json.dumps({**report, "grown": grown, "read": read}))


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="the resource module, which measures memory, is not on Windows")
def test_many_mutants_and_the_memory_of_a_process(tmp_path, canary):
    for name, data in [*small_bombs(), *large_bombs()]:
        (tmp_path / f"{name}.bomb").write_bytes(data)
    here = Path(__file__).parent
    paths = [str(here), str(here.parent), str(tmp_path)]
    code = f"import sys; sys.path[:0] = {paths}; import pathlib, test_hostile_files as hostile; "
    code += f"hostile.child(pathlib.Path({str(tmp_path)!r}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    report = json.loads(done.stdout)
    check(report, 24_000, tmp_path)
    assert report["read"] == ["selections of selections", "the largest model"]
    assert max(report["grown"].values()) < CAP, report["grown"]
