from __future__ import annotations

import pytest
import torch

import texalign as ta
from host_network import Batch, batch_of, step_of
from texalign import viz


def cells(sheet, rows, size):
    """(rows, columns, 3, size, size)."""
    top, left = sheet.shape[1] - rows * size, sheet.shape[2] - 7 * size
    return sheet[:, top:, left:].reshape(3, rows, size, 7, size).permute(1, 3, 0, 2, 4)


def test_the_sheet_shows_what_its_columns_say():
    step, batch = step_of(64), batch_of(3, 64)
    batch.principal[2] += 1e4
    _, details = step(batch, return_details=True)
    size = 128
    found = cells(viz.alignment_sheet(batch.image, details, None, step.loss_fn.renderer.surface, size), 3, size)
    assert found.shape == (3, 7, 3, size, size) and found.min() >= 0 and found.max() <= 1
    large = torch.nn.functional.interpolate(batch.image, size=size, mode="bilinear")
    assert (found[:, 0] - large).abs().mean() < 0.01
    green = (found[:, 1] - torch.tensor([0.1, 1.0, 0.2])[:, None, None]).abs().sum(dim=1) < 0.1
    assert (green[:2].float().mean(dim=(1, 2)) > 0.01).all() and not green[2].any()
    evidence = torch.nn.functional.interpolate(details.evidence, size=size, mode="bilinear")[:, 0]
    inner = torch.nn.functional.interpolate(details.coverage, size=size, mode="bilinear")[:, 0]
    away = (inner < 0.02) | (inner > 0.98)  # not under the outline
    away = torch.nn.functional.max_pool2d(1 - away.float()[:, None], 7, 1, 3)[:, 0] == 0
    red, blue = found[:, 5, 0], found[:, 5, 2]  # blue speaks for the hand
    for sample in range(2):
        hand, other = (away & (evidence < -3))[sample], (away & (evidence > 3))[sample]
        assert other.any() and (red - blue)[sample][other].min() > 0.1
        assert not hand.any() or (blue - red)[sample][hand].min() > 0.1
    assert (found[2, 5] > 0.99).all()  # a skipped hand has no evidence
    covered = (inner > 0.9)[:, None].expand(-1, 3, -1, -1)
    assert (found[2, 4] == 0).all() and found[0, 4][covered[0]].max() > 0.1
    grey = (found[:, 6] - 0.85).abs().amax(dim=1) < 1e-3
    assert (grey.float().mean(dim=(1, 2)) > 0.3).all()  # between the charts


def test_left_hands_are_shown_as_they_are():
    step, batch = step_of(64), batch_of(1, 64)
    mirrored = Batch(batch.image.flip(-1), batch.focal, batch.principal)
    vertices = step.host(batch.image) * torch.tensor([-1.0, 1.0, 1.0])
    camera = ta.PinholeCamera(mirrored.focal, mirrored.principal)
    left = torch.tensor([False])
    generator = torch.Generator().manual_seed(0)
    _, details = step.loss_fn(vertices, camera, mirrored.image, is_right=left, generator=generator, return_details=True)
    _, right = step(batch, generator=generator.manual_seed(0), return_details=True)
    shown = cells(viz.alignment_sheet(mirrored.image, details, left, cell_size=96), 1, 96)[0]
    plain = cells(viz.alignment_sheet(batch.image, right, cell_size=96), 1, 96)[0]
    # But for pixels that an outline takes on one side of a threshold and not on the other.
    assert ((shown[:6] - plain[:6].flip(-1)).abs() > 2e-2).float().mean() < 1e-3
    torch.testing.assert_close(shown[6], plain[6], atol=1e-3, rtol=0)  # one atlas for both


def test_a_left_surfaces_hands_are_shown_as_the_loss_saw_them():
    step, batch = step_of(64), batch_of(1, 64)
    surface = step.loss_fn.renderer.surface.mirrored()
    loss_fn = ta.DenseTextureAlignmentLoss(ta.TexturedHandRenderer(surface, 64), step.loss_fn.encoder)
    camera = ta.PinholeCamera(batch.focal, batch.principal).mirrored(64)
    vertices, image = step.host(batch.image) * torch.tensor([-1.0, 1.0, 1.0]), batch.image.flip(-1)
    _, details = loss_fn(vertices, camera, image, is_right=torch.tensor([False]), return_details=True)
    shown = viz.alignment_sheet(image, details, torch.tensor([False]), surface)
    assert torch.equal(shown, viz.alignment_sheet(image, details, surface=surface))


@pytest.mark.parametrize("size", [(32, 48), (48, 32)])
def test_images_that_are_not_square_and_values_that_are_no_colours(size):
    surface = ta.HandSurface.mano()
    loss_fn = ta.DenseTextureAlignmentLoss(ta.TexturedHandRenderer(surface, size), step_of(32).loss_fn.encoder)
    batch = batch_of(2, 32)
    image = torch.rand(2, 3, *size)
    image[1, :, 3:5] = torch.nan
    camera = ta.PinholeCamera(batch.focal, batch.principal)
    _, details = loss_fn(step_of(32).host(batch.image), camera, image, return_details=True)
    sheet = viz.alignment_sheet(image, details, surface=surface, cell_size=96)
    assert torch.isfinite(sheet).all()
    height, width = (96 * side // max(size) for side in size)
    assert 0 <= sheet.shape[1] - 2 * height < 40 and 0 <= sheet.shape[2] - 7 * width < 40


def test_a_sheet_of_nothing_or_of_others_is_refused():
    step, batch = step_of(32), batch_of(2, 32)
    _, details = step(batch, return_details=True)
    with pytest.raises(ValueError, match="^alignment_sheet: expected at least one image, got 0"):
        viz.alignment_sheet(batch.image[:0], details)
    with pytest.raises(ValueError, match="^alignment_sheet: expected details of these images"):
        viz.alignment_sheet(batch.image[:1], details)
