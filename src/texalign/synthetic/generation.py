"""Images of hands with everything known, made to cover what cameras see rather than to look pretty."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from functools import lru_cache

import torch
from torch import Tensor

from texalign._internal import Draws, computes_constants, expect, flipped_images, mirrored_points, per_sample
from texalign.camera import PinholeCamera
from texalign.surface import HandSurface
from texalign.synthetic.colour import linear_to_srgb
from texalign.synthetic.degradation import photographed
from texalign.synthetic.layers import Layer, arm_layer, hand_layer
from texalign.synthetic.lighting import Light, draw_light
from texalign.synthetic.placement import Placed, place_hands
from texalign.synthetic.scenery import backgrounds, moved_layer, occluders, palette, pixel_centres
from texalign.synthetic.shadow import cast_shadow
from texalign.synthetic.skin import WILD_SHARE, skin_textures

_OCCLUDERS = 3


@dataclass(frozen=True, eq=False)
class SyntheticBatch:
    """Images of B hands and all that made them.

    A left hand is the mirror image of a right one: its image, masks, vertices, joints, translation and camera are
    mirrored, while pose, betas and texture stay those of the right hand. `canonical` undoes it.

    Attributes:
        image: (B, 3, S, S) float32 sRGB in [0, 1].
        mask: (B, 1, S, S) in [0, 1]: the hand's antialiased coverage times 1 − occluder_mask. The forearm is not hand.
        occluder_mask: (B, 1, S, S) in [0, 1]: what lies before the hand or beside it at its depth: things, another
            hand, a sleeve or forearm in front of the hand, black padding.
        vertices: (B, 778, 3) metres, in the camera's frame.
        joints: (B, 21, 3) metres, in the order of `texalign.hand.JOINT_NAMES`.
        camera: B cameras, in pixels of the image.
        pose: (B, 16, 3) axis-angle, radians, of `texalign.hand.HandModel`.
        betas: (B, 10).
        translation: (B, 3) metres: ``HandModel()(pose, betas).vertices + translation[:, None]`` are the vertices of a
            right hand.
        texture: (B, 3, T, T) albedo in [0, 1], sRGB-encoded: the hand's colours before light and camera.
        is_right: (B,) bool.
    """

    image: Tensor
    mask: Tensor
    occluder_mask: Tensor
    vertices: Tensor
    joints: Tensor
    camera: PinholeCamera
    pose: Tensor
    betas: Tensor
    translation: Tensor
    texture: Tensor
    is_right: Tensor

    def __len__(self) -> int:
        """B."""
        return len(self.is_right)

    def canonical(self) -> SyntheticBatch:
        """The same batch with every left hand mirrored into a right one."""
        return replace(_mirrored(self, ~self.is_right), is_right=torch.ones_like(self.is_right))

    def to(self, *args: object, **kwargs: object) -> SyntheticBatch:
        """As `torch.Tensor.to`, on every tensor, for a device (a dtype would change `is_right` as well)."""
        return SyntheticBatch(**{field.name: getattr(self, field.name).to(*args, **kwargs) for field in fields(self)})


def generate(
    n: int,
    image_size: int = 128,
    generator: torch.Generator | None = None,
    device: torch.device | str | None = None,
    texture_size: int = 128,
    left_share: float = 0.5,
    views: int = 1,
    gestures: bool = False,
    wild_share: float = WILD_SHARE,
) -> SyntheticBatch:
    """Draw hands of any colour, in any light, before any background, as bad cameras see them.

    Palm, back, side and fist views come in equal shares. Skin follows from melanin and haemoglobin; about a fifth of
    the hands have colours that no skin has, since a prior that has seen more than there is transfers better to what
    there is. Light, shadows on the hand and behind it, forearms, sleeves, occluders, other hands, exposure, white
    balance, blur, noise and JPEG vary from image to image. No gradient is recorded.

    Args:
        n: number of images; 0 gives an empty batch.
        image_size: S, pixels of the square images, 16 or more.
        generator: source of all randomness; the same seed gives the same batch, bit by bit on the CPU. None takes
            torch's global one.
        device: where the batch is made and lies; by default the generator's, else the CPU.
        texture_size: T, 16 or more.
        left_share: share of left hands, in [0, 1].
        views: neighbouring images, so many, show the same hand (betas, texture) in the same light to the same camera
            settings, in another pose, from another side, before another background; divides n.
        gestures: all hands that are no fists are of `sample_pose`'s kind "gesture": every finger is posed for itself.
        wild_share: share of hands in colours that no skin has, in [0, 1].

    Raises:
        ValueError: a value out of range.

    Example:
        >>> batch = generate(2, image_size=64, generator=torch.Generator().manual_seed(0))
        >>> batch.image.shape, batch.vertices.shape, batch.mask.shape
        (torch.Size([2, 3, 64, 64]), torch.Size([2, 778, 3]), torch.Size([2, 1, 64, 64]))
    """
    who = "synthetic.generate"
    expect(isinstance(n, int) and n >= 0, who, "n >= 0", n)
    expect(isinstance(image_size, int) and image_size >= 16, who, "image_size >= 16", image_size)
    expect(isinstance(texture_size, int) and texture_size >= 16, who, "texture_size >= 16", texture_size)
    expect(0 <= left_share <= 1, who, "left_share in [0, 1]", left_share)
    expect(0 <= wild_share <= 1, who, "wild_share in [0, 1]", wild_share)
    divides = isinstance(views, int) and views > 0 and n % views == 0
    expect(divides, who, f"views that divide n = {n}", views)
    source = generator.device if generator is not None else torch.device("cpu")
    target = torch.device(device) if device is not None else source
    with torch.no_grad(), torch.autocast(target.type, enabled=False):
        # One image too few for some operations is one image drawn and left out.
        draws = Draws(max(n, views), generator, target)
        person = Draws(draws.count, generator, target, repeats=views)
        batch = _draw_batch(draws, person, image_size, texture_size, gestures, wild_share)
        is_right = person.uniform() >= left_share
        batch = replace(_mirrored(batch, ~is_right), is_right=is_right)
        return batch if n else _first(batch, 0)


@lru_cache(maxsize=4)
@computes_constants
def _surface(device: torch.device) -> HandSurface:
    return HandSurface.mano().to(device)


def _draw_batch(
    draws: Draws, person: Draws, size: int, texture_size: int, gestures: bool, wild_share: float
) -> SyntheticBatch:
    surface = _surface(draws.device)
    placed = place_hands(draws, person, size, gestures)
    albedo = skin_textures(person, texture_size, wild_share)
    light = draw_light(person)
    skin = albedo.mean(dim=(2, 3))
    hand = hand_layer(draws, surface, placed, albedo, light, size)
    arm = arm_layer(draws, surface, placed, albedo, light, size)
    image = cast_shadow(draws.aside(), backgrounds(draws, size, skin), torch.maximum(hand.alpha, arm.alpha), light)
    other, other_is_near = _other_hand(draws, hand)
    image = other.over(image, 1 - other_is_near)
    image = hand.over(arm.over(image))
    # Where the arm is before the hand it was painted too early.
    near_arm = ((arm.depth < hand.depth) & (hand.alpha > 0)).to(image.dtype)
    image = arm.over(image, near_arm)
    free = 1 - arm.alpha * near_arm
    image, free = _with_occluders(draws, image, free, hand, placed, skin, light)
    image = other.over(image, other_is_near)
    free = free * (1 - other.alpha * other_is_near)
    image = photographed(person, image)
    padding = _padding(draws, size)
    free = free * (1 - padding)
    return SyntheticBatch(
        image=image * (1 - padding),
        mask=hand.alpha * free,
        occluder_mask=1 - free,
        vertices=placed.vertices,
        joints=placed.joints,
        camera=placed.camera,
        pose=placed.pose,
        betas=placed.betas,
        translation=placed.translation,
        texture=linear_to_srgb(albedo),
        is_right=torch.ones(draws.count, dtype=torch.bool, device=draws.device),
    )


def _other_hand(draws: Draws, hand: Layer) -> tuple[Layer, Tensor]:
    """Another hand in one image out of five, half of them this person's own; and where it is nearer (B, 1, 1, 1)."""
    layer = torch.cat([hand.colour, hand.alpha], dim=1)
    own = draws.chance(0.5, 1, 1, 1)
    moved = moved_layer(draws, torch.where(own > 0, layer, layer.roll(1, dims=0)))
    moved = moved * draws.chance(0.22, 1, 1, 1)
    return Layer(moved[:, :3], moved[:, 3:], torch.ones_like(moved[:, 3:])), draws.chance(0.4, 1, 1, 1)


def _with_occluders(
    draws: Draws, image: Tensor, free: Tensor, hand: Layer, placed: Placed, skin: Tensor, light: Light
) -> tuple[Tensor, Tensor]:
    """Things painted on the image, before the hand or between its fingers, and what of each pixel they leave free."""
    size = image.shape[-1]
    joints = draws.integers(_OCCLUDERS, high=placed.joints.shape[1])
    anchors = placed.camera.project(placed.joints).gather(1, joints[..., None].expand(-1, -1, 2)) / size
    shapes = occluders(draws, palette(draws, skin, 2 * _OCCLUDERS), anchors)
    row = pixel_centres(size, draws.device)
    brightness = light.sky + light.colour.sum(dim=1) * 0.5
    depths = placed.joints.gather(1, joints[..., None].expand(-1, -1, 3))[..., 2]
    for number in range(_OCCLUDERS):
        colour, alpha, across = shapes.layer(number, row, row)
        # Round things are lit from one side.
        shade = 1 + per_sample(draws.uniform(low=-0.7, high=0.7), 4) * across
        depth = depths[:, number] - 0.06 + 0.07 * draws.uniform()
        alpha = alpha * (hand.depth > per_sample(depth, 4))
        image = torch.lerp(image, colour * shade * brightness[:, :, None, None], alpha)
        free = free * (1 - alpha)
    return image, free


def _padding(draws: Draws, size: int) -> Tensor:
    """(B, 1, S, S): 1 where a crop reached beyond its photograph, along one side of one image out of twenty."""
    line = pixel_centres(size, draws.device)
    beyond = line < 0.3 * draws.uniform(1)
    side = draws.integers(high=4)
    flipped = torch.where((side % 2 == 0)[:, None], beyond, beyond.flip(1))
    rows, columns = flipped[:, :, None].expand(-1, -1, size), flipped[:, None, :].expand(-1, size, -1)
    chosen = torch.where(per_sample(side < 2, 3), rows, columns) & (per_sample(draws.chance(0.05), 3) > 0)
    return chosen[:, None].to(torch.float32)


def _mirrored(batch: SyntheticBatch, which: Tensor) -> SyntheticBatch:
    """The samples of `which` (B,) bool seen in a mirror; `is_right` stays."""
    flipped = {name: flipped_images(getattr(batch, name), which) for name in ("image", "mask", "occluder_mask")}
    turned = {name: mirrored_points(getattr(batch, name), which) for name in ("vertices", "joints", "translation")}
    camera = batch.camera.mirrored(batch.image.shape[-1], which)
    return replace(batch, camera=camera, **flipped, **turned)


def _first(batch: SyntheticBatch, count: int) -> SyntheticBatch:
    return SyntheticBatch(**{field.name: getattr(batch, field.name)[:count] for field in fields(batch)})
