from __future__ import annotations

import os
import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import texalign as ta
from texalign.hand import HandModel
from texalign.rasterize import unavailable_reason

TOP = Path(__file__).parents[2]
DOCS, SNIPPETS = TOP / "docs", TOP / "examples" / "snippets"
PAGES = sorted(DOCS.rglob("*.md"))
# A folder of photographs, MANO's own files: tests of the modules make the same calls.
NEEDS_FILES_OF_THE_USER = ("photographs.md", "mano-files.md")
INCLUDE = re.compile(r'^--8<-- "([^":]+)(?::(\w+))?"$', flags=re.MULTILINE)


def names(paths):
    return [path.relative_to(TOP).as_posix() for path in paths]


@pytest.mark.parametrize(
    "path",
    [
        pytest.param(path, id=path.stem, marks=[pytest.mark.slow] * (path.stem in ("distributed", "train_a_prior")))
        for path in sorted(SNIPPETS.glob("*.py"))
    ],
)
def test_a_snippet_runs(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    if "__main__" not in path.read_text(encoding="utf-8"):
        with torch.random.fork_rng():
            runpy.run_path(str(path))
        return
    # One that starts processes must be a program of its own.
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, str(path)], capture_output=True, text=True, env=environment, timeout=300)
    assert done.returncode == 0, done.stderr


def test_pages_and_snippets_agree():
    shown = {name: INCLUDE.findall(page.read_text(encoding="utf-8")) for name, page in zip(names(PAGES), PAGES)}
    used = {include for includes in shown.values() for include in includes}
    for file, section in used:
        text = (SNIPPETS / file).read_text(encoding="utf-8")
        for end in ("start", "end"):
            assert not section or f"# --8<-- [{end}:{section}]\n" in text, (file, section)
    assert {file for file, _ in used} == {path.name for path in SNIPPETS.glob("*.py")}


def test_code_on_pages_is_code_that_runs():
    fence = re.compile(r"^```python\n(.*?)^```", flags=re.DOTALL | re.MULTILINE)
    for page in PAGES:
        for block in fence.findall(page.read_text(encoding="utf-8")):
            assert page.name in NEEDS_FILES_OF_THE_USER or not INCLUDE.sub("", block).strip(), page.name


def test_the_six_lines_are_the_readmes():
    (readme,) = re.findall(r"```python\n(.*?)```", (TOP / "README.md").read_text(encoding="utf-8"), flags=re.DOTALL)
    shown = (SNIPPETS / "six_lines.py").read_text(encoding="utf-8").split("[start:shown]\n")[1].split("# --8<--")[0]
    assert shown.strip() in readme


def test_links_and_pictures_lead_somewhere():
    for page in PAGES:
        text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
        for target in re.findall(r"\]\(([^)#\s]+)", text):
            assert "://" in target or (page.parent / target).exists(), (page.name, target)


def test_the_site_lists_every_page():
    listed = re.findall(r"^ +- (?:[^:\n]+: )?([\w/-]+\.md)$", (TOP / "mkdocs.yml").read_text(), flags=re.MULTILINE)
    assert sorted(listed) == sorted(page.relative_to(DOCS).as_posix() for page in PAGES)


def test_every_public_package_has_a_page():
    public = {"index", "texalign", *ta._MODULES}
    assert {page.stem for page in (DOCS / "api").glob("*.md")} == public


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["loss", "convention"])
def test_pictures_are_made_by_the_scripts_their_page_names(kind, tmp_path):
    script = f"{kind}_pictures"
    command = [sys.executable, str(TOP / "tools" / "pictures" / f"{script}.py"), "--output", str(tmp_path)]
    subprocess.run(command, check=True, env={**os.environ, "OMP_NUM_THREADS": "1"}, timeout=300)
    made = {path.name for path in tmp_path.iterdir()}
    committed = {path.name: path for path in (DOCS / "images").glob(f"{kind}*_*.png")}
    assert made == set(committed)
    text = {page.name: page.read_text(encoding="utf-8") for page in PAGES}
    for name in made:
        pages = [page for page in text if f"images/{name}" in text[page]]
        assert pages and all(f"tools/pictures/{script}.py" in text[page] for page in pages), name


def _mistakes():
    loss = ta.DenseTextureAlignmentLoss.from_pretrained(image_size=256)
    strict = ta.DenseTextureAlignmentLoss.from_pretrained(image_size=256, validate=True)
    camera, translation = ta.PinholeCamera.from_hamer(torch.tensor([[6.0, 0.07, 0.0]]))
    vertices = HandModel()(torch.zeros(1, 16, 3)).vertices + translation[:, None]
    image = torch.rand(1, 3, 256, 256)
    normalised = image.clone()
    normalised[0, 0, 0, 0], normalised[0, 0, 0, 1] = -2, 2
    return {
        "expected vertices (B, 778, 3), got (1, 21, 3)": lambda: loss(vertices[:, :21], camera, image),
        "expected image (1, 3, 256, 256), got (1, 3, 256, 192)": lambda: loss(vertices, camera, image[..., 32:-32]),
        "expected image in [0, 1], got [-2.00, 2.00]: an ImageNet-normalised image? Undo it first": lambda: strict(
            vertices, camera, normalised
        ),
        "the nvdiffrast backend does not run on cuda:0: ": lambda: ta.TexturedHandRenderer(
            ta.HandSurface.mano(), 256, backend="nvdiffrast"
        ),
    }


def test_the_errors_of_troubleshooting_are_those_that_come():
    page = (DOCS / "troubleshooting.md").read_text(encoding="utf-8")
    for quoted, mistake in _mistakes().items():
        assert quoted in page
        if "nvdiffrast" in quoted and unavailable_reason("nvdiffrast", torch.device("cuda:0")) is None:
            continue
        with pytest.raises((ValueError, RuntimeError), match=re.escape(quoted)):
            mistake()
