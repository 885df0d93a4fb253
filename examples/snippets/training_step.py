import torch
from torch import nn

import texalign as ta
from texalign import synthetic
from texalign.hand import HandModel

torch.manual_seed(0)
scenes = synthetic.generate(4, image_size=128, generator=torch.Generator().manual_seed(2), left_share=0)


class Network(nn.Module):
    """Stands for a network: one correction of pose and place for every image."""

    def __init__(self) -> None:
        super().__init__()
        self.hand = HandModel()
        self.pose = nn.Parameter(scenes.pose + 0.05 * torch.randn_like(scenes.pose))
        self.place = nn.Parameter(scenes.translation + 0.003)

    def forward(self, image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Vertices and joints, metres, in the camera's frame."""
        vertices, joints = self.hand(self.pose, scenes.betas)
        return vertices + self.place[:, None], joints + self.place[:, None]


network = Network()
optimizer = torch.optim.AdamW(network.parameters(), lr=1e-3)
loader = [(scenes.image, scenes.camera, scenes.camera.project(scenes.joints), torch.ones(4, 1, 128, 128))] * 2

# --8<-- [start:shown]
texture_loss = ta.DenseTextureAlignmentLoss.from_pretrained(image_size=128)
weight = 2.0

for image, camera, keypoints, valid in loader:
    vertices, joints = network(image)
    keypoint_loss = (camera.project(joints) - keypoints).abs().mean()
    loss, details = texture_loss(vertices, camera, image, valid=valid, return_details=True)
    optimizer.zero_grad()
    (keypoint_loss + weight * loss).backward()
    optimizer.step()
    print(f"texture {loss.item():.3f}, skipped {int(details.skipped.sum())} of {len(image)}")
# --8<-- [end:shown]

assert torch.isfinite(loss) and all(torch.isfinite(parameter).all() for parameter in network.parameters())
