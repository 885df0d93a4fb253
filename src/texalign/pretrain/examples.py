from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from texalign import synthetic
from texalign._internal import Draws
from texalign.camera import PinholeCamera
from texalign.hand import HandModel, rotation_matrices, rotation_vectors
from texalign.photographs import FittedPhotographs
from texalign.pretrain.settings import VIEWS
from texalign.pretrain.subject import Subject

# Noise on the mesh through which the prior observes, at full strength: radians on every joint and on the whole hand,
# metres of translation. The meshes of a network in training are wrong, too.
POSE_NOISE, TURN_NOISE, SHIFT_NOISE = 0.12, 0.06, (0.004, 0.004, 0.012)
# Photographs of few people in few rooms are shown in other light: factors of all channels, of each, and powers.
EXPOSURE, TINT, GAMMA = (0.7, 1.4), (0.85, 1.18), (0.75, 1.33)


class Posed(Protocol):
    """B hands of the bundled model: pose (B, 16, 3), betas (B, 10), translation (B, 3)."""

    @property
    def pose(self) -> Tensor: ...  # noqa: D102
    @property
    def betas(self) -> Tensor: ...  # noqa: D102
    @property
    def translation(self) -> Tensor: ...  # noqa: D102


@dataclass(frozen=True, eq=False)
class Examples:
    """Images of right hands to learn from; rows 2 i and 2 i + 1 are a pair.

    Attributes:
        image: (B, 3, S, S).
        camera: B cameras.
        mask: (B, 1, S, S), where the hand's true colours are.
        vertices: (B, V, 3) metres, where the hand is.
        mistaken: gives vertices (B, V, 3) as a network might predict them.
        hand: (B,) int64 on the CPU, equal in a pair that shows one hand in one light, else different.
    """

    image: Tensor
    camera: PinholeCamera
    mask: Tensor
    vertices: Tensor
    mistaken: Callable[[torch.Generator], Tensor]
    hand: Tensor


def joined(parts: Sequence[Examples]) -> Examples:
    """One after the other."""
    if len(parts) == 1:
        return parts[0]
    offsets = [sum(len(part.hand) for part in parts[:number]) for number in range(len(parts))]
    return Examples(
        image=torch.cat([part.image for part in parts]),
        camera=PinholeCamera(
            torch.cat([part.camera.focal for part in parts]), torch.cat([part.camera.principal for part in parts])
        ),
        mask=torch.cat([part.mask for part in parts]),
        vertices=torch.cat([part.vertices for part in parts]),
        mistaken=lambda generator: torch.cat([part.mistaken(generator) for part in parts]),
        hand=torch.cat([part.hand + offset for part, offset in zip(parts, offsets)]),
    )


def synthetic_examples(subject: Subject, pairs: int, image_size: int, generator: torch.Generator) -> Examples:
    """Images of `texalign.synthetic`, two of every hand."""
    batch = synthetic.generate(VIEWS * pairs, image_size, generator, left_share=0, views=VIEWS)
    return Examples(
        image=batch.image,
        camera=batch.camera,
        mask=batch.mask,
        vertices=subject.vertices_of(batch.vertices),
        mistaken=lambda source: subject.vertices_of(perturbed_vertices(subject.model, batch, source)),
        hand=torch.arange(VIEWS * pairs) // VIEWS,
    )


def photographed_examples(
    subject: Subject, fitted: FittedPhotographs, pairs: int, generator: torch.Generator
) -> Examples:
    """Photographs drawn uniformly, each paired with another of the same hand if there is one, both recoloured alike."""
    rows, same = _draw_pairs(fitted.photographs.hand_id, len(fitted), pairs, generator)
    chosen = fitted.photographs.select(rows)
    vertices = fitted.vertices[rows]
    if fitted.parameters is None:

        def mistaken(source: torch.Generator) -> Tensor:
            return moved_vertices(vertices, source)
    else:
        vertices = subject.vertices_of(vertices)
        parameters = fitted.parameters.select(rows)
        pose = rotation_vectors(subject.model.pose_from_angles(parameters.angles, parameters.orientation))
        hands = _Hands(pose, parameters.betas(), parameters.translation)

        def mistaken(source: torch.Generator) -> Tensor:
            return subject.vertices_of(perturbed_vertices(subject.model, hands, source))

    number = torch.arange(VIEWS * pairs)
    return Examples(
        image=recoloured(chosen.image, generator),
        camera=chosen.camera,
        mask=torch.ones_like(chosen.image[:, :1]) if chosen.mask is None else chosen.mask,
        vertices=vertices,
        mistaken=mistaken,
        hand=torch.where(same.cpu().repeat_interleave(VIEWS), number // VIEWS * VIEWS, number),
    )


@dataclass(frozen=True, eq=False)
class _Hands:
    pose: Tensor
    betas: Tensor
    translation: Tensor


def _draw_pairs(hand_id: Tensor | None, count: int, pairs: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Rows (2 P,) of photographs, and for every pair of them (P,) whether it shows one hand in two photographs."""
    device = generator.device
    first = torch.randint(count, (pairs,), generator=generator, device=device)
    score = torch.rand(pairs, count, generator=generator, device=device)
    # The best score wins: another photograph of the hand, else any other, else the very same.
    score = score.scatter(1, first[:, None], -1.0)
    if hand_id is not None:
        score = score + 2 * ((hand_id == hand_id[first][:, None]) & (score >= 0))
    best = score.max(dim=1)
    return torch.stack([first, best.indices], dim=1).flatten(), best.values >= 2


def recoloured(image: Tensor, generator: torch.Generator) -> Tensor:
    """Images (B, 3, S, S) to the power of a gamma, times an exposure and a tint; neighbours of a pair alike."""
    draws = Draws(len(image), generator, image.device, repeats=VIEWS)
    gamma = draws.log_uniform(1, 1, 1, low=GAMMA[0], high=GAMMA[1])
    gain = draws.log_uniform(1, 1, 1, low=EXPOSURE[0], high=EXPOSURE[1])
    tint = draws.log_uniform(3, 1, 1, low=TINT[0], high=TINT[1])
    return (image.clamp(0, 1) ** gamma * gain * tint).clamp(0, 1)


def perturbed_vertices(model: HandModel, hands: Posed, generator: torch.Generator) -> Tensor:
    """Vertices (B, 778, 3) of hands with a wrong pose and place, by a strength in [0, 1] drawn for each."""
    count = len(hands.pose)

    def normal(*shape: int) -> Tensor:
        return torch.randn(count, *shape, generator=generator, device=hands.pose.device)

    strength = torch.rand(count, 1, 1, generator=generator, device=hands.pose.device)
    noise = torch.full((16, 1), POSE_NOISE, device=hands.pose.device)
    noise[0] = TURN_NOISE
    pose = hands.pose + strength * noise * normal(16, 3)
    shift = strength[:, 0] * normal(3) * hands.pose.new_tensor(SHIFT_NOISE)
    return model(pose, hands.betas).vertices + (hands.translation + shift)[:, None]


def moved_vertices(vertices: Tensor, generator: torch.Generator) -> Tensor:
    """Meshes (B, V, 3) of unknown pose, turned about their middle and shifted by a strength drawn for each."""
    draws = Draws(len(vertices), generator, vertices.device)
    strength = draws.uniform(1)
    turn = rotation_matrices(strength * TURN_NOISE * draws.normal(3))
    shift = strength * draws.normal(3) * vertices.new_tensor(SHIFT_NOISE)
    middle = vertices.mean(dim=1, keepdim=True)
    return (vertices - middle) @ turn.transpose(1, 2) + middle + shift[:, None]
