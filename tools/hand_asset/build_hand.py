"""Build the bundled hand: MANO's topology and UV layout on the surface of an MIT-licensed artist's hand.

Nothing of MANO but its face list and UV layout is used. Positions, joints and skin weights come from the WebXR generic
hand. The steps:

1. `generic_hand`: read the source, merge its 25 joints into 16, cut it at the wrist.
2. `mano_layout`: find MANO's two charts, the seam between them, and the anatomy on the seam.
3. `correspondence`: match the seams by landmarks, map all charts to one disc, and lift MANO's vertices to the source.
4. `refinement`: even the triangles out, keep them on the surface, lead joint rows, tips and webs to their places.
5. Here: take the skin weights over, add the shape space, write the file, report.

    python tools/hand_asset/build_hand.py [--output src/texalign/assets/hand.npz]

The result is the same on every run of one machine; other machines may differ in the last digits, which is why the file
is kept in the repository.
"""

import argparse
import os
import time
from pathlib import Path

import numpy as np
import torch
from scipy.sparse import coo_matrix, diags

from correspondence import place_on_generic_hand
from generic_hand import PARENTS, Floats, GenericHand, Integers, clip_hand, read_generic_hand, vertex_normals
from mano_layout import ManoLayout, directed_edges, read_mano_layout
from mesh_quality import measure_pose, measure_rest, poses
from refinement import refine
from shape_space import shape_space
from surface_projection import SurfaceProjector

REPOSITORY = Path(__file__).resolve().parents[2]
DEFAULT_OUTPUT = REPOSITORY / "src" / "texalign" / "assets" / "hand.npz"
# The source goes on below the wrist plane; this many metres of it are kept, so that vertices at the end find it.
BELOW_WRIST = 0.004
SMOOTHING = 0.3
SMALLEST_WEIGHT = 1e-3
WEIGHTS_PER_VERTEX = 4


def smooth_over_neighbours(values: Floats, faces: Integers, share: float) -> Floats:
    """Mix every vertex's values (V, D) with a share of the mean of its neighbours' (one umbrella step)."""
    edges = directed_edges(faces)
    ends = np.unique(np.sort(edges, axis=1), axis=0)
    both = np.concatenate([ends, ends[:, ::-1]])
    graph = coo_matrix((np.ones(len(both)), (both[:, 0], both[:, 1])), shape=(len(values), len(values))).tocsr()
    neighbours = diags(1.0 / np.asarray(graph.sum(axis=1)).ravel()) @ graph @ values
    return (1.0 - share) * values + share * neighbours


def sparsify(weights: Floats) -> Floats:
    """Keep the largest few weights (V, J) of every row, drop tiny ones, and make rows sum to 1."""
    smallest_kept = np.sort(weights, axis=1)[:, -WEIGHTS_PER_VERTEX]
    kept = np.where((weights >= SMALLEST_WEIGHT) & (weights >= smallest_kept[:, None]), weights, 0.0)
    return kept / kept.sum(axis=1, keepdims=True)


def take_over_weights(vertices: Floats, faces: Integers, source: GenericHand, projector: SurfaceProjector) -> Floats:
    """Skin weights (V, 16): those at the source's closest points that face the same way, slightly smoothed."""
    found = projector(vertices, vertex_normals(vertices, faces))
    exact = (source.weights[source.faces[found.face]] * found.barycentric[:, :, None]).sum(axis=1)
    return sparsify(smooth_over_neighbours(exact, faces, SMOOTHING))


def assemble(layout: ManoLayout, source: GenericHand, vertices: Floats, weights: Floats) -> dict[str, np.ndarray]:
    """The arrays of the hand file; uv has v down, as everywhere in the package."""
    points, skin, joints = (array.astype(np.float32) for array in (vertices, weights, source.joints))
    return {
        "vertices": points,
        "weights": skin,
        "joints": joints,
        "parents": PARENTS.astype(np.int32),
        "faces": layout.faces.astype(np.int32),
        "uv": np.stack([layout.uv[:, 0], 1.0 - layout.uv[:, 1]], axis=1).astype(np.float32),
        "uv_faces": layout.uv_faces.astype(np.int32),
        **shape_space(points, layout.faces, skin, joints),
    }


def build() -> dict[str, np.ndarray]:
    """Run all steps and return the arrays of the hand file; prints what it is doing."""
    started = time.perf_counter()

    def say(text: str) -> None:
        print(f"[{time.perf_counter() - started:5.1f} s] {text}", flush=True)

    layout, whole = read_mano_layout(), read_generic_hand()
    start = place_on_generic_hand(layout, whole)
    say("placed all vertices through the disc maps; refining")
    source = clip_hand(whole, BELOW_WRIST)
    projector = SurfaceProjector(source.vertices, source.faces)
    vertices = refine(layout, source, start, projector)
    say("refined; taking over skin weights and computing the shape space")
    weights = take_over_weights(vertices, layout.faces, source, projector)
    hand = assemble(layout, source, vertices, weights)
    say("done")
    return hand


def write(hand: dict[str, np.ndarray], path: Path) -> None:
    """Write the hand file so that readers see either the old or the new one, never a part."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.stem}.{os.getpid()}.npz")
    try:
        np.savez_compressed(temporary, **hand)  # type: ignore[arg-type]  # numpy types the keywords as its own options
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def report(hand: dict[str, np.ndarray]) -> None:
    """Print the measures that tests/hand/test_hand_asset.py puts bounds on."""
    source = read_generic_hand()
    for name, value in measure_rest(hand, source).items():
        print(f"{name:34s}{value:9.3f}")
    for pose, rotations in poses(source).items():
        for name, value in measure_pose(hand, source, rotations).items():
            print(f"{pose + ': ' + name:34s}{value:9.3f}")


def main() -> None:
    """Build, write, and report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=DEFAULT_OUTPUT, help="where to write the hand file")
    output: Path = parser.parse_args().output
    torch.set_num_threads(1)  # the tensors are small: more threads are slower, and one keeps sums in one order
    hand = build()
    write(hand, output)
    print(f"wrote {output} ({output.stat().st_size / 1000:.0f} kB)")
    report(hand)


if __name__ == "__main__":
    main()
