"""The file with the detector's models that current releases of MediaPipe need."""

from __future__ import annotations

import contextlib
import hashlib
import os
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

from texalign._internal import expect, write_whole

WHO = "detect_hands"
URL = "https://storage.googleapis.com/mediapipe-models/hand_landmarker/hand_landmarker/float16/1/hand_landmarker.task"
SHA256 = "fbc2a30080c3c557093b5ddfc334698132eb341044ccee322ccf8bcf3607cde1"
_BYTES = 7_819_105
_SECONDS, _CHUNK = 20, 1 << 16


def model_file(path: str | Path | None) -> Path:
    """The file given, or the one in the user's cache, fetched with a progress bar if it is not there yet.

    Raises:
        OSError: no such file, or it cannot be fetched: the message says how to come by it.
        ValueError: what was fetched is not the model.
    """
    if path is not None:
        if not Path(path).is_file():
            raise FileNotFoundError(f"{WHO}: expected MediaPipe's hand_landmarker.task in {path}, got no such file")
        return Path(path)
    cached = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "texalign" / "hand_landmarker.task"
    # Whole files only are put there; a size that differs is another model of this name.
    if not cached.is_file() or cached.stat().st_size != _BYTES:
        cached.parent.mkdir(parents=True, exist_ok=True)
        content = _fetched()
        digest = hashlib.sha256(content).hexdigest()
        expect(digest == SHA256, WHO, f"a file of SHA-256 {SHA256} at {URL}", f"{len(content)} bytes of {digest}")
        write_whole(cached, lambda partial: partial.write_bytes(content))
    return cached


def _fetched() -> bytes:
    content = bytearray()
    try:
        with urllib.request.urlopen(URL, timeout=_SECONDS) as answer, _progress() as told:
            while chunk := answer.read(_CHUNK):
                content += chunk
                told(len(chunk))
                if len(content) > _BYTES:
                    break
    except OSError as error:  # of the network; a time that runs out is one as well
        raise OSError(
            f"{WHO}: MediaPipe's hand model could not be fetched from {URL} ({error}). Fetch it by hand and give it as "
            'model (--model FILE on the command line), or pip install "mediapipe<=0.10.21", which holds one, or give '
            "keypoints of your own"
        ) from error
    return bytes(content)


@contextlib.contextmanager
def _progress() -> Iterator[Callable[[int], object]]:
    """A function of bytes that came: of tqdm's bar if it is installed, else silent."""
    try:
        from tqdm import tqdm
    except ImportError:
        yield lambda count: None
    else:
        with tqdm(total=_BYTES, unit="B", unit_scale=True, desc="MediaPipe's hand model") as bar:
            yield bar.update
