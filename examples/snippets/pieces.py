# --8<-- [start:hand]
import torch

import texalign as ta
from texalign import synthetic

batch = synthetic.generate(4, image_size=128, generator=torch.Generator().manual_seed(1), left_share=0)
vertices, camera, image = batch.vertices, batch.camera, batch.image
# --8<-- [end:hand]

# --8<-- [start:pieces]
surface = ta.HandSurface.mano()
renderer = ta.TexturedHandRenderer(surface, image_size=128)
encoder = ta.UVTextureEncoder.from_pretrained()

observations = renderer.observe(vertices, camera, image, count=512)  # uv (4, 512, 2), rgb (4, 512, 3), valid (4, 512)
texture = encoder(observations)  # (4, 3, 128, 128): what was not seen is guessed
rendering = renderer(vertices, camera, texture)  # image, coverage, depth, uv, face_index
over_the_image = rendering.image + (1 - rendering.coverage) * image
# --8<-- [end:pieces]

# --8<-- [start:unwrap]
partial, visible = renderer.unwrap(vertices, camera, image, texture_size=256)  # (4, 3, 256, 256), (4, 1, 256, 256)
# --8<-- [end:unwrap]

assert texture.shape == (4, 3, 128, 128) and over_the_image.shape == image.shape
assert observations.valid.any(dim=1).all() and visible.sum() > 0 and partial.amax() <= 1
