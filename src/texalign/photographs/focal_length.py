from __future__ import annotations

import math
from pathlib import Path

from texalign._internal import MissingExtraError

# Millimetres: the diagonal of 35 mm film, to which cameras convert.
_FILM_DIAGONAL = math.hypot(36, 24)
# Of EXIF: the tag itself, and where it lies.
_IN_35MM_FILM, _EXIF = 0xA405, 0x8769
# Millimetres of 35 mm film, between a fish eye and the longest telephoto lenses.
_SHORTEST, _LONGEST = 5, 2000


def read_focal(path: str | Path) -> float | None:
    """The focal length in pixels that a photograph's EXIF tells (FocalLengthIn35mmFilm), or None. Needs pillow.

    Converted by the diagonal, as the standard of camera makers (CIPA DCG-001) has it. A photograph that was cropped
    after it was taken still tells the whole one's, which is then too short.

    Raises:
        MissingExtraError: pillow is not installed.

    Example:
        >>> from PIL import Image
        >>> exif = Image.Exif()
        >>> exif.get_ifd(0x8769)[0xA405] = 28  # mm, as a phone writes it
        >>> Image.new("RGB", (400, 300)).save("photo.jpg", exif=exif)
        >>> round(read_focal("photo.jpg"))
        324
    """
    try:
        from PIL import Image
    except ImportError as error:
        raise MissingExtraError('reading photographs needs pillow: pip install "texalign[demo]"') from error
    try:
        with Image.open(path) as picture:
            film, diagonal = float(picture.getexif().get_ifd(_EXIF).get(_IN_35MM_FILM, 0)), math.hypot(*picture.size)
    except Exception:  # EXIF that cannot be read tells nothing; whether this is an image, `read_image` says
        return None
    return film * diagonal / _FILM_DIAGONAL if _SHORTEST <= film <= _LONGEST else None
