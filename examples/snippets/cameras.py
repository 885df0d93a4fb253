import torch

import texalign as ta

K = torch.tensor([[[600.0, 0.0, 320.0], [0.0, 600.0, 240.0], [0.0, 0.0, 1.0]]])
points = torch.tensor([[[0.02, -0.01, 0.5]]])

# --8<-- [start:shown]
# Intrinsics of a data set whose whole numbers are pixel centres: OpenCV, FreiHAND, HO3D.
camera = ta.PinholeCamera.from_intrinsics(K, pixel_offset=0.5)

# A square crop that begins at (200, 120) and is resized from 180 to 224 pixels.
left_top, scale = torch.tensor([200.0, 120.0]), torch.tensor(224 / 180)
crop = camera.cropped(left_top, scale)
# --8<-- [end:shown]

assert torch.allclose(crop.project(points), (camera.project(points) - left_top) * scale, atol=1e-3)
assert torch.allclose(camera.project(points), torch.tensor([[[344.5, 228.5]]]))
