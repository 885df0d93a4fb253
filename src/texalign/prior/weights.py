"""Reading and writing an encoder's weights: safetensors and JSON, which cannot run code."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Iterator, Mapping
from importlib.resources import as_file
from importlib.resources import files as resource_files
from pathlib import Path
from typing import Any

from torch import Tensor

from texalign._internal import expect, write_whole

WHO = "UVTextureEncoder"
FORMAT = "texalign.UVTextureEncoder/1"
BUNDLED = "prior"
PICKLES = (".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt")


def save(path: Path, weights: Mapping[str, Tensor], config: Mapping[str, Any]) -> None:
    """Write weights and configuration, each file atomically; the configuration holds the weights' SHA-256."""
    from safetensors.torch import save as to_bytes

    expect(path.suffix not in PICKLES, WHO, "a folder or a file NAME.safetensors to save to", path)
    weights_path, config_path = _pair(path)
    data = to_bytes({name: value.detach().cpu().contiguous() for name, value in weights.items()})
    text = json.dumps({"format": FORMAT, "sha256": hashlib.sha256(data).hexdigest(), **config}, indent=1)
    weights_path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(weights_path, lambda partial: partial.write_bytes(data))
    write_whole(config_path, lambda partial: partial.write_text(text + "\n", encoding="utf-8"))


@contextlib.contextmanager
def locate(path: str | Path | None) -> Iterator[tuple[Path, Path]]:
    """The files of weights and configuration under a folder or file, or those in the package.

    Raises:
        FileNotFoundError: one of them is missing.
        ValueError: a file that is not safetensors.
    """
    if path is None:
        assets = resource_files("texalign").joinpath("assets")
        found = [assets.joinpath(BUNDLED + suffix) for suffix in (".safetensors", ".json")]
        if not all(file.is_file() for file in found):
            raise FileNotFoundError(
                f"{WHO}: expected bundled weights assets/{BUNDLED}.safetensors and .json, got an installation of "
                "texalign without them; give from_pretrained the path of your own"
            )
        with as_file(found[0]) as weights_path, as_file(found[1]) as config_path:
            yield weights_path, config_path
        return
    path = Path(path)
    pickle = path.suffix if path.suffix in PICKLES else None
    expect(pickle is None, WHO, "safetensors weights", f"{path}: pickles can run code and are never read")
    if path.exists() and not path.is_dir():
        expect(path.suffix == ".safetensors", WHO, "safetensors weights", path)
    for file in _pair(path):
        if not file.is_file():
            raise FileNotFoundError(f"{WHO}: expected {file.name} in {file.parent}, got no such file")
    yield _pair(path)


def read_config(path: Path, names: tuple[str, ...]) -> dict[str, Any]:
    """The JSON configuration, checked to hold every one of `names`."""
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{WHO}: expected JSON in {path}, got {error}") from error
    got = config.get("format", "no format") if isinstance(config, dict) else type(config).__name__
    expect(got == FORMAT, WHO, f"the format {FORMAT} in {path}", got)
    missing = [name for name in ("sha256", *names) if name not in config]
    expect(not missing, WHO, f"{', '.join(names)} in {path}", f"nothing for {', '.join(missing)}")
    return config


def read_weights(path: Path, config: Mapping[str, Any], like: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors of a safetensors file, checked against the names and shapes of `like`."""
    from safetensors import SafetensorError
    from safetensors.torch import load

    data = path.read_bytes()
    try:
        weights = load(data)
    except (SafetensorError, ValueError) as error:
        raise ValueError(f"{WHO}: expected safetensors weights in {path}, got a damaged file: {error}") from error
    missing, unknown = sorted(set(like) - set(weights)), sorted(set(weights) - set(like))
    expect(not missing, WHO, f"tensor {missing[0] if missing else ''} in {path}", f"none, nor {len(missing) - 1} more")
    expect(not unknown, WHO, f"only the architecture's tensors in {path}", ", ".join(unknown))
    for name, want in like.items():
        shape = tuple(want.shape)
        expect(weights[name].shape == shape, WHO, f"{name} {shape} in {path}", tuple(weights[name].shape))
        floating = weights[name].is_floating_point()
        expect(floating, WHO, f"{name} of a floating dtype in {path}", weights[name].dtype)
    digest = hashlib.sha256(data).hexdigest()
    expect(digest == config["sha256"], WHO, f"the weights with SHA-256 {config['sha256']} in {path}", digest)
    return weights


def _pair(path: Path) -> tuple[Path, Path]:
    """A folder's two files, or a named weights file and the JSON beside it."""
    if path.suffix != ".safetensors":
        return path / "model.safetensors", path / "config.json"
    return path, path.with_name("config.json") if path.name == "model.safetensors" else path.with_suffix(".json")
