from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from texalign.photographs import read_focal

IN_35MM_FILM, EXIF, ORIENTATION = 0xA405, 0x8769, 0x0112


def photograph(path, film=None, size=(4000, 3000), orientation=1):
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    if film is not None:
        exif.get_ifd(EXIF)[IN_35MM_FILM] = film
    Image.new("RGB", size).save(path, exif=exif)
    return path


def test_the_focal_length_of_35mm_film_is_converted_by_the_diagonal(tmp_path):
    # Film's diagonal is 43.267 mm, the photograph's 5,000 pixels.
    for size, orientation in (((4000, 3000), 1), ((3000, 4000), 1), ((4000, 3000), 6)):
        path = photograph(tmp_path / "photo.jpg", 26, size, orientation)
        assert read_focal(path) == pytest.approx(26 * 5000 / 43.267, rel=1e-4)


@pytest.mark.parametrize("film", [None, 0, 1, 60000])
def test_what_is_no_focal_length_tells_nothing(tmp_path, film):
    assert read_focal(photograph(tmp_path / "photo.jpg", film, (40, 30))) is None


def test_files_without_exif_tell_nothing(tmp_path):
    Image.fromarray(np.zeros((4, 4), dtype=np.uint8)).save(tmp_path / "photo.png")
    (tmp_path / "text").write_text("no image")
    assert read_focal(tmp_path / "photo.png") is None and read_focal(tmp_path / "text") is None
