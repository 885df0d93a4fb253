"""What would make the host wait for a CUDA device during a training step, found on the CPU by watching what is called.

A wait is allowed only where it is listed below, with its reason: a new one fails here. `test_cuda.py` asks the device
itself. Out of sight from here: nvdiffrast's rasterizer waits once a call, inside its C++ code.
"""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path

import pytest
import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

import texalign as ta
from host_network import batch_of, tiny_encoder
from rasterize import nvdiffrast_double
from rasterize.own_backends import register_own_backends
from texalign.rasterize import nearest, silhouettes

PACKAGE, TORCH = str(Path(ta.__file__).parent), str(Path(torch.__file__).parent)

# Where the host waits → how often at most in one drawing, and why.
TORCH_BACKEND = {
    # Lists of pixels that belong to faces have a length that depends on where the faces are.
    "rasterize/nearest.py:_candidates tolist": 1,  # on how many rows faces lie, and if any crosses the near plane
    "rasterize/nearest.py:_expand_spans _local_scalar_dense": 1,  # how many pixels those rows hold
    "rasterize/nearest.py:nearest_faces nonzero": 1,  # the covered pixels: all else is done on these only
}
SILHOUETTES = {
    # Neighbours that show different faces, a few per cent; and those not on one piece of surface.
    "rasterize/silhouettes.py:_differing_pairs nonzero": 2,
    # Pairs still under way, after every second step; those that crossed a silhouette and count on this axis.
    "rasterize/silhouettes.py:silhouette_pairs nonzero": 1 + (silhouettes.MAX_STEPS - 1) // 2,
}

ALWAYS = {
    "_local_scalar_dense",  # .item(), int(), float(), bool(), `if tensor`
    "nonzero",
    "masked_select",
    "_unique",
    "_unique2",
    "unique_dim",
    "unique_consecutive",
    "equal",
    "allclose",
    "is_nonzero",
    "bincount",
    "lift_fresh",  # torch.tensor, new_tensor and as_tensor of Python data
}
ALWAYS_OF_TENSORS = {"tolist", "numpy", "cpu"}  # on a CPU these call no operator
NO_CHECK = {"linalg_cross", "linalg_vector_norm"}  # other functions of linear algebra read an error code back


def waits(name, args, kwargs):
    """Whether an ATen operator would wait for a CUDA device."""
    if name in ("index", "index_put", "index_put_", "_index_put_impl_"):
        masked = any(index is not None and index.dtype in (torch.bool, torch.uint8) for index in args[1])
        return masked and not (name != "index" and args[2].numel() == 1)  # one value: masked_fill
    if name == "repeat_interleave":
        return kwargs.get("output_size") is None
    return name in ALWAYS or (name.lstrip("_").startswith("linalg_") and name.lstrip("_") not in NO_CHECK)


def site():
    """File and function that called torch; None inside the double of nvdiffrast."""
    frame, found = sys._getframe(2), None
    while frame is not None:
        file, function = frame.f_code.co_filename, frame.f_code.co_name
        if file == nvdiffrast_double.__file__:
            return None
        watching = file == __file__ and function.startswith("__torch_")
        if found is None and not file.startswith(TORCH) and not watching:
            name = str(Path(file).relative_to(PACKAGE)) if file.startswith(PACKAGE) else Path(file).name
            found = f"{name}:{function}"
        frame = frame.f_back
    return found


class Operators(TorchDispatchMode):
    def __init__(self, found):
        super().__init__()
        self.found = found

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name, kwargs = func._schema.name.removeprefix("aten::"), kwargs or {}
        if waits(name, args, kwargs):
            self.found.append((site(), name))
        return func(*args, **kwargs)


class Methods(TorchFunctionMode):
    def __init__(self, found):
        super().__init__()
        self.found = found

    def __torch_function__(self, func, types, args=(), kwargs=None):
        name = getattr(func, "__name__", "")
        listed = name in ("__getitem__", "__setitem__") and any(
            isinstance(index, list) for index in (args[1] if isinstance(args[1], tuple) else (args[1],))
        )
        if name in ALWAYS_OF_TENSORS or listed:
            self.found.append((site(), name))
        return func(*args, **(kwargs or {}))


def recorded(function):
    """Counter of "file:function operator" over a call."""
    found = []
    with Methods(found), Operators(found):
        function()
    return Counter(f"{where} {name}" for where, name in found if where is not None)


# --- the recorder ----------------------------------------------------------


VALUES, MASK = torch.arange(4.0), torch.tensor([True, False, True, True])


@pytest.mark.parametrize(
    "function, name",
    [
        (lambda: 1 if MASK.any() else 0, "_local_scalar_dense"),
        (lambda: VALUES.tolist(), "tolist"),
        (lambda: VALUES[MASK], "index"),
        (lambda: VALUES[[0, 2]], "__getitem__"),
        (lambda: torch.where(MASK), "nonzero"),
        (lambda: VALUES.repeat_interleave(MASK.long()), "repeat_interleave"),
        (lambda: VALUES.new_tensor([1.0]), "lift_fresh"),
    ],
)
def test_the_recorder_sees_what_waits(function, name):
    found = recorded(function)
    assert any(key.startswith("test_synchronisation.py:") and key.endswith(f" {name}") for key in found), found


def test_the_recorder_lets_pass_what_does_not_wait_and_sees_the_way_back():
    leaf = VALUES.clone().requires_grad_()

    def quiet():
        leaf.repeat_interleave(MASK.long(), output_size=3).masked_fill(MASK[:3], 2.0).norm().backward()
        VALUES[torch.arange(2)], VALUES[1:], torch.linalg.cross(VALUES[:3], VALUES[1:])

    assert not recorded(quiet)
    leaf.register_hook(lambda gradient: gradient * gradient.sum().item())
    assert recorded(quiet)


# --- the step --------------------------------------------------------------


def package_waits(run):
    """What a second run waits for within the package; the first one prepares atlases."""
    run()
    return {key: count for key, count in recorded(run).items() if "/" in key.split(":")[0]}


@pytest.mark.parametrize("everything", [False, True], ids=["image alone", "everything"])
@pytest.mark.parametrize("backend", ["torch", "nvdiffrast double"])
def test_a_step_waits_only_for_lengths_of_lists(surface, everything, backend, monkeypatch):
    register_own_backends(monkeypatch)
    batch = batch_of(3, 48)
    vertices = ta.hand.HandModel()(ta.hand.sample_pose(3, torch.Generator().manual_seed(3))).vertices
    vertices = vertices - vertices.mean(dim=1, keepdim=True) + torch.tensor([0.0, 0.0, 0.5])
    renderer = ta.TexturedHandRenderer(surface, 48, backend=backend)
    loss_fn = ta.DenseTextureAlignmentLoss(renderer, tiny_encoder(surface), train_texture=everything)
    camera, extras = ta.PinholeCamera(batch.focal, batch.principal), {}
    if everything:
        vertices[1, :, 0] *= -1  # a left hand
        mask = torch.ones(3, 1, 48, 48)
        mask[:, :, :12, :12] = 0
        extras = dict(mask=mask, valid=torch.ones_like(mask), is_right=torch.tensor([True, False, True]))

    def run():
        leaf = vertices.clone().requires_grad_()
        loss, details = loss_fn(leaf, camera, batch.image, **extras, return_details=True)
        loss.backward()
        assert not details.skipped.any() and (leaf.grad != 0).any()

    found = package_waits(run)
    allowed = SILHOUETTES | (TORCH_BACKEND if backend == "torch" else {})
    drawings = 1 + everything
    too_often = {key: count for key, count in found.items() if count > drawings * allowed.get(key, 0)}
    assert not too_often, f"new waits for the device: {too_often}"
    assert found.keys() == allowed.keys(), f"no longer needed: {allowed.keys() - found.keys()}"


def test_pooling_groups_waits_for_a_copy_of_the_ids_alone(surface):
    observations = ta.UVObservations(torch.rand(3, 5, 2), torch.rand(3, 5, 3), torch.ones(3, 5, dtype=torch.bool))
    prior, group = tiny_encoder(surface), torch.tensor([0, 4, 0])
    found = package_waits(lambda: prior(observations, group=group))
    # The others read that copy, which lies on the CPU.
    assert {key.split()[1] for key in found} <= {"cpu", "_unique2", "_local_scalar_dense"}
    assert sum(count for key, count in found.items() if key.endswith(" cpu")) == 1


def test_faces_across_the_near_plane_cost_one_wait_more(surface, scene):
    vertices, camera = scene(2, 32, distance=0.05)
    points = camera.homogeneous(vertices)
    rows = recorded(lambda: nearest.nearest_faces(points, surface.faces, 32, 32, 0.05))
    assert rows["rasterize/nearest.py:_candidates nonzero"] == 1
    assert rows["rasterize/nearest.py:_candidates tolist"] == 1


def test_hamers_step_waits_only_for_lengths_of_lists(surface):
    from hamer_batches import training_batch
    from hamer_stand_in import make_model

    from texalign.adapters import hamer

    model, batch = make_model(0), training_batch(2, 0)
    loss_fn = ta.DenseTextureAlignmentLoss(ta.TexturedHandRenderer(surface, 128), tiny_encoder(surface))
    attachment = hamer.attach(model, loss_fn, weight=0.02)  # an automatic one is read in 20 batches

    def run():
        output = model.forward_step(batch, train=True)
        model.compute_loss(batch, output, train=True).backward()

    allowed = TORCH_BACKEND | SILHOUETTES
    unknown = {key: count for key, count in package_waits(run).items() if count > allowed.get(key, 0)}
    assert not unknown, f"new waits for the device: {unknown}"
    assert attachment.skipped < 2 * attachment.batches  # else nothing was drawn
