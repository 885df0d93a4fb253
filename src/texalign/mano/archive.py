"""Reading `.npz` files without `numpy.load`, which inflates without a limit."""

from __future__ import annotations

import io
import re
import zipfile
from collections.abc import Collection

import numpy as np

from texalign.mano.arrays import MAX_FILE_BYTES, ManoFileError, array_of, demand, number_type, shown

MAX_MEMBERS = 100
# What numpy writes in versions 1 to 3 of its format, and nothing that would have to be evaluated.
_HEADER = re.compile(
    rb"\x93NUMPY(?:\x01\x00..|[\x02\x03]\x00....)"
    rb"\{'descr': '([^']{1,8})', 'fortran_order': (True|False), 'shape': \(((?:\d{1,12}(?:, ?)?)*,?)\), \} *\n",
    re.DOTALL,
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
            # The other methods inflate a member as a whole, whatever size it claims.
            known = member.compress_type in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
            demand(known, "stored or deflated members", f"compression method {member.compress_type}")
            demand(member.file_size <= left, f"at most {MAX_FILE_BYTES} bytes in all", "more")
            left -= member.file_size
            with archive.open(member) as file:
                raw = file.read(member.file_size)
            header = _HEADER.match(raw[:1000])
            if header is None:
                raise ManoFileError(f"expected {name} to be an array of numbers, got {shown(raw[:100])}")
            code, order, sizes = (part.decode("latin-1") for part in header.groups())
            shape = tuple(int(size) for size in sizes.split(",") if size.strip())
            arrays[name] = array_of(number_type(code), shape, memoryview(raw)[header.end() :], order == "True")
    return arrays
