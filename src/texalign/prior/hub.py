"""Priors on the Hugging Face Hub. Needs huggingface_hub: pip install "texalign[hub]"."""

from __future__ import annotations

from importlib import import_module
from tempfile import TemporaryDirectory
from typing import Any

from texalign._internal import MissingExtraError
from texalign.prior.uv_texture_encoder import UVTextureEncoder
from texalign.surface import HandSurface

FILES = ["model.safetensors", "config.json"]


def from_hub(repo_id: str, revision: str | None = None, surface: HandSurface | None = None) -> UVTextureEncoder:
    """Load the prior of a repository ``owner/name``, of a branch, tag or commit; errors as `from_pretrained`'s.

    Example:
        >>> encoder = from_hub("owner/hand-texture-prior")  # doctest: +SKIP
    """
    folder = _hub().snapshot_download(repo_id, revision=revision, allow_patterns=FILES)
    return UVTextureEncoder.from_pretrained(folder, surface)


def push_to_hub(encoder: UVTextureEncoder, repo_id: str, private: bool = False) -> str:
    """Write a prior to a repository, made if need be, as the user who is logged in. Returns the commit's address.

    Example:
        >>> push_to_hub(encoder, "owner/hand-texture-prior", private=True)  # doctest: +SKIP
    """
    hub = _hub()
    hub.create_repo(repo_id, private=private, exist_ok=True)
    with TemporaryDirectory() as folder:
        encoder.save_pretrained(folder)
        return str(hub.upload_folder(repo_id=repo_id, folder_path=folder, allow_patterns=FILES))


def _hub() -> Any:
    try:
        return import_module("huggingface_hub")
    except ImportError as error:
        raise MissingExtraError('the hub needs huggingface_hub: pip install "texalign[hub]"') from error
