from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import normalize

from texalign._internal import Draws, computes_constants
from texalign.hand import TIP_VERTICES, HandModel
from texalign.surface import HandSurface, vertex_normals

WILD_SHARE = 0.22  # of hands in colours that no skin has

# Reflectance of skin without pigment, and what its surface alone reflects: linear red, green, blue.
_BLOODLESS = (0.92, 0.80, 0.68)
_SURFACE = (0.012, 0.011, 0.010)
# Absorbance relative to green (about 610, 540, 460 nm). Melanin falls as wavelength^-3.33 (Jacques, "Skin optics",
# 1998). Haemoglobin, three quarters oxygenated: Prahl's tables, red widened to a camera's broad channel.
_MELANIN = (0.67, 1.00, 1.70)
_HAEMOGLOBIN = (0.15, 1.00, 0.76)
# Heart, head and life line: start, control point and end of parabolas, metres towards the fingertips and the thumb.
_PALM_LINES = (
    ((0.064, -0.044), (0.060, 0.004), (0.086, 0.013)),
    ((0.070, 0.034), (0.061, 0.006), (0.043, -0.030)),
    ((0.070, 0.034), (0.052, -0.004), (0.012, 0.003)),
)
# Shortest and longest wavelength of the noise bands, metres.
_BANDS = {"coarse": (0.040, 0.120), "middle": (0.012, 0.030), "fine": (0.004, 0.008)}
_FIELDS = 16  # noise fields a band; a hand's noise is a random mixture of them


class SkinMaps(NamedTuple):
    """What is fixed about the skin of the bundled hand, at the K texels inside the atlas's charts.

    Attributes:
        texels: (K,) int64, flat index of each.
        point: (K, 3) metres, on the hand at rest.
        back: (K,) 0 on the palm's side, 1 on the back.
        knuckle: (K,) the outside of the joints.
        tip: (K,) the pads of the fingertips.
        crease: (K,) lines of the palm and of the fingers' insides.
        wrinkle: (K,) folds over the outside of the joints.
        nail: (K,) nail plates.
        nail_edge: (K,) their free edge and half moon.
        rings: (5, K) where a ring would sit on each finger.
        veins: (16, K) noise, stretched along the hand.
        noise: name of the band → (16, K) noise of unit variance.
    """

    texels: Tensor
    point: Tensor
    back: Tensor
    knuckle: Tensor
    tip: Tensor
    crease: Tensor
    wrinkle: Tensor
    nail: Tensor
    nail_edge: Tensor
    rings: Tensor
    veins: Tensor
    noise: dict[str, Tensor]


@lru_cache(maxsize=4)
@computes_constants
def skin_maps(texture_size: int, device: torch.device) -> SkinMaps:
    """Anatomy in the atlas, found once from the rest pose, its skin weights and its joint axes."""
    surface, model = HandSurface.mano(), HandModel()
    map_of_texels = surface.texel_map(texture_size)
    texels = (map_of_texels.face_index.reshape(-1) >= 0).nonzero()[:, 0]
    corners = surface.faces[map_of_texels.face_index.reshape(-1)[texels]]
    barycentric = map_of_texels.barycentric.reshape(-1, 3)[texels][..., None]
    point = (model.vertices[corners] * barycentric).sum(1)
    weights = (model.skin_weights[corners] * barycentric).sum(1)
    normal = normalize((vertex_normals(model.vertices[None], model.faces)[0][corners] * barycentric).sum(1), dim=-1)
    # Which way the back of the hand faces: +y for the palm, a finger's own abduction axis for its bones.
    dorsal = torch.cat([normal.new_tensor([[0.0, 1.0, 0.0]]), model.joint_axes[:, 1]])
    back = torch.sigmoid(7 * (normal * (weights @ dorsal)).sum(-1))
    fields = _finger_fields(model, point, weights, back, texel_length=0.25 / texture_size)
    fields["crease"] += _palm_lines(point, back, thickness=max(0.0009, 0.12 / texture_size))
    generator = torch.Generator().manual_seed(0)
    noise = {name: _noise(point, _FIELDS, low, high, generator) for name, (low, high) in _BANDS.items()}
    veins = _noise(point * point.new_tensor([0.3, 1.0, 1.0]), _FIELDS, 0.014, 0.026, generator)
    maps = SkinMaps(texels=texels, point=point, back=back, veins=veins, noise={}, **fields)
    moved = {name: value.to(device) for name, value in maps._asdict().items() if isinstance(value, Tensor)}
    return SkinMaps(**moved, noise={name: value.to(device) for name, value in noise.items()})


def _finger_fields(
    model: HandModel, point: Tensor, weights: Tensor, back: Tensor, texel_length: float
) -> dict[str, Tensor]:
    """Joints, nails, pads and rings of the five fingers, each (K,) but the rings (5, K)."""
    joints = model.joint_regressor @ model.vertices
    thin = max(0.0007, texel_length / 2)  # metres: no line thinner than a texel can show
    names = ("knuckle", "tip", "crease", "wrinkle", "nail", "nail_edge")
    fields = {name: torch.zeros_like(back) for name in names}
    rings = []
    for base, tip in zip((13, 1, 4, 10, 7), TIP_VERTICES):
        mine = weights[:, base : base + 3].sum(-1)
        ends = torch.cat([joints[base : base + 3], model.vertices[tip][None]])
        for bone, length in enumerate(ends.diff(dim=0).norm(dim=-1)):
            side, _, along = ((point - ends[bone]) @ model.joint_axes[base + bone - 1].T).unbind(-1)
            fields["knuckle"] += mine * back * _bump(along, 0.006) * (0.8 if bone else 0.5)
            if bone == 2 or (bone == 1 and base != 13):
                fields["crease"] += 0.8 * mine * (1 - back) * _bump(along + 12 * side**2, thin)
                folds = torch.cos(along * (2 * torch.pi / max(0.0024, 2.5 * texel_length))).clamp(min=0) ** 2
                fields["wrinkle"] += mine * back * folds * _bump(along, 0.0045) * _bump(side, 0.007)
            elif base != 13:
                fields["crease"] += 0.7 * mine * (1 - back) * _bump(along - 0.5 * length, thin)
            if bone == 0:
                rings.append(mine * torch.sigmoid((0.0022 - (along - 0.75 * length).abs()) / 0.0004))
        fields["tip"] += mine * (1 - back) * torch.sigmoid((along - 0.35 * length) / 0.003)
        # Of the mesh, not of the texels: a coarse atlas may have none there.
        mesh_side, _, mesh_along = ((model.vertices - ends[2]) @ model.joint_axes[base + 1].T).unbind(-1)
        middle = model.skin_weights[:, base : base + 3].sum(-1) > 0.9
        middle &= (mesh_along - 0.6 * length).abs() < 0.25 * length
        radius = (side / (0.76 * mesh_side[middle].abs().max())).abs() ** 3
        radius = radius + ((along - 0.67 * length) / (0.30 * length)).abs() ** 3
        plate = mine * torch.sigmoid(30 * (back - 0.6)) * torch.sigmoid(14 * (1 - radius))
        fields["nail"] += plate
        edge = torch.sigmoid((along - 0.91 * length) / 0.0004) + 0.4 * _bump(along - 0.42 * length, 0.0016)
        fields["nail_edge"] += plate * edge
    return {**fields, "rings": torch.stack(rings)}


def _palm_lines(point: Tensor, back: Tensor, thickness: float) -> Tensor:
    flat = torch.stack([-point[:, 0], point[:, 2]], -1)
    time = torch.linspace(0, 1, 160, dtype=point.dtype)[:, None]
    lines = torch.zeros_like(back)
    for start, control, end in point.new_tensor(_PALM_LINES):
        curve = (1 - time) ** 2 * start + 2 * time * (1 - time) * control + time**2 * end
        nearest, where = torch.cdist(flat, curve, compute_mode="donot_use_mm_for_euclid_dist").min(dim=1)
        fading = 0.8 * (1 - (where / 79.5 - 1).abs() ** 3)
        lines += (1 - back) ** 2 * fading * _bump(nearest, thickness)
    return lines


def _noise(point: Tensor, count: int, low: float, high: float, generator: torch.Generator) -> Tensor:
    """(count, K) smooth noise of unit variance over points (K, 3): sums of plane waves of `low` to `high` metres."""
    waves = 12
    direction = normalize(torch.randn(count * waves, 3, generator=generator, dtype=point.dtype), dim=-1)
    wavelength = low * (high / low) ** torch.rand(count * waves, 1, generator=generator, dtype=point.dtype)
    phase = 2 * torch.pi * torch.rand(count * waves, generator=generator, dtype=point.dtype)
    field = torch.sin(point @ (2 * torch.pi * direction / wavelength).T + phase)
    return field.unflatten(1, (count, waves)).sum(-1).T / (waves / 2) ** 0.5


def pigmented(melanin: Tensor, blood: Tensor) -> Tensor:
    """Linear reflectance (..., 3) of skin from its two pigments' optical densities (...), in green light.

    Modified Beer–Lambert, as in Tsumura et al., "Image-based skin color and texture analysis/synthesis by extracting
    hemoglobin and melanin information in the skin" (SIGGRAPH 2003), above a constant reflection of the surface.
    Fair skin has a melanin density of about 0.1, deep brown skin of 4; blood 0.1 (pale) to 1 (flushed).
    """
    density = melanin[..., None] * melanin.new_tensor(_MELANIN) + blood[..., None] * blood.new_tensor(_HAEMOGLOBIN)
    return blood.new_tensor(_SURFACE) + blood.new_tensor(_BLOODLESS) * torch.exp(-density)


def skin_textures(draws: Draws, texture_size: int, wild_share: float = WILD_SHARE) -> Tensor:
    """Hands nobody has seen: textures (B, 3, T, T) of linear albedo in [0, 1]; `wild_share` of them are no skin at all.

    Between the atlas's charts lies the mean colour, and one texel around them what is beside it inside.

    Example:
        >>> skin_textures(Draws(2, torch.Generator().manual_seed(0), torch.device("cpu")), texture_size=64).shape
        torch.Size([2, 3, 64, 64])
    """
    maps = skin_maps(texture_size, draws.device)
    albedo = _skin(draws, maps)
    albedo = _decorated(draws, maps, albedo)
    wild = draws.chance(wild_share, 1, 1)
    albedo = torch.lerp(albedo, _wild(draws, maps, albedo), wild).clamp(0.004, 0.97)
    flat = albedo.mean(dim=1)[..., None].repeat(1, 1, texture_size**2)
    textures = flat.index_copy(2, maps.texels, albedo.transpose(1, 2))
    return textures.unflatten(2, (texture_size, texture_size))


def _mixed(draws: Draws, fields: Tensor) -> Tensor:
    """(B, K) of unit variance: a random mixture of fields (N, K)."""
    return draws.normal(len(fields)) @ fields / len(fields) ** 0.5


def _skin(draws: Draws, maps: SkinMaps) -> Tensor:
    """(B, K, 3) linear albedo of natural skin: both pigments of every texel, then their colour."""

    def share(low: float, high: float) -> Tensor:
        return draws.uniform(1, low=low, high=high)

    coarse, middle, fine = (_mixed(draws, maps.noise[name]) for name in ("coarse", "middle", "fine"))
    second_coarse, second_middle = _mixed(draws, maps.noise["coarse"]), _mixed(draws, maps.noise["middle"])
    palm, back = 1 - maps.back, maps.back
    tone = 0.05 + 4.4 * draws.uniform(1) ** 1.7
    # Palms hardly tan: between 5 and 40 % of the back's melanin.
    melanin = tone * back + (0.05 + tone * share(0.05, 0.4)) * palm
    melanin = melanin * (1 + share(0, 0.5) * maps.knuckle + share(0, 0.6) * (maps.wrinkle + palm * maps.crease))
    melanin = melanin * (1 + share(0, 0.15) * coarse + share(0, 0.12) * middle).clamp(min=0.2)
    freckled = draws.chance(0.15, 1) * share(0.3, 1.5) * back
    melanin = melanin + freckled * torch.sigmoid(5 * (fine + 0.5 * middle - share(1.4, 2.4)))
    melanin = melanin + 2.5 * _moles(draws, maps)
    blood = share(0.10, 0.60) + share(0.0, 0.45) * palm + share(0, 0.6) * maps.tip * palm + share(0, 0.5) * maps.knuckle
    blood = blood + palm * (share(0, 0.12) * middle + share(0, 0.10) * fine) + share(0, 0.08) * second_middle
    blood = (blood * (1 + share(0, 0.25) * second_coarse)).clamp(min=0.03)
    skin = pigmented(melanin, blood)
    # Veins lie deep: less red comes back from them. Lines and folds catch less light of every colour.
    vein = torch.exp(-((_mixed(draws, maps.veins) / 0.22) ** 2)) * back**2 * share(-0.4, 0.45).clamp(min=0)
    line = share(0.1, 1.0) * maps.crease + share(0.0, 0.8) * maps.wrinkle
    hair = draws.chance(0.2, 1) * share(0, 0.2) * back * (fine.abs() - 0.6).clamp(min=0)
    darker = vein[..., None] * skin.new_tensor([0.55, 0.25, 0.10]) + line[..., None] * skin.new_tensor([0.30, 0.6, 0.6])
    skin = skin * torch.exp(-darker - hair[..., None])
    nail = pigmented(0.15 * tone + 0.05, share(0.15, 0.55)).expand_as(skin)
    skin = torch.lerp(skin, nail, 0.85 * maps.nail.clamp(0, 1)[:, None])
    edge = share(0.0, 0.8) * maps.nail_edge.clamp(0, 1)
    return torch.lerp(skin, skin.new_tensor([0.82, 0.72, 0.60]), edge[..., None])


def _moles(draws: Draws, maps: SkinMaps, most: int = 5) -> Tensor:
    """(B, K) in [0, 1]: up to five dark spots of 1 to 3 mm."""
    spots = maps.back.new_zeros(draws.count, len(maps.texels))
    for _ in range(most):
        distance = (maps.point - _place(draws, maps)).norm(dim=-1)
        radius = draws.log_uniform(1, low=0.001, high=0.003)
        spots = torch.maximum(spots, draws.chance(0.25, 1) * torch.sigmoid(8 * (1 - distance / radius)))
    return spots


def _place(draws: Draws, maps: SkinMaps) -> Tensor:
    """(B, 1, 3): a point of the hand at rest."""
    return maps.point[draws.integers(high=len(maps.point))][:, None]


def _decorated(draws: Draws, maps: SkinMaps, skin: Tensor) -> Tensor:
    """Tattoos, nail polish, rings, paint and dirt, each now and then, over skin (B, K, 3)."""

    def colour(lowest: float, highest: float) -> Tensor:
        return draws.uniform(1, 3, low=lowest, high=highest)

    region = _bump((maps.point - _place(draws, maps)).norm(dim=-1), draws.log_uniform(1, low=0.012, high=0.05))
    pattern = torch.sigmoid(12 * (_mixed(draws, maps.noise["middle"]).abs() - draws.uniform(1, low=0.4, high=1.0)))
    tattoo = draws.chance(0.08, 1) * (region > 0.35) * pattern * draws.uniform(1, low=0.4, high=0.9)
    skin = torch.lerp(skin, colour(0.01, 0.12), tattoo[..., None])
    polish = draws.chance(0.12, 1) * maps.nail.clamp(0, 1)
    skin = torch.lerp(skin, colour(0.02, 0.9), polish[..., None])
    fingers = torch.nn.functional.one_hot(draws.integers(high=5), 5).to(skin.dtype)
    ring = draws.chance(0.10, 1) * (fingers @ maps.rings).clamp(0, 1)
    skin = torch.lerp(skin, colour(0.3, 0.9), ring[..., None])
    stain = draws.chance(0.06, 1) * torch.sigmoid(8 * (_mixed(draws, maps.noise["middle"]) - 1.0))
    return torch.lerp(skin, colour(0.01, 0.8), (0.8 * stain)[..., None])


def _wild(draws: Draws, maps: SkinMaps, skin: Tensor) -> Tensor:
    """(B, K, 3) linear albedo beyond nature: skin with mixed-up channels, gloves of one or two colours, patterns."""
    mixing = torch.softmax(2.5 * draws.normal(3, 3), dim=-1)
    strange = (skin ** draws.uniform(1, 1, low=0.4, high=1.2)) @ mixing.transpose(1, 2)
    strange = strange * draws.log_uniform(1, 3, low=0.4, high=1.6)
    first, second, third = (draws.uniform(1, 3) ** 1.5 for _ in range(3))
    two_sided = draws.chance(0.5, 1) * (1 - maps.back)
    detail = (skin / skin.mean(dim=1, keepdim=True)).mean(dim=-1, keepdim=True) ** draws.uniform(1, 1, high=0.8)
    glove = torch.lerp(first.expand_as(skin), second.expand_as(skin), two_sided[..., None]) * detail
    coarse, middle = _mixed(draws, maps.noise["coarse"]), _mixed(draws, maps.noise["middle"])
    band = torch.where(draws.chance(0.5, 1) > 0, coarse, middle)
    other = torch.sigmoid(draws.log_uniform(1, low=1, high=8) * band)
    patterned = torch.lerp(first.expand_as(skin), third.expand_as(skin), other[..., None])
    kind = draws.uniform(1, 1)
    return torch.where(kind < 0.4, strange, torch.where(kind < 0.75, glove, patterned))


def _bump(distance: Tensor, width: float | Tensor) -> Tensor:
    return torch.exp(-((distance / width) ** 2))
