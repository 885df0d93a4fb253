"""The pictures of the bundled hand in the documentation. Needs pillow.

python tools/hand_sheet.py                       # docs/images/contact_sheet.png
python tools/hand_sheet.py --all --output FOLDER  # the UV atlas and unwrapped images as well
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, interpolate

from texalign.camera import PinholeCamera
from texalign.hand import FINGERS_UP, POSE_KINDS, HandModel, sample_pose
from texalign.render import TexturedHandRenderer
from texalign.surface import HandSurface
from texalign.viz import contact_sheet, overlay, save_png, uv_checker
from texalign.viz.drawing import shade, skin_texture

_DISTANCE = 0.6  # metres from the camera
_FAIR, _DEEP = 0.12, 0.85  # skin tones


@dataclass(frozen=True)
class Studio:
    """Everything the pictures share: the hand, what draws it, and how large.

    Attributes:
        size: pixels of a picture's side; hands are drawn twice as large and averaged down.
        texture_size: T.
        poses: (P, 16, 3), upright: no global orientation.
        shadows: see `texalign.viz.shade`.
    """

    size: int
    texture_size: int
    poses: Tensor
    shadows: int

    def surface(self, is_right: bool = True) -> HandSurface:
        """The hand's surface, its wrist open."""
        surface = HandSurface.mano().to(self.poses.device)
        return surface if is_right else surface.mirrored()

    def place(self, poses: Tensor, around: float, is_right: bool = True) -> tuple[Tensor, PinholeCamera]:
        """Vertices (B, 778, 3) and cameras (of pictures twice `size`) that see the hands from one side.

        Args:
            poses: (B, 16, 3).
            around: degrees the hand is turned about its fingers: 0 shows the palm, 180 the back, 90 the thumb.
            is_right: False mirrors the hand.
        """
        cosine, sine = math.cos(math.radians(around)), math.sin(math.radians(around))
        turn = poses.new_tensor([[cosine, 0.0, sine], [0.0, 1.0, 0.0], [-sine, 0.0, cosine]])
        upright = HandModel().to(poses.device)(poses).vertices @ poses.new_tensor(FINGERS_UP).T
        vertices = upright @ turn.T
        if not is_right:
            vertices = vertices * vertices.new_tensor([-1.0, 1.0, 1.0])
        low, high = vertices.amin(dim=1), vertices.amax(dim=1)
        vertices = vertices + (vertices.new_tensor([0.0, 0.0, _DISTANCE]) - (low + high) / 2)[:, None]
        # Fists are brought a little nearer, but not as large as open hands.
        extent = (high - low)[:, :2].amax(dim=1).clamp(min=0.165) * 1.12
        focal = (2 * self.size * _DISTANCE / extent)[:, None].expand(-1, 2)
        return vertices, PinholeCamera(focal, torch.full_like(focal, float(self.size)))

    def draw(self, vertices: Tensor, camera: PinholeCamera, texture: Tensor, is_right: bool = True) -> Tensor:
        """Lit hands on white, (B, 3, size, size), from a texture without light."""
        surface = self.surface(is_right)
        renderer = TexturedHandRenderer(surface.closed_wrist(), image_size=2 * self.size)
        rendering = renderer(vertices, camera, shade(surface, vertices, texture, shadows=self.shadows))
        return avg_pool2d(overlay(vertices.new_ones(1, 3, 1, 1), rendering), 2)


def write_pictures(folder: Path, fast: bool = False, seed: int = 0, everything: bool = False) -> float | None:
    """Draw the bundled hand into ``contact_sheet.png``, and on demand ``uv_checker.png`` and ``unwrap.png``.

    Args:
        folder: made if need be; pictures of these names in it are replaced, each at once.
        fast: fewer and smaller pictures.
        seed: of the poses.
        everything: draw all three.

    Returns:
        The mean absolute error of the unwrapped textures over the texels seen, if they were drawn.
    """
    folder.mkdir(parents=True, exist_ok=True)
    # No gesture: every draw is another.
    kinds = ("open", "pointing", "pinch") if fast else POSE_KINDS[:-1]
    generator = torch.Generator().manual_seed(seed)
    poses = torch.cat([sample_pose(1, generator, kind=kind) for kind in kinds])
    poses[:, 0] = 0.0
    studio = Studio(128 if fast else 256, 256 if fast else 512, poses, 6 if fast else 32)
    with torch.no_grad():
        rows = _sheet_rows(studio)[:: 2 if fast else 1]
        drawn = [list(draw_row()) for _, draw_row in rows]
        save_png(folder / "contact_sheet.png", contact_sheet(drawn, [label for label, _ in rows], kinds))
        if not everything:
            return None
        save_png(folder / "uv_checker.png", checker_picture(studio))
        unwrapped = [unwrap_row(studio, is_right) for is_right in (True, False)]
    columns = ("image", "observations, splatted", "unwrapped", "visibility", "true texture")
    save_png(folder / "unwrap.png", contact_sheet([row for row, _ in unwrapped], ("right", "left"), columns))
    return sum(error for _, error in unwrapped) / len(unwrapped)


def _sheet_rows(studio: Studio) -> list[tuple[str, Callable[[], Tensor]]]:
    """Labels of the contact sheet's rows, and functions that draw them, one picture a pose."""

    def row(texture: Tensor, around: float, is_right: bool = True) -> Callable[[], Tensor]:
        return lambda: studio.draw(*studio.place(studio.poses, around, is_right), texture, is_right)

    surface, size = studio.surface(), studio.texture_size
    fair, deep = (skin_texture(surface, size, tone) for tone in (_FAIR, _DEEP))
    checker = uv_checker(size).to(fair)
    return [
        ("right, palm", row(fair, 15)),
        ("right, back", row(fair, 200)),
        ("left, palm", row(deep, 25, is_right=False)),
        ("left, back", row(deep, 165, is_right=False)),
        ("right, uv checker", row(checker, 40)),
    ]


def checker_picture(studio: Studio) -> Tensor:
    """Palm, back and the atlas itself, (3, H, W): where on the hand each point of the atlas lies."""
    surface, size = studio.surface(), 2 * studio.size
    large = Studio(size, 2 * studio.texture_size, studio.poses[:1], studio.shadows)
    checker = uv_checker(large.texture_size).to(studio.poses)
    views = [large.draw(*large.place(large.poses, around), checker)[0] for around in (10.0, 190.0)]
    face_index = surface.texel_map(2 * size).face_index
    # Where the next texel belongs to another face runs an edge, where it belongs to none a chart ends.
    across, down = face_index.roll(-1, 1), face_index.roll(-1, 0)
    edge = ((face_index != across) | (face_index != down)).to(checker)
    outline = ((face_index < 0) != (across < 0)) | ((face_index < 0) != (down < 0))
    outline = torch.nn.functional.max_pool2d(outline.to(checker)[None, None], 3, 1, 1)
    atlas = interpolate(checker, size=2 * size, mode="bilinear")
    atlas = torch.where(face_index < 0, 0.25 * atlas + 0.75, atlas)
    atlas = atlas * (1 - 0.35 * edge) * (1 - 0.85 * outline)
    return contact_sheet([[*views, avg_pool2d(atlas, 2)[0]]], column_labels=("palm", "back", "atlas"))


def unwrap_row(studio: Studio, is_right: bool) -> tuple[list[Tensor], float]:
    """From an image back to its texture: image, splatted observations, unwrapped texture, visibility, true texture.

    Returns:
        Five pictures (3, size, size) and the mean absolute error of the unwrapped texture where it was seen.
    """
    surface, size = studio.surface(is_right), studio.size
    renderer = TexturedHandRenderer(surface.closed_wrist(), image_size=2 * size)
    vertices, camera = studio.place(studio.poses[:1], 20 if is_right else 160, is_right)
    texture = skin_texture(surface, size, _FAIR if is_right else _DEEP)
    texture = shade(surface, vertices, texture, shadows=studio.shadows)
    image = overlay(vertices.new_ones(1, 3, 1, 1), renderer(vertices, camera, texture))
    splatted, weight = renderer.observe(vertices, camera, image).splat(size)
    unwrapped, visibility = renderer.unwrap(vertices, camera, image, texture_size=size)
    error = ((unwrapped - texture).abs() * visibility).sum() / (3 * visibility.sum()).clamp(min=1)
    charts = (surface.texel_map(size).face_index >= 0).to(texture)
    unseen = 1 - 0.25 * charts  # grey on white

    def on_atlas(values: Tensor, shown: Tensor) -> Tensor:
        return (values * shown + unseen * (1 - shown))[0]

    pictures = [
        avg_pool2d(image, 2)[0],
        on_atlas(splatted, (weight > 0).to(texture)),
        on_atlas(unwrapped, visibility),
        on_atlas(torch.ones_like(texture) * texture.new_tensor([0.16, 0.45, 0.42])[:, None, None], visibility),
        on_atlas(texture, charts[None, None]),
    ]
    return pictures, float(error)


def main() -> None:
    """Write the pictures named on the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("docs/images"), metavar="FOLDER")
    parser.add_argument("--all", action="store_true", help="also uv_checker.png and unwrap.png")
    parser.add_argument("--fast", action="store_true", help="fewer, smaller pictures")
    parser.add_argument("--seed", type=int, default=0, help="of the poses")
    arguments = parser.parse_args()
    error = write_pictures(arguments.output, arguments.fast, arguments.seed, arguments.all)
    if error is not None:
        print(f"unwrapped texture: mean error {error:.4f} (of 1) on the texels seen")
    print(f"folder: {arguments.output.resolve()}")


if __name__ == "__main__":
    main()
