from __future__ import annotations

import torch

from texalign.surface import vertex_normals


def test_normals_of_a_tetrahedron_point_away_from_its_middle():
    corners = torch.tensor([[[1.0, 1.0, 1.0], [1.0, -1.0, -1.0], [-1.0, 1.0, -1.0], [-1.0, -1.0, 1.0]]])
    faces = torch.tensor([[0, 1, 2], [0, 3, 1], [0, 2, 3], [1, 3, 2]])
    torch.testing.assert_close(vertex_normals(corners, faces), corners / 3**0.5)
