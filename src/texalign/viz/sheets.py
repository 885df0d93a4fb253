"""Pictures in a labelled grid."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from texalign._internal import expect
from texalign.viz.files import pillow


def contact_sheet(
    rows: Sequence[Sequence[Tensor]], row_labels: Sequence[str] = (), column_labels: Sequence[str] = ()
) -> Tensor:
    """Images in a labelled grid on white. Labels need pillow.

    Args:
        rows: rows of images (3, H, W) in [0, 1], all of one size; a short row leaves white at its end.
        row_labels: one for each row, written upwards along the left edge; empty for none.
        column_labels: one for each column, above it, of one line or several; empty for none.

    Returns:
        One image (3, height, width).

    Example:
        >>> row = [torch.zeros(3, 64, 64), torch.ones(3, 64, 64)]
        >>> contact_sheet([row, row]).shape
        torch.Size([3, 128, 128])
    """
    expect(len(rows) > 0 and len(rows[0]) > 0, "contact_sheet", "at least one image", [len(row) for row in rows])
    columns, shape = max(len(row) for row in rows), rows[0][0].shape
    for image in (image for row in rows for image in row):
        expect(image.shape == shape, "contact_sheet", f"images of one size, {tuple(shape)}", tuple(image.shape))
    for name, labels, count in (("row", row_labels, len(rows)), ("column", column_labels, columns)):
        expect(len(labels) in (0, count), "contact_sheet", f"{count} {name} labels or none", len(labels))
    height, width = shape[1:]
    font_size = max(10, min(width // 14, 26))
    left = 2 * font_size if row_labels else 0
    top = font_size * (2 + max(label.count("\n") for label in column_labels)) if column_labels else 0
    sheet = torch.ones(3, top + height * len(rows), left + width * columns)
    for i, row in enumerate(rows):
        for j, image in enumerate(row):
            place = (slice(top + i * height, top + (i + 1) * height), slice(left + j * width, left + (j + 1) * width))
            sheet[:, place[0], place[1]] = image.detach().cpu()
        if row_labels:
            words = written(row_labels[i], height, left, font_size)
            sheet[:, top + i * height : top + (i + 1) * height, :left] = words.flip(2).transpose(1, 2).flip(0)
    for j, label in enumerate(column_labels):
        sheet[:, :top, left + j * width : left + (j + 1) * width] = written(label, width, top, font_size)
    return sheet


def written(label: str, width: int, height: int, font_size: int) -> Tensor:
    """Dark text in the middle of a white picture (3, height, width)."""
    image_module, draw_module, font_module = pillow()
    picture = image_module.new("L", (width, height), 255)
    font = font_module.load_default(font_size)
    draw_module.Draw(picture).text((width / 2, height / 2), label, fill=40, font=font, anchor="mm", align="center")
    return torch.from_numpy(np.array(picture)).float().div(255).expand(3, -1, -1)
