from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn.functional import affine_grid, grid_sample, interpolate

from texalign._internal import Draws, per_sample
from texalign.synthetic.colour import srgb_to_linear

_CLUTTER = 9  # shapes in a background
_FACE = 6  # of them, the last ones, may form a face


@dataclass(frozen=True, eq=False)
class Shapes:
    """K flat shapes in each of B images, painted one over the other. Lengths are shares of the image's side.

    Attributes:
        centre: (B, K, 2), x right, y down, from the image's corner.
        half: (B, K, 2) half the width and height.
        angle: (B, K) radians.
        box: (B, K) 0 for an ellipse, 1 for a rectangle.
        soft: (B, K) width of the edge.
        colour: (B, K, 2, 3) linear; stripes alternate between the two.
        stripes: (B, K) radians across half the width; 0 for plain.
        opacity: (B, K) in [0, 1].
    """

    centre: Tensor
    half: Tensor
    angle: Tensor
    box: Tensor
    soft: Tensor
    colour: Tensor
    stripes: Tensor
    opacity: Tensor

    def layer(self, number: int, row: Tensor, column: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Shape `number` of every image: colour (B, 3, H, W), alpha (B, 1, H, W), and how far across it, −1 to 1."""
        batch = len(self.centre)
        x = column[None, None, None, :] - self.centre[:, number, 0].reshape(batch, 1, 1, 1)
        y = row[None, None, :, None] - self.centre[:, number, 1].reshape(batch, 1, 1, 1)
        angle = per_sample(self.angle[:, number], 4)
        half = self.half[:, number]
        across = (x * angle.cos() + y * angle.sin()) / per_sample(half[:, 0], 4)
        along = (y * angle.cos() - x * angle.sin()) / per_sample(half[:, 1], 4)
        round_distance = (across.square() + along.square()).sqrt()
        square_distance = torch.maximum(across.abs(), along.abs())
        distance = torch.lerp(round_distance, square_distance, per_sample(self.box[:, number], 4))
        steepness = per_sample(half.amin(dim=1) / self.soft[:, number], 4)
        alpha = (0.5 + (1 - distance) * steepness).clamp(0, 1) * per_sample(self.opacity[:, number], 4)
        wave = 0.5 + 0.5 * (4 * torch.sin(across * per_sample(self.stripes[:, number], 4))).clamp(-1, 1)
        first, second = self.colour[:, number, 0, :, None, None], self.colour[:, number, 1, :, None, None]
        return torch.lerp(first, second, wave), alpha, across.clamp(-1, 1)


def pixel_centres(size: int, device: torch.device) -> Tensor:
    """(size,) shares of the image's side."""
    return (torch.arange(size, device=device, dtype=torch.float32) + 0.5) / size


def palette(draws: Draws, skin: Tensor, count: int) -> Tensor:
    """(B, count, 3) linear: grey, vivid, dull, and some near the skin's mean colour (B, 3), as wood and faces are."""
    grey = draws.uniform(count, 1).expand(-1, -1, 3)
    vivid = draws.uniform(count, 3)
    colours = srgb_to_linear(torch.lerp(grey, vivid, draws.uniform(count, 1) ** 1.5))
    skin_like = skin[:, None] * torch.exp(0.35 * draws.normal(count, 1) + 0.15 * draws.normal(count, 3))
    # A third of the images is full of skin colours, the others have a few.
    share = torch.where(draws.uniform(1, 1) < 0.33, 0.6, 0.12)
    return torch.where(draws.uniform(count, 1) < share, skin_like, colours).clamp(0.002, 1.0)


def backgrounds(draws: Draws, size: int, skin: Tensor) -> Tensor:
    """(B, 3, size, size) linear: gradients, clouds and mosaics under clutter and faces, unevenly lit.

    Args:
        draws: of the B images.
        size: pixels. Nothing finer than an image of 160 pixels can show is drawn: what lies behind a hand is out of
            focus or far away.
        skin: (B, 3) linear mean colour of the hand.
    """
    drawn = min(size, 160)
    colours = palette(draws, skin, 2 * _CLUTTER + 6)
    row = pixel_centres(drawn, draws.device)
    image = _cloth(draws, drawn, colours[:, :6])
    shapes = with_face(draws, clutter(draws, colours[:, 6:]), skin)
    for number in range(_CLUTTER):
        colour, alpha, _ = shapes.layer(number, row, row)
        image = torch.lerp(image, colour, alpha)
    image = image * torch.exp(draws.uniform(1, 1, 1, high=0.8) * _clouds(draws, drawn, 3, 1))
    if drawn < size:
        image = interpolate(image, size=(size, size), mode="bilinear", align_corners=False)
    return image.clamp(0, 1)


def _cloth(draws: Draws, size: int, colours: Tensor) -> Tensor:
    """(B, 3, size, size): between colours (B, 6, 3), by smooth noise, mosaics of blocks, or hardly at all."""
    fields = torch.cat([_clouds(draws, size, 4, 1), _clouds(draws, size, 14, 1), _clouds(draws, size, 48, 1)], dim=1)
    weights = draws.uniform(3) ** 2 * draws.log_uniform(1, low=0.05, high=2.0)
    mixed = torch.sigmoid(2.5 * (fields * weights[:, :, None, None]).sum(dim=1, keepdim=True))
    first, second = colours[:, 0, :, None, None], colours[:, 1, :, None, None]
    smooth = torch.lerp(first, second, mixed)
    cells = 12
    choice = draws.integers(cells * cells, high=colours.shape[1])
    blocks = colours.gather(1, choice[..., None].expand(-1, -1, 3)).transpose(1, 2).unflatten(2, (cells, cells))
    # A third of the mosaics repeat themselves, as shelves, windows and keyboards do.
    repeats = 1 + per_sample(draws.chance(0.4) * draws.integers(high=5), 4)
    grid = (_random_grid(draws, size, 0.3, 1.6) * repeats + 1) % 2 - 1
    blocks = grid_sample(blocks, grid, mode="nearest", padding_mode="border", align_corners=False)
    return torch.lerp(smooth, blocks, draws.chance(0.38, 1, 1, 1) * draws.uniform(1, 1, 1, low=0.3, high=1.0))


def _clouds(draws: Draws, size: int, cells: int, channels: int) -> Tensor:
    """(B, channels, size, size) of smooth noise in [−1, 1], about `cells` lumps across."""
    coarse = draws.uniform(channels, cells, cells, low=-1.0, high=1.0)
    grid = _random_grid(draws, size, 0.4, 1.0)
    return grid_sample(coarse, grid, mode="bilinear", padding_mode="reflection", align_corners=False)


def _random_grid(draws: Draws, size: int, smallest: float, largest: float) -> Tensor:
    """(B, size, size, 2) for `grid_sample`: turned, stretched and shifted."""
    angle = draws.uniform(high=2 * torch.pi) * draws.chance(0.6)
    stretch = draws.log_uniform(2, low=smallest, high=largest)
    turn = torch.stack([angle.cos(), -angle.sin(), angle.sin(), angle.cos()], dim=1).unflatten(1, (2, 2))
    affine = torch.cat([turn * stretch[:, None], draws.uniform(2, 1, low=-0.4, high=0.4)], dim=2)
    return affine_grid(affine, [draws.count, 1, size, size], align_corners=False)


def clutter(draws: Draws, colours: Tensor) -> Shapes:
    """Ellipses, boxes and bars, plain and striped, of colours (B, 2 K, 3), anywhere and of any size."""
    count = colours.shape[1] // 2
    half = draws.log_uniform(count, 1, low=0.04, high=0.45) * draws.log_uniform(count, 2, low=0.4, high=1.6)
    upright = draws.chance(0.5, count)
    return Shapes(
        centre=draws.uniform(count, 2, low=-0.1, high=1.1),
        half=half,
        angle=draws.uniform(count, high=torch.pi) * (1 - upright),
        box=draws.uniform(count).round(),
        soft=draws.log_uniform(count, low=0.006, high=0.08),
        colour=colours.unflatten(1, (count, 2)),
        stripes=draws.chance(0.35, count) * draws.log_uniform(count, low=3.0, high=25.0),
        opacity=draws.chance(0.65, count),
    )


def with_face(draws: Draws, shapes: Shapes, skin: Tensor) -> Shapes:
    """The last shapes become hair, head, eyes, mouth and shirt in one image out of six."""
    batch = draws.count
    place = draws.uniform(1, 2, low=0.1, high=0.9)
    scale = draws.log_uniform(1, 1, low=0.10, high=0.35)
    #            shirt          hair           head          eye            eye           mouth
    offsets = skin.new_tensor([[0.0, 2.0], [0.0, -0.3], [0.0, 0.0], [-0.35, -0.1], [0.35, -0.1], [0.0, 0.5]])
    halves = skin.new_tensor([[1.6, 1.1], [0.95, 1.2], [0.78, 1.05], [0.14, 0.07], [0.14, 0.07], [0.28, 0.08]])
    complexion = (skin * torch.exp(0.3 * draws.normal(1)))[:, None]
    dark = 0.05 * draws.uniform(1, 3).expand(-1, 3, -1)
    lips = complexion * skin.new_tensor([0.8, 0.45, 0.45])
    parts = torch.cat([draws.uniform(1, 3), dark[:, :1], complexion, dark[:, 1:], lips], dim=1).clamp(0, 1)
    face = Shapes(
        centre=place + scale * offsets,
        half=scale * halves,
        angle=shapes.angle[:, -_FACE:] * 0,
        box=shapes.box[:, -_FACE:] * 0,
        soft=(0.06 * scale).expand(batch, _FACE, 1)[..., 0],
        colour=parts[:, :, None].expand(-1, -1, 2, -1),
        stripes=shapes.stripes[:, -_FACE:] * 0,
        opacity=torch.ones_like(shapes.opacity[:, -_FACE:]),
    )
    chosen = draws.chance(0.17)

    def either(name: str) -> Tensor:
        old, new = getattr(shapes, name), getattr(face, name)
        tail = torch.where(per_sample(chosen, old.dim()) > 0, new, old[:, -_FACE:])
        return torch.cat([old[:, :-_FACE], tail], dim=1)

    return replace(shapes, **{name: either(name) for name in vars(shapes)})


def occluders(draws: Draws, colours: Tensor, anchors: Tensor) -> Shapes:
    """Sticks, boxes, discs that lie on the hand, in 45 % of the images.

    Args:
        draws: of the B images.
        colours: (B, 2 K, 3) linear.
        anchors: (B, K, 2) points on the hand that the shapes lie over, shares of the image's side.
    """
    shapes = clutter(draws, colours)
    count = shapes.angle.shape[1]
    stick = draws.chance(0.45, count)[..., None]
    slender = torch.stack([draws.log_uniform(count, low=0.012, high=0.06), draws.uniform(count, low=0.2, high=0.9)], -1)
    compact = draws.log_uniform(count, 1, low=0.05, high=0.30) * draws.log_uniform(count, 2, low=0.6, high=1.5)
    present = draws.chance(0.45, 1) * torch.cat([draws.chance(1.0, 1), draws.chance(0.4, count - 1)], dim=1)
    return replace(
        shapes,
        centre=anchors + 0.05 * draws.normal(count, 2),
        half=torch.where(stick > 0, slender, compact),
        angle=draws.uniform(count, high=torch.pi),
        soft=draws.log_uniform(count, low=0.006, high=0.02),
        opacity=present,
    )


def moved_layer(draws: Draws, layer: Tensor) -> Tensor:
    """A layer (B, 4, S, S) turned, mirrored, resized and put somewhere else in the image: another hand."""
    size = layer.shape[-1]
    angle = draws.uniform(high=2 * torch.pi)
    shrink = draws.log_uniform(low=0.8, high=2.0)
    mirror = 1 - 2 * draws.chance(0.5)
    turn = torch.stack([mirror * angle.cos(), -mirror * angle.sin(), angle.sin(), angle.cos()], 1).unflatten(1, (2, 2))
    away = draws.uniform(high=2 * torch.pi)
    shift = draws.uniform(low=0.5, high=1.2) * shrink
    shift = torch.stack([shift * away.cos(), shift * away.sin()], dim=1)[..., None]
    grid = affine_grid(torch.cat([turn * shrink[:, None, None], shift], dim=2), [len(layer), 1, size, size], False)
    return grid_sample(layer, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
