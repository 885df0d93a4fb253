from __future__ import annotations

import math
import re
from itertools import pairwise
from pathlib import Path

import numpy as np

from texalign._internal import expect


def read_obj(path: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Vertices, faces, uv (v down) and uv_faces of an OBJ file."""
    vertices: list[tuple[float, float, float]] = []
    uv: list[tuple[float, float]] = []
    faces: list[tuple[int, int, int]] = []
    uv_faces: list[tuple[int, int, int]] = []
    with path.open(encoding="utf-8", errors="replace") as file:
        for number, line in enumerate(file, start=1):
            words = line.split()
            if not words:
                continue
            where = f"{path.name} line {number}"
            if words[0] == "v":
                expect(len(words) >= 4 and all(map(_is_number, words[1:4])), where, "three numbers (v)", line.strip())
                vertices.append((float(words[1]), float(words[2]), float(words[3])))
            elif words[0] == "vt":
                expect(len(words) >= 3 and all(map(_is_number, words[1:3])), where, "two numbers (vt)", line.strip())
                uv.append((float(words[1]), 1.0 - float(words[2])))
            elif words[0] == "f":
                corners = [_obj_corner(word, len(vertices), len(uv), where) for word in words[1:]]
                expect(len(corners) >= 3, where, "a face of three corners or more", line.strip())
                for second, third in pairwise(corners[1:]):
                    faces.append((corners[0][0], second[0], third[0]))
                    uv_faces.append((corners[0][1], second[1], third[1]))
    expect(len(faces) > 0, path.name, "an OBJ file with faces (f lines)", "none")
    points = np.array(vertices, dtype=np.float64).reshape(-1, 3)
    return points, np.array(faces), np.array(uv, dtype=np.float64).reshape(-1, 2), np.array(uv_faces)


def _is_number(word: str) -> bool:
    try:
        return math.isfinite(float(word))
    except ValueError:
        return False


def _obj_corner(word: str, vertex_count: int, uv_count: int, where: str) -> tuple[int, int]:
    found = re.fullmatch(r"(-?\d+)/(-?\d+)(/.*)?", word, re.ASCII)
    expect(found is not None, where, "corners with texture coordinates (v/vt)", repr(word))
    # OBJ counts from 1; negative numbers count back from the last element read.
    vertex, texture = int(found[1]), int(found[2])  # type: ignore[index]
    return (vertex - 1 if vertex > 0 else vertex_count + vertex, texture - 1 if texture > 0 else uv_count + texture)
