from pathlib import Path

import torch

import texalign as ta
from texalign import synthetic

# --8<-- [start:imports]
from texalign.viz import contact_sheet, outline, overlay, save_png

# --8<-- [end:imports]

batch = synthetic.generate(4, image_size=128, generator=torch.Generator().manual_seed(1), left_share=0)
vertices, camera, image = batch.vertices, batch.camera, batch.image
texture_loss = ta.DenseTextureAlignmentLoss.from_pretrained(image_size=128)

# --8<-- [start:shown]
loss, details = texture_loss(vertices, camera, image, return_details=True)
columns = {
    "image": image,
    "outline of the mesh": outline(image, details.coverage),
    "textured hand": overlay(image, details.rendering),
    "residual": details.residual * details.coverage,
}
save_png("texture_loss.png", contact_sheet(list(zip(*columns.values())), column_labels=list(columns)))
# --8<-- [end:shown]

assert Path("texture_loss.png").is_file()
