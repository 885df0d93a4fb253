from __future__ import annotations

import shutil
import sys
from types import SimpleNamespace

import pytest
import torch

import texalign as ta
from texalign._internal import MissingExtraError
from texalign.prior import hub


class FakeHub(SimpleNamespace):
    """Repositories in a folder, by the functions of huggingface_hub that are used."""

    def create_repo(self, repo_id, *, private=None, exist_ok=False):
        repository = self.root / repo_id
        if repository.exists() and not exist_ok:
            raise FileExistsError(repo_id)
        (repository / "main").mkdir(parents=True, exist_ok=True)
        self.private[repo_id] = private

    def upload_folder(self, *, repo_id, folder_path, allow_patterns=None):
        shutil.copytree(folder_path, self.root / repo_id / "main", dirs_exist_ok=True)
        return f"https://hub/{repo_id}/commit/1"

    def snapshot_download(self, repo_id, *, revision=None, allow_patterns=None):
        folder = self.root / "cache" / repo_id
        folder.mkdir(parents=True, exist_ok=True)
        for name in allow_patterns:
            shutil.copy(self.root / repo_id / (revision or "main") / name, folder)
        return str(folder)


@pytest.fixture
def fake(tmp_path, monkeypatch):
    fake = FakeHub(root=tmp_path, private={})
    monkeypatch.setitem(sys.modules, "huggingface_hub", fake)
    return fake


@pytest.fixture(scope="module")
def encoder(surface):
    torch.manual_seed(0)
    encoder = ta.UVTextureEncoder(surface, texture_size=32, latent_grid=8, width=24, layers=1, heads=2)
    encoder.provenance = {"trained_on": "nothing"}
    return encoder


def test_what_is_pushed_is_what_comes_back(fake, encoder, surface):
    assert hub.push_to_hub(encoder, "hands/prior", private=True) == "https://hub/hands/prior/commit/1"
    assert hub.push_to_hub(encoder, "hands/prior") and fake.private == {"hands/prior": False}
    stored = sorted(file.name for file in (fake.root / "hands/prior/main").iterdir())
    assert stored == ["config.json", "model.safetensors"]
    (fake.root / "hands/prior/main").rename(fake.root / "hands/prior/v2")
    loaded = hub.from_hub("hands/prior", "v2", surface)
    assert loaded.provenance == encoder.provenance and not loaded.training
    assert all(torch.equal(value, encoder.state_dict()[name]) for name, value in loaded.state_dict().items())


def test_without_the_package_the_way_out_is_told(monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(MissingExtraError, match=r'pip install "texalign\[hub\]"'):
        hub.from_hub("hands/prior")
