"""Image and mask files of every kind that tools write."""

from __future__ import annotations

import io
import sys

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from photograph_folder import STORED, saved
from texalign._internal import MissingExtraError
from texalign.photographs import read_image, read_mask

HEIGHT, WIDTH = 6, 9
COLOURS = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
GREY = COLOURS[..., 0]
SKIN = np.zeros((HEIGHT, WIDTH), np.uint8)
SKIN[1:4, 2:7] = 1
PARTS = SKIN * (1 + np.arange(WIDTH) % 2).astype(np.uint8)


def palette(indices, colours):
    picture = Image.frombytes("P", indices.shape[::-1], indices.tobytes())
    picture.putpalette(np.array(colours, np.uint8).tobytes())
    return picture


def expected(colours):
    return torch.from_numpy(colours.astype(np.float32) / 255).permute(2, 0, 1)


@pytest.mark.parametrize("orientation", STORED)
def test_images_and_masks_are_upright_in_all_eight_orientations(tmp_path, orientation):
    image = read_image(saved(tmp_path / "image.png", COLOURS, orientation))
    torch.testing.assert_close(image, expected(COLOURS), atol=0, rtol=0)
    mask = read_mask(saved(tmp_path / "mask.png", SKIN, orientation), (HEIGHT, WIDTH))
    assert torch.equal(mask[0], torch.from_numpy(SKIN).float())
    smooth = np.linspace(0, 255, HEIGHT * WIDTH).astype(np.uint8).reshape(HEIGHT, WIDTH)
    photo = read_image(saved(tmp_path / "photo.jpg", smooth, orientation, quality=100))
    assert (255 * photo[0] - torch.from_numpy(smooth)).abs().max() <= 3  # what JPEG changes in a ramp


def rgba(colours, opacity):
    return np.concatenate([np.broadcast_to(colours, (HEIGHT, WIDTH, 3)), opacity[..., None]], axis=-1).astype(np.uint8)


@pytest.mark.parametrize("name, pixels, colours", [
    ("grey", GREY, np.stack([GREY] * 3, axis=-1)),
    ("16-bit grey", GREY.astype(np.uint16) * 257, np.stack([GREY] * 3, axis=-1)),
    ("black and white", Image.fromarray(255 * SKIN).convert("1"), np.stack([255 * SKIN] * 3, axis=-1)),
    ("palette", palette(SKIN, [[9, 8, 7], [200, 100, 50]]), np.array([[9, 8, 7], [200, 100, 50]], np.uint8)[SKIN]),
    ("opaque", rgba(COLOURS, np.full_like(SKIN, 255)), COLOURS),
    ("transparent is black", rgba(COLOURS, 255 * SKIN), COLOURS * SKIN[..., None]),
])  # fmt: skip
def test_every_kind_of_file_becomes_rgb(tmp_path, name, pixels, colours):
    torch.testing.assert_close(read_image(saved(tmp_path / "image.png", pixels)), expected(colours), atol=1e-6, rtol=0)


def test_inks_become_rgb_and_the_first_frame_is_read(tmp_path):
    flat = Image.new("RGB", (16, 16), (200, 100, 50))
    inks = saved(tmp_path / "inks.jpg", flat.convert("CMYK"), quality=100)
    torch.testing.assert_close(read_image(inks).mean(dim=(1, 2)), torch.tensor([200, 100, 50]) / 255, atol=0.02, rtol=0)
    frames = tmp_path / "frames.gif"
    flat.save(frames, save_all=True, append_images=[Image.new("RGB", (16, 16), (0, 0, 255))])
    torch.testing.assert_close(read_image(frames)[:, 0, 0], torch.tensor([200, 100, 50]) / 255, atol=0.02, rtol=0)


@pytest.mark.parametrize("name, pixels", [
    ("labels 0 and 1", SKIN),
    ("labels 0, 1 and 2", PARTS),
    ("0 and 255", 255 * SKIN),
    ("16 bits, 0 and 1", SKIN.astype(np.uint16)),
    ("16 bits, 0 and 65535", 65535 * SKIN.astype(np.uint16)),
    ("RGB, 0 and 1", np.stack([SKIN] * 3, axis=-1)),
    ("colours of two parts", np.array([[0, 0, 0], [128, 0, 0], [0, 64, 0]], np.uint8)[PARTS]),
    ("bool", Image.fromarray(255 * SKIN).convert("1")),
    ("palette, background first", palette(SKIN, [[0, 0, 0], [128, 0, 0]])),
    ("palette, background last", palette(1 - SKIN, [[255, 255, 255], [0, 0, 0]])),
    ("opaque RGBA", rgba((255 * SKIN)[..., None], np.full_like(SKIN, 255))),
    ("cut-out", rgba(COLOURS, 255 * SKIN)),
    ("white on nothing", Image.fromarray(np.stack([np.full_like(SKIN, 255), 255 * SKIN], axis=-1), "LA")),
])  # fmt: skip
def test_any_label_but_zero_is_skin(tmp_path, name, pixels):
    assert torch.equal(read_mask(saved(tmp_path / "mask.png", pixels)), torch.from_numpy(SKIN).float()[None])


def test_a_grey_mask_that_goes_above_half_is_soft(tmp_path):
    soft = np.linspace(0, 128, HEIGHT * WIDTH).round().astype(np.uint8).reshape(HEIGHT, WIDTH)
    for factor in (1, 257):  # of 8 and of 16 bits
        pixels = soft if factor == 1 else soft.astype(np.uint16) * factor
        read = read_mask(saved(tmp_path / "mask.png", pixels))
        torch.testing.assert_close(read[0], torch.from_numpy(soft) / 255)
    # Two values are labels.
    two = read_mask(saved(tmp_path / "mask.png", np.where(soft > 40, 128, 0).astype(np.uint8)))
    assert torch.equal(two[0] == 1, torch.from_numpy(soft > 40))
    # As much at most: labels.
    read = read_mask(saved(tmp_path / "mask.png", soft.clip(max=127)))
    assert torch.equal(read[0] == 1, torch.from_numpy(soft > 0))


@pytest.mark.parametrize("quality", [50, 75, 95])
def test_a_jpeg_is_a_mask_if_it_is_black_and_white(tmp_path, quality):
    true = np.zeros((64, 64), np.uint8)
    true[10:50, 20:41] = 255
    read = read_mask(saved(tmp_path / "mask.jpg", true, quality=quality))
    # Ringing does not reach half; in the mean it is little.
    assert torch.equal(read[0] > 0.5, torch.from_numpy(true > 0)) and (read - read.round()).abs().mean() < 0.02
    for pixels in (true // 255 * 40, np.stack([true, 0 * true, 0 * true], axis=-1)):
        with pytest.raises(
            ValueError, match=r"read_mask: expected labels in a file without loss, such as PNG, .*mask\.jpg"
        ):
            read_mask(saved(tmp_path / "mask.jpg", pixels, quality=quality))


def test_a_mask_of_another_size_than_its_image_is_refused(tmp_path):
    saved(tmp_path / "mask.png", SKIN, orientation=6)
    assert read_mask(tmp_path / "mask.png", read_image(tmp_path / "mask.png").shape[1:]).shape == (1, HEIGHT, WIDTH)
    with pytest.raises(ValueError, match=r"read_mask: expected 6 × 9 in .*mask\.png, got 9 × 6"):
        read_mask(tmp_path / "mask.png", (WIDTH, HEIGHT))


def test_files_that_are_no_images_are_named(tmp_path, monkeypatch):
    with pytest.raises(FileNotFoundError, match=r"read_image: expected .*nothing\.png, got no such file"):
        read_image(tmp_path / "nothing.png")
    (tmp_path / "folder.png").mkdir()
    Image.fromarray(GREY).convert("F").save(tmp_path / "floats.tif")
    for name in ("folder.png", "floats.tif"):
        with pytest.raises(ValueError, match=f"read_image: expected an image in .*{name}, got "):
            read_image(tmp_path / name)
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(MissingExtraError, match=r'pip install "texalign\[demo\]"'):
        read_mask(tmp_path / "mask.png")


def encoded(kind, mode="RGB", **options):
    buffer = io.BytesIO()
    Image.fromarray(np.tile(COLOURS, (4, 4, 1))).convert(mode).save(buffer, kind, **options)
    return buffer.getvalue()


FILES = [encoded("JPEG"), encoded("PNG"), encoded("PNG", "P", transparency=3), encoded("GIF", "P")]


@given(
    file=st.sampled_from(FILES), changes=st.lists(st.tuples(st.floats(0, 1), st.integers(0, 255))), kept=st.floats(0, 1)
)
def test_a_damaged_file_is_an_image_or_a_value_error(tmp_path_factory, file, changes, kept):
    content = bytearray(file)
    for place, byte in changes:
        content[int(place * (len(content) - 1))] = byte
    path = tmp_path_factory.getbasetemp() / "damaged"
    path.write_bytes(content[: int(kept * len(content))] if kept < 0.9 else content)
    for read, channels in ((read_image, 3), (read_mask, 1)):
        try:
            tensor = read(path)
        except ValueError as error:
            assert str(path) in str(error)
        else:
            assert tensor.shape[0] == channels and 0 <= tensor.min() <= tensor.max() <= 1
