"""What a run depends on, beside its data."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Settings:
    """The same for all arms of a table, but the rate. The defaults are those of photographs.

    Training has two stages. In the first every arm learns from its labels alone, so that arms with the same labels
    share it; its rate is constant. In the second the arm's own term is added, its weight rising over the first epochs:
    the mesh must be within a finger's width before its texture means anything. There the rate falls to zero.

    Attributes:
        image_size: pixels.
        batch_size: images a step, a multiple of neighbours.
        neighbours: images that follow each other in a batch: frames of a video, or views of one hand.
        shifted: whether neighbours may begin at any sample (a video) or at multiples only (views).
        first_epochs, second_epochs: of the two stages.
        ramp_epochs: of the second stage, over which the term's weight rises.
        first_rate: of the first stage.
        start: file of a `Training` whose network all arms begin with; None for random weights.
        rehearsed: generated images with full labels in every step, beside the batch, a multiple of neighbours: what was
            learned on them is not forgotten (rehearsal). 0 for none.
        corrections: how often networks that are shown keypoints correct themselves.
        keypoint_scale: pixels, see `texalign.hand.keypoint_loss`; begins at a quarter of the image.
        loss_size: pixels at which terms on images are computed.
        token_count: observations that the prior is shown of each image.
        texture_weight, plain_weight, silhouette_weight, space_weight: of the arms' terms. With a silhouette
            weight of 8, the second and third have gradients of about the same length at the vertices, a third of the
            keypoint term's at the joints; the texture's is twice as long: `tune` found 6 better than 3 and 12.
    """

    image_size: int = 128
    batch_size: int = 8
    neighbours: int = 4
    shifted: bool = True
    first_epochs: int = 2
    second_epochs: int = 8
    ramp_epochs: float = 2
    first_rate: float = 3e-4
    start: str | None = None
    rehearsed: int = 4
    corrections: int = 8
    keypoint_scale: float = 4.0
    loss_size: int = 96
    token_count: int = 256
    texture_weight: float = 6.0
    plain_weight: float = 30.0
    silhouette_weight: float = 24.0
    space_weight: float = 2.0


@dataclass(frozen=True)
class Run:
    """One training: an arm, its rate, and a seed of weights, label noise, order and augmentation."""

    arm: str
    rate: float
    seed: int
    settings: Settings = field(default_factory=Settings)
