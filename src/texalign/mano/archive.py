"""Reading `.npz` files without `numpy.load`: it allocates what a header claims and inflates without a limit."""

from __future__ import annotations

import io
import re
import zipfile
from collections.abc import Collection

import numpy as np

from texalign.mano.arrays import MAX_FILE_BYTES, array_of, demand, number_type, refuse, shown

MAX_MEMBERS = 100
# What numpy writes, and nothing that would have to be evaluated.
_HEADER = re.compile(
    r"\{'descr': '([^']{1,8})', 'fortran_order': (True|False), 'shape': \(((?:\d{1,12}(?:, ?)?)*,?)\), \}\s*"
)


def read_archive(data: bytes, names: Collection[str]) -> dict[str, np.ndarray]:
    """The arrays called `names` that an `.npz` holds; other members are not looked at.

    Raises:
        ManoFileError: objects, text or records where numbers should be, or more than `MAX_FILE_BYTES` in all.
    """
    # zipfile makes an object of every entry before anyone can count them; each begins with these bytes.
    demand(data.count(b"PK\1\2") <= MAX_MEMBERS, f"at most {MAX_MEMBERS} members", "more")
    arrays: dict[str, np.ndarray] = {}
    left = MAX_FILE_BYTES
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        for member in archive.infolist():
            name = member.filename.removesuffix(".npy")
            if name not in names:
                continue
            known = member.compress_type in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
            demand(known, "stored or deflated members", f"compression method {member.compress_type}")
            demand(name not in arrays, f"{name} once", "two of them")
            demand(member.file_size <= left, f"at most {MAX_FILE_BYTES} bytes in all", "more")
            left -= member.file_size
            with archive.open(member) as file:
                arrays[name] = _array(file.read(member.file_size), name)
    return arrays


def _array(data: bytes, name: str) -> np.ndarray:
    """An array in numpy's own format, versions 1 to 3: magic number, header's length, header, numbers."""
    demand(data[:6] == b"\x93NUMPY" and data[6] in (1, 2, 3), f"{name} in numpy's format", shown(data[:8]))
    start = 10 if data[6] == 1 else 12
    end = start + int.from_bytes(data[8:start], "little")
    header = data[start:end].decode("latin-1")
    found = _HEADER.fullmatch(header) if len(header) < 1000 else None
    if found is None:
        refuse(f"{name} to be a plain array", f"the header {shown(header)}")
    dtype = number_type(found[1])
    shape = tuple(int(size) for size in found[3].split(",") if size.strip())
    return array_of(data[end:], dtype, shape, "F" if found[2] == "True" else "C")
