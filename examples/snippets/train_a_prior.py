from pathlib import Path

import texalign as ta

# --8<-- [start:settings]
from texalign.pretrain import PretrainSettings, pretrain

settings = PretrainSettings(steps=4000, batch_size=12, image_size=128)
# --8<-- [end:settings]
settings = PretrainSettings(steps=1, batch_size=32, image_size=32, token_count=64, target_count=64)

# --8<-- [start:run]
encoder = pretrain("my-prior", settings)
print(encoder.provenance["trained_on"], encoder.provenance["metrics"])
# --8<-- [end:run]

# --8<-- [start:use]
surface = ta.HandSurface.mano()
encoder = ta.UVTextureEncoder.from_pretrained("my-prior", surface)  # the surface's atlas must be the one trained for
texture_loss = ta.DenseTextureAlignmentLoss(ta.TexturedHandRenderer(surface, image_size=128), encoder)
# --8<-- [end:use]

assert sorted(path.name for path in Path("my-prior").iterdir()) == [
    "checkpoint.pt",
    "config.json",
    "log.jsonl",
    "model.safetensors",
]
