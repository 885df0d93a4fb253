"""Textured meshes as files that other programs open."""

from __future__ import annotations

import io
import json
import os
import struct
from copy import deepcopy
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from texalign._internal import expect, expect_floating, write_whole
from texalign.surface import HandSurface, vertex_normals
from texalign.viz.files import pillow, save_png, to_uint8

WHO = "save_mesh"
# Numbers of the glTF 2.0 specification.
_FLOAT, _UINT = 5126, 5125
_ARRAY_BUFFER, _INDEX_BUFFER = 34962, 34963
_LINEAR, _CLAMP = 9729, 33071
_WIDTH = {"SCALAR": 1, "VEC2": 2, "VEC3": 3}
_JSON_CHUNK, _BINARY_CHUNK = 0x4E4F534A, 0x004E4942


def save_mesh(path: str | os.PathLike[str], vertices: Tensor, surface: HandSurface, texture: Tensor) -> Path:
    """Write a textured mesh as OBJ or GLB (binary glTF 2.0); every file appears whole or not at all. Needs pillow.

    The camera's axes become those of viewers: x right, y up, z towards the viewer; metres. A hand posed in a photograph
    is then seen from the photograph's side. What lies between the texture's charts gets the mean colour.

    Args:
        path: ``NAME.glb``, one file, or ``NAME.obj``, beside which ``NAME.mtl`` and ``NAME.png`` are written.
        vertices: (V, 3) metres, camera frame.
        surface: of this hand's side: ``surface.mirrored()`` for the vertices of a left hand.
        texture: (3, T, T) in [0, 1], row 0 is v = 0.

    Returns:
        The path.

    Raises:
        ValueError: another suffix, or shapes that do not fit.
        MissingExtraError: pillow is not installed.

    Example:
        >>> from texalign.hand import HandModel
        >>> vertices = HandModel()(torch.zeros(1, 16, 3)).vertices + torch.tensor([0.0, 0.0, 0.6])
        >>> path = save_mesh("hand.glb", vertices[0], HandSurface.mano(), torch.full((3, 64, 64), 0.6))
    """
    path = Path(path)
    expect(path.suffix in (".obj", ".glb"), WHO, "a path that ends in .obj or .glb", path.name)
    expect_floating(vertices, WHO, "vertices", (surface.vertex_count, 3))
    expect_floating(texture, WHO, "texture", (3, "T", "T"))
    points = vertices.detach().cpu().float() * torch.tensor([1.0, -1.0, -1.0])
    surface = deepcopy(surface).cpu()
    filled = _between_charts(texture.detach().cpu().float(), surface)
    if path.suffix == ".glb":
        content = _glb(points, surface, filled)
        return write_whole(path, lambda partial: partial.write_bytes(content))
    image, material = path.with_suffix(".png"), path.with_suffix(".mtl")
    save_png(image, filled)
    text = f"newmtl hand\nKa 0 0 0\nKd 1 1 1\nKs 0 0 0\nillum 1\nmap_Kd {image.name}\n"
    write_whole(material, lambda partial: partial.write_text(text, encoding="utf-8"))
    return write_whole(path, lambda partial: partial.write_text(_obj(points, surface, material.name), encoding="utf-8"))


def _between_charts(texture: Tensor, surface: HandSurface) -> Tensor:
    """The texture's charts a texel wider, so that bilinear lookups stay among skin, on their mean colour."""
    charts = (surface.texel_map(texture.shape[-1]).face_index >= 0).float()[None, None]
    mean = (texture * charts[0]).sum(dim=(1, 2)) / charts.sum().clamp(min=1)
    return torch.where(surface.dilated(charts)[0] > 0, surface.dilated(texture[None])[0], mean[:, None, None])


def _obj(points: Tensor, surface: HandSurface, material: str) -> str:
    lines = [f"mtllib {material}", "usemtl hand"]
    lines += ["v {:.6f} {:.6f} {:.6f}".format(*row) for row in points.tolist()]
    lines += [f"vt {u:.6f} {1 - v:.6f}" for u, v in surface.uv.tolist()]  # an OBJ's v points up
    lines += ["vn {:.4f} {:.4f} {:.4f}".format(*row) for row in vertex_normals(points[None], surface.faces)[0].tolist()]
    for face, uv_face in zip((surface.faces + 1).tolist(), (surface.uv_faces + 1).tolist()):
        lines.append("f " + " ".join(f"{vertex}/{uv}/{vertex}" for vertex, uv in zip(face, uv_face)))
    return "\n".join(lines) + "\n"


def _glb(points: Tensor, surface: HandSurface, texture: Tensor) -> bytes:
    """One mesh, one material and its picture: https://registry.khronos.org/glTF/specs/2.0/glTF-2.0.html."""
    # glTF has one index for all: a row for each uv, of which every one belongs to one vertex.
    vertex_of = torch.zeros(len(surface.uv), dtype=torch.int64)
    vertex_of[surface.uv_faces.flatten()] = surface.faces.flatten()
    position = points[vertex_of].numpy().astype("<f4")
    normal = vertex_normals(points[None], surface.faces)[0][vertex_of].numpy().astype("<f4")
    uv = surface.uv.numpy().astype("<f4")  # as here, its v points down
    index = surface.uv_faces.numpy().astype("<u4")
    picture = io.BytesIO()
    pillow()[0].fromarray(to_uint8(texture)).save(picture, format="PNG", optimize=True)
    parts = [position.tobytes(), normal.tobytes(), uv.tobytes(), index.tobytes(), picture.getvalue()]
    targets = [_ARRAY_BUFFER, _ARRAY_BUFFER, _ARRAY_BUFFER, _INDEX_BUFFER, None]
    binary, views = b"", []
    for part, target in zip(parts, targets):
        views.append({"buffer": 0, "byteOffset": len(binary), "byteLength": len(part)})
        views[-1] |= {} if target is None else {"target": target}
        binary += part + b"\0" * (-len(part) % 4)

    def accessor(view: int, kind: str, component: int, array: np.ndarray) -> dict[str, object]:
        return {"bufferView": view, "componentType": component, "count": array.size // _WIDTH[kind], "type": kind}

    limits = {"min": position.min(axis=0).tolist(), "max": position.max(axis=0).tolist()}
    document = {
        "asset": {"version": "2.0", "generator": "texalign"},
        "scene": 0,
        "scenes": [{"nodes": [0]}],
        "nodes": [{"mesh": 0, "name": "hand"}],
        "meshes": [
            {
                "name": "hand",
                "primitives": [
                    {"attributes": {"POSITION": 0, "NORMAL": 1, "TEXCOORD_0": 2}, "indices": 3, "material": 0}
                ],
            }
        ],
        "accessors": [
            accessor(0, "VEC3", _FLOAT, position) | limits,
            accessor(1, "VEC3", _FLOAT, normal),
            accessor(2, "VEC2", _FLOAT, uv),
            accessor(3, "SCALAR", _UINT, index),
        ],
        "materials": [
            {
                "name": "hand",
                "doubleSided": True,  # the wrist is open
                "pbrMetallicRoughness": {
                    "baseColorTexture": {"index": 0}, "metallicFactor": 0.0, "roughnessFactor": 0.8
                },
            }
        ],
        "textures": [{"source": 0, "sampler": 0}],
        "samplers": [{"magFilter": _LINEAR, "minFilter": _LINEAR, "wrapS": _CLAMP, "wrapT": _CLAMP}],
        "images": [{"bufferView": 4, "mimeType": "image/png"}],
        "bufferViews": views,
        "buffers": [{"byteLength": len(binary)}],
    }  # fmt: skip
    text = json.dumps(document, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 4)
    chunks = struct.pack("<II", len(text), _JSON_CHUNK) + text + struct.pack("<II", len(binary), _BINARY_CHUNK) + binary
    return struct.pack("<4sII", b"glTF", 2, 12 + len(chunks)) + chunks
