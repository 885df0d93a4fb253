from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, grid_sample, interpolate, normalize

from texalign._internal import DEMO_EXTRA_MISSING, MissingExtraError, dilate, expect, expect_floating, write_whole
from texalign.camera import PinholeCamera
from texalign.hand import TIP_VERTICES, HandModel
from texalign.render import Rendering, TexturedHandRenderer
from texalign.surface import HandSurface, vertex_normals

# Palm and back of the hand, of the fairest and of the deepest skin.
_SKIN = torch.tensor([[[0.97, 0.79, 0.71], [0.93, 0.73, 0.62]], [[0.66, 0.46, 0.38], [0.32, 0.20, 0.14]]])
# Heart, head and life line: start, control point and end of parabolas, metres towards the fingertips and the thumb.
_PALM_LINES = torch.tensor(
    [
        [[0.064, -0.044], [0.060, 0.004], [0.086, 0.013]],
        [[0.070, 0.034], [0.061, 0.006], [0.043, -0.030]],
        [[0.070, 0.034], [0.052, -0.004], [0.012, 0.003]],
    ]
)


def to_uint8(image: Tensor) -> np.ndarray:
    """Image (3, H, W) or images (B, 3, H, W) in [0, 1] → uint8 array (H, W, 3) or (B, H, W, 3), as pillow wants it.

    Values are clamped and rounded; NaN becomes 0.
    """
    expect(image.dim() in (3, 4) and image.shape[-3] == 3, "to_uint8", "image ([B,] 3, H, W)", tuple(image.shape))
    pixels = (image.detach().float().nan_to_num(0.0).clamp(0, 1) * 255).round().to(torch.uint8)
    return pixels.movedim(-3, -1).cpu().numpy()


def save_png(path: str | os.PathLike[str], image: Tensor) -> Path:
    """Write an image (3, H, W) in [0, 1]; the file appears whole or not at all. Needs pillow. Returns the path."""
    expect_floating(image, "save_png", "image", (3, "H", "W"))
    picture = _pillow()[0].fromarray(to_uint8(image))
    return write_whole(path, lambda partial: picture.save(partial, format="PNG", optimize=True))


def save_gif(path: str | os.PathLike[str], frames: Tensor, milliseconds: Sequence[int]) -> Path:
    """Write an animation that loops for ever; the file appears whole or not at all. Needs pillow.

    All frames share 256 colours, chosen for the first and the last, and are not dithered: what stands still then costs
    no bytes.

    Args:
        path: NAME.gif.
        frames: (N, 3, H, W) in [0, 1].
        milliseconds: how long each of the N frames is shown, in steps of 10.

    Returns:
        The path.
    """
    expect_floating(frames, "save_gif", "frames", ("N", 3, "H", "W"))
    expect(
        len(frames) == len(milliseconds) > 0, "save_gif", f"milliseconds for {len(frames)} frames", len(milliseconds)
    )
    image_module = _pillow()[0]
    pictures = [image_module.fromarray(array) for array in to_uint8(frames)]
    both = image_module.fromarray(np.concatenate([np.asarray(pictures[0]), np.asarray(pictures[-1])]))
    palette = both.quantize(256)
    first, *others = (picture.quantize(palette=palette, dither=image_module.Dither.NONE) for picture in pictures)
    options = {"append_images": others, "duration": list(milliseconds), "loop": 0, "disposal": 1}
    return write_whole(path, lambda partial: first.save(partial, format="GIF", save_all=True, **options))


def overlay(image: Tensor, rendering: Rendering, alpha: float = 1.0) -> Tensor:
    """Lay a rendered hand over an image: alpha 0 shows the image alone, 1 hides what is behind the hand.

    Args:
        image: (B, 3, H, W) in [0, 1], or (1, 3, H, W) for all; ``torch.ones(1, 3, 1, 1)`` is a white background.
        rendering: of B hands, H × W.
        alpha: opacity of the hand in [0, 1].

    Returns:
        (B, 3, H, W), differentiable in both.
    """
    return image * (1 - alpha * rendering.coverage) + alpha * rendering.image


def outline(image: Tensor, coverage: Tensor, colour: Sequence[float] = (0.1, 1.0, 0.2), width: int = 2) -> Tensor:
    """Draw the contour of a hand over an image, bright with a dark rim, so that the image stays to be seen.

    Args:
        image: (B, 3, H, W) in [0, 1].
        coverage: (B, 1, H, W) in [0, 1], as a `Rendering` has it; the contour runs outside of what is above one half.
        colour: RGB in [0, 1].
        width: of the line, pixels.

    Returns:
        (B, 3, H, W).
    """
    expect_floating(image, "outline", "image", ("B", 3, "H", "W"))
    expect_floating(coverage, "outline", "coverage", (len(image), 1, *image.shape[2:]))
    expect(width > 0, "outline", "width > 0", width)
    inside = (coverage.detach() > 0.5).to(image.dtype)
    reach = dilate(inside, width)
    rim = dilate(reach, 1) - (1 - dilate(1 - inside, 1))
    line = reach - inside
    image = image * (1 - 0.6 * rim)
    return torch.where(line > 0.5, image.new_tensor(colour)[:, None, None], image)


def mark(image: Tensor, points: Tensor, colour: Sequence[float] = (1.0, 1.0, 0.2), radius: float = 1.5) -> Tensor:
    """Draw points over an image, as bright dots with a dark rim.

    Args:
        image: (B, 3, H, W) in [0, 1].
        points: (B, N, 2) pixels; NaN is left out.
        colour: RGB in [0, 1].
        radius: of the dots, pixels, to which the rim adds 1.

    Returns:
        (B, 3, H, W).
    """
    expect_floating(image, "mark", "image", ("B", 3, "H", "W"))
    expect_floating(points, "mark", "points", (len(image), "N", 2))
    height, width = image.shape[2:]
    rows, columns = torch.arange(height, device=image.device) + 0.5, torch.arange(width, device=image.device) + 0.5
    pixels = torch.stack(torch.meshgrid(columns, rows, indexing="xy"), dim=-1).view(1, -1, 2).to(points)
    known = torch.where(torch.isfinite(points).all(dim=2, keepdim=True), points, -1e4)
    far = torch.cat([known, torch.full_like(known[:, :1], -1e4)], dim=1)  # at least one, for the minimum
    distance = torch.cdist(pixels.expand(len(image), -1, -1), far).amin(dim=2).view(len(image), 1, height, width)
    marked = torch.where(distance < radius + 1, 0.3 * image, image)
    return torch.where(distance < radius, image.new_tensor(colour)[:, None, None], marked)


def contact_sheet(
    rows: Sequence[Sequence[Tensor]], row_labels: Sequence[str] = (), column_labels: Sequence[str] = ()
) -> Tensor:
    """Images in a labelled grid on white. Labels need pillow.

    Args:
        rows: rows of images (3, H, W) in [0, 1], all of one size; a short row leaves white at its end.
        row_labels: one for each row, written upwards along the left edge; empty for none.
        column_labels: one for each column, above it; empty for none.

    Returns:
        One image (3, height, width).
    """
    expect(len(rows) > 0 and len(rows[0]) > 0, "contact_sheet", "at least one image", [len(row) for row in rows])
    columns, shape = max(len(row) for row in rows), rows[0][0].shape
    for image in (image for row in rows for image in row):
        expect(image.shape == shape, "contact_sheet", f"images of one size, {tuple(shape)}", tuple(image.shape))
    for name, labels, count in (("row", row_labels, len(rows)), ("column", column_labels, columns)):
        expect(len(labels) in (0, count), "contact_sheet", f"{count} {name} labels or none", len(labels))
    height, width = shape[1:]
    font_size = max(10, min(width // 14, 26))
    left, top = ((2 * font_size) if labels else 0 for labels in (row_labels, column_labels))
    sheet = torch.ones(3, top + height * len(rows), left + width * columns)
    for i, row in enumerate(rows):
        for j, image in enumerate(row):
            place = (slice(top + i * height, top + (i + 1) * height), slice(left + j * width, left + (j + 1) * width))
            sheet[:, place[0], place[1]] = image.detach().cpu()
        if row_labels:
            written = _text(row_labels[i], height, left, font_size)
            sheet[:, top + i * height : top + (i + 1) * height, :left] = written.flip(2).transpose(1, 2).flip(0)
    for j, label in enumerate(column_labels):
        sheet[:, :top, left + j * width : left + (j + 1) * width] = _text(label, width, top, font_size)
    return sheet


def uv_checker(texture_size: int = 512, cells: int = 16, labels: bool = True) -> Tensor:
    """A texture that shows where in the atlas a point lies: hue follows u, lightness v; cells bear their name.

    Args:
        texture_size: T.
        cells: squares along each side.
        labels: write column letter and row number into each, A1 at (u, v) = (0, 0). Needs pillow.

    Returns:
        texture (1, 3, T, T).
    """
    step = torch.arange(texture_size) * cells // texture_size
    row, column = torch.meshgrid(step, step, indexing="ij")
    hue = column / cells * 2 * torch.pi
    wheel = torch.stack([0.5 + 0.5 * torch.cos(hue - phase * 2 * torch.pi / 3) for phase in range(3)])
    colour = (0.30 + 0.70 * wheel) * (1.0 - 0.45 * row / cells)
    texture = torch.where(((row + column) % 2).bool(), colour, 0.35 * colour + 0.65)
    side = texture_size // cells
    for i, j in ((i, j) for i in range(cells) for j in range(cells) if labels and side >= 16):
        top, left = -(-i * texture_size // cells), -(-j * texture_size // cells)
        name = f"{chr(ord('A') + j % 26)}{i + 1}"
        texture[:, top : top + side, left : left + side] *= _text(name, side, side, int(side * 0.5))
    return texture[None]


def skin_texture(surface: HandSurface, texture_size: int = 512, tone: float = 0.15) -> Tensor:
    """Procedural skin: a paler palm, reddish knuckles and fingertips, nails, creases. It has no light in it: `shade`.

    Args:
        surface: MANO's topology (778 vertices) of either hand, with any atlas.
        texture_size: T.
        tone: from the fairest skin, 0, to the deepest, 1.

    Returns:
        texture (1, 3, T, T) on the surface's device; between the charts the colour of the palm.
    """
    expect(surface.vertex_count == 778, "skin_texture", "a surface of MANO's 778 vertices", surface.vertex_count)
    expect(0 <= tone <= 1, "skin_texture", "tone in [0, 1]", tone)
    model = HandModel().to(surface.faces.device)
    inside, at = _texels(surface, texture_size)
    point, weights = at(model.vertices[None])[0], at(model.skin_weights[None])[0]
    normal = at(vertex_normals(model.vertices[None], model.faces))[0]
    # Which way the back of the hand faces: +y for the palm, a finger's own abduction axis for its bones.
    dorsal = torch.cat([normal.new_tensor([[0.0, 1.0, 0.0]]), model.joint_axes[:, 1]])
    back = torch.sigmoid(7 * (normal * (weights @ dorsal)).sum(-1))
    joints = model.joint_regressor @ model.vertices
    red, crease, nail, pale = (torch.zeros_like(back) for _ in range(4))
    for base, tip in zip((13, 1, 4, 10, 7), TIP_VERTICES):
        mine = weights[:, base : base + 3].sum(-1)
        ends = torch.cat([joints[base : base + 3], model.vertices[tip][None]])
        for bone, length in enumerate(ends.diff(dim=0).norm(dim=-1)):
            side, _, along = ((point - ends[bone]) @ model.joint_axes[base + bone - 1].T).unbind(-1)
            red += mine * back * _bump(along, 0.006) * 0.9
            if bone == 2 or (bone == 1 and base != 13):  # folds on the inside of a joint, wrinkles on its outside
                crease += 0.8 * mine * (1 - back) * _bump(along + 12 * side**2, 0.0007)
                wrinkles = torch.cos(along * (2 * torch.pi / 0.0024)).clamp(min=0) ** 3
                crease += 0.5 * mine * back * wrinkles * _bump(along, 0.0035) * _bump(side / 0.006, 1)
            elif base != 13:
                crease += 0.7 * mine * (1 - back) * _bump(along - 0.5 * length, 0.0008)
        red += 0.8 * mine * (1 - back) * torch.sigmoid((along - 0.35 * length) / 0.003)  # of the last bone: the tip
        middle = (mine > 0.9) & ((along - 0.6 * length).abs() < 0.2 * length)
        radius = (side / (0.76 * side[middle].abs().max())).abs() ** 3
        radius = radius + ((along - 0.67 * length) / (0.30 * length)).abs() ** 3
        upside = mine * torch.sigmoid(30 * (back - 0.6))
        plate = upside * torch.sigmoid(14 * (1 - radius))
        nail += plate
        crease += 0.6 * upside * _bump(radius - 1.12, 0.22)
        pale += plate * (torch.sigmoid((along - 0.91 * length) / 0.0004) + 0.4 * _bump(along - 0.42 * length, 0.0016))
    flat = torch.stack([-point[:, 0], point[:, 2]], -1)
    time = torch.linspace(0, 1, 160, device=flat.device)[:, None]
    for start, control, end in _PALM_LINES.to(flat):
        curve = (1 - time) ** 2 * start + 2 * time * (1 - time) * control + time**2 * end
        nearest, where = torch.cdist(flat, curve, compute_mode="donot_use_mm_for_euclid_dist").min(dim=1)
        thin = 0.8 * (1 - (where / 79.5 - 1).abs() ** 3)
        crease += (1 - back) ** 2 * thin * _bump(nearest, 0.0009)
    generator = torch.Generator().manual_seed(0)
    waves = torch.randn(3, 96, generator=generator) * torch.logspace(2.0, 3.3, 96)  # radians a metre
    phases = 2 * torch.pi * torch.rand(96, generator=generator)
    mottling = torch.sin(point @ waves.to(point) + phases.to(point)).unflatten(1, (2, 48)).mean(-1)  # coarse, fine
    red = (red + 1.3 * mottling[:, 0] + 0.9 * mottling[:, 1]).clamp(-1, 1.5)
    palm_colour, back_colour = torch.lerp(_SKIN[0], _SKIN[1], tone).to(point)
    nail_colour = torch.lerp(palm_colour, palm_colour.new_tensor([0.97, 0.75, 0.71]), 0.5)
    skin = torch.lerp(palm_colour, back_colour, back[:, None])
    skin = skin * (1 - red[:, None] * skin.new_tensor([0.04, 0.15, 0.12]))
    skin = torch.lerp(skin, nail_colour, 0.85 * nail.clamp(0, 1)[:, None])
    skin = torch.lerp(skin, skin.new_tensor([0.98, 0.93, 0.89]), 0.6 * pale.clamp(0, 1)[:, None])
    skin = skin * (1 - crease.clamp(0, 1)[:, None] * skin.new_tensor([0.20, 0.33, 0.33]))
    texture = palm_colour[:, None, None].repeat(1, texture_size, texture_size)
    texture[:, inside] = skin.clamp(0, 1).T
    return surface.dilated(texture[None])


def shade(surface: HandSurface, vertices: Tensor, texture: Tensor, ambient: float = 0.55, shadows: int = 24) -> Tensor:
    """Bake a light from the upper left of the camera into a texture, since the renderer itself knows none.

    Lambert, wrapped further round in red as light is by skin, a sheen, and soft shadows of the hand on itself.

    Args:
        surface: of the vertices.
        vertices: (B, V, 3) metres, in the camera's frame.
        texture: (1 or B, 3, T, T).
        ambient: the share of light that comes from everywhere, in [0, 1].
        shadows: from how many directions to look for them; 0 casts none and is faster.

    Returns:
        texture (B, 3, T, T) in [0, 1], for these vertices and this camera alone.
    """
    expect_floating(vertices, "shade", "vertices", ("B", surface.vertex_count, 3))
    expect_floating(texture, "shade", "texture", ("B", 3, "T", "T"))
    inside, at = _texels(surface, texture.shape[-1])
    normals, index = vertex_normals(vertices, surface.faces), torch.arange(shadows, device=vertices.device) + 0.5
    height, turn = 1 - 2 * index / max(shadows, 1), 2.399963 * index  # a Fibonacci sphere
    around = torch.stack([(1 - height**2).sqrt() * turn.cos(), (1 - height**2).sqrt() * turn.sin(), height], dim=-1)
    light = normalize(vertices.new_tensor([-0.5, -0.6, -0.85]), dim=0)
    towards_sun = normalize(light + 0.25 * around[::2], dim=-1)
    sky, sun = (_reached(surface, vertices, normals, rays, texture.shape[-1]) for rays in (around, towards_sun))
    sky, sun = sky[..., inside].transpose(1, 2), sun[..., inside].transpose(1, 2)
    normal = normalize(at(normals), dim=-1)
    wrap = vertices.new_tensor([0.30, 0.18, 0.14])
    lambert = (((normal @ light)[..., None] + wrap) / (1 + wrap)).clamp(min=0)
    halfway = normalize(light - normalize(at(vertices), dim=-1), dim=-1)
    sheen = 0.10 * (normal * halfway).sum(-1, keepdim=True).clamp(min=0) ** 24
    above = 0.85 - 0.15 * normal[..., 1:2]  # less comes from below
    shaded = texture.expand(len(vertices), -1, -1, -1).clone()
    colour = shaded[:, :, inside].transpose(1, 2)
    lit = colour * (ambient * above * sky + (1.25 - ambient) * lambert * sun) + sheen * sun
    shaded[:, :, inside] = lit.clamp(0, 1).transpose(1, 2)
    return shaded


def _reached(surface: HandSurface, vertices: Tensor, normals: Tensor, rays: Tensor, texture_size: int) -> Tensor:
    """(B, 1, T, T): the share of light from directions (N, 3) that the rest of the hand lets through to a texel."""
    coarse = min(128, texture_size)  # shadows are soft
    inside, at = _texels(surface, coarse)
    centred = vertices - vertices.mean(dim=1, keepdim=True)
    # A metre away, the hand fills 128 pixels.
    focal = (62 / centred.norm(dim=-1).amax(dim=1))[:, None].expand(-1, 2)
    camera = PinholeCamera(focal, torch.full_like(focal, 64.0))
    renderer, blank = TexturedHandRenderer(surface, image_size=128), vertices.new_zeros(1, 3, 1, 1)
    texel_normals = at(normals)
    reached = possible = torch.full_like(texel_normals[..., 0], 0.05)
    for ray in rays:
        across = normalize(torch.linalg.cross(ray, ray.roll(1) + ray.new_tensor([0.3, 0.0, 0.0])), dim=0)
        frame = torch.stack([across, torch.linalg.cross(ray, across), -ray])  # z runs with the light
        turned = centred @ frame.T + ray.new_tensor([0.0, 0.0, 1.0])
        texel_points = at(turned)
        nearest = renderer(turned, camera, blank).depth
        grid = (camera.project(texel_points) / 64 - 1)[:, None]
        front = grid_sample(nearest, grid, mode="nearest", align_corners=False)[:, 0, 0]
        # Grazing light is left out: within one pixel its depth changes by more than the tolerance below.
        weight = ((texel_normals * ray).sum(-1) - 0.25).clamp(min=0)
        possible = possible + weight
        reached = reached + weight * ((front == 0) | (texel_points[..., 2] < front + 0.004))
    share = vertices.new_zeros(len(vertices), 2, coarse, coarse)
    share[:, 0, inside], share[:, 1, inside] = reached / possible, 1.0
    share = interpolate(avg_pool2d(share, 3, 1, 1), size=texture_size, mode="bilinear")
    return share[:, :1] / share[:, 1:].clamp(min=1e-6)


def _texels(surface: HandSurface, texture_size: int) -> tuple[Tensor, Any]:
    """Which texels (T, T) lie in a chart, and a function from values (B, V, C) at vertices to (B, K, C) at those."""
    texels = surface.texel_map(texture_size)
    inside = texels.face_index >= 0
    corners, barycentric = surface.faces[texels.face_index[inside]], texels.barycentric[inside]
    return inside, lambda values: (values[:, corners] * barycentric[..., None]).sum(2)


def _bump(distance: Tensor, width: float) -> Tensor:
    return torch.exp(-((distance / width) ** 2))


def _pillow() -> tuple[Any, Any, Any]:
    try:
        from PIL import Image, ImageDraw, ImageFont
    except ImportError as error:
        raise MissingExtraError(DEMO_EXTRA_MISSING) from error
    return Image, ImageDraw, ImageFont


def _text(label: str, width: int, height: int, font_size: int) -> Tensor:
    """Dark text in the middle of a white picture (3, height, width)."""
    image_module, draw_module, font_module = _pillow()
    picture = image_module.new("L", (width, height), 255)
    font = font_module.load_default(font_size)
    draw_module.Draw(picture).text((width / 2, height / 2), label, fill=40, font=font, anchor="mm")
    return torch.from_numpy(np.array(picture)).float().div(255).expand(3, -1, -1)
