from __future__ import annotations

import inspect
import os
import re
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest
import torch
from sybil import Document
from sybil.document import PythonDocStringDocument
from sybil.parsers.markdown import PythonCodeBlockParser, SkipParser
from sybil.parsers.rest import DocTestParser

import texalign as ta
from page_stand_ins import STAND_INS
from test_package import public_names
from texalign.hand import HandModel
from texalign.rasterize import registry, unavailable_reason

TOP = Path(__file__).parents[2]
DOCS = TOP / "docs"
PAGES = sorted(DOCS.rglob("*.md"))
TEXTS = {path.relative_to(TOP).as_posix(): path.read_text(encoding="utf-8") for path in [TOP / "README.md", *PAGES]}
MODULES = [path for path in sorted((TOP / "src").rglob("*.py")) if ">>> " in path.read_text(encoding="utf-8")]
# Without an example of their own: results, by what returns them in its example; an error and protocols.
SHOWN_ELSEWHERE = {
    "texalign.LossDetails": "texalign.DenseTextureAlignmentLoss",
    "texalign.Rendering": "texalign.TexturedHandRenderer",
    "texalign.adapters.CheckReport": "texalign.adapters.check",
    "texalign.adapters.hamer.HamerAttachment": "texalign.adapters.hamer.attach",
    "texalign.hand.Hand": "texalign.hand.HandModel",
    "texalign.hand.ManoParameters": "texalign.hand.refine_mano",
    "texalign.loss.Evidence": "texalign.loss.region_competition",
    "texalign.loss.LossDetails": "texalign.loss.DenseTextureAlignmentLoss",
    "texalign.loss.ResidualCost": "texalign.loss.laplace_cost",
    "texalign.loss.Sighting": "texalign.loss.LossWatch",
    "texalign.mano.ManoFileError": None,
    "texalign.mano.ManoModel": "texalign.mano.load",
    "texalign.photographs.DetectedHand": "texalign.photographs.detect_hands",
    "texalign.photographs.FittedPhotographs": "texalign.photographs.fit_photographs",
    "texalign.photographs.HandKeypoints": "texalign.photographs.read_keypoints",
    "texalign.photographs.Photographs": "texalign.photographs.read_photographs",
    "texalign.rasterize.Backend": None,
    "texalign.rasterize.Rasterization": None,
    "texalign.render.Rendering": "texalign.render.TexturedHandRenderer",
    "texalign.synthetic.SyntheticBatch": "texalign.synthetic.generate",
}
# They need a network, a detector, a package of another licence, or minutes.
CANNOT_RUN_HERE = {
    "texalign.mano.manotorch_layer",
    "texalign.photographs.detect_hands",
    "texalign.pretrain.pretrain",
    "texalign.prior.from_hub",
    "texalign.prior.push_to_hub",
}
TRAINS = ("docs/hamer.md", "docs/lightning.md", "docs/photographs.md")


@pytest.fixture(autouse=True)
def an_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[pytest.mark.slow] * (name in TRAINS))
        for name, text in TEXTS.items()
        if "```python" in text
    ],
)
def test_the_code_on_a_page_runs(name):
    """All of it in one namespace, which begins with what the page calls yours; hidden blocks check the results."""
    path = TOP / name
    page = Document.parse(str(path), PythonCodeBlockParser(), SkipParser())
    page.namespace.update({"torch": torch, **STAND_INS.get(path.name, dict)()})
    for example in page.examples():
        example.evaluate()


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.relative_to(TOP / "src" / "texalign").as_posix())
def test_the_examples_in_docstrings_hold(path, monkeypatch):
    """In the names of their module, and of the stand-ins for what a docstring calls yours."""
    monkeypatch.setattr(registry, "rows", dict(registry.rows))
    module = PythonDocStringDocument.parse(str(path), DocTestParser())
    module.namespace.update(STAND_INS.get(path.relative_to(TOP / "src" / "texalign").as_posix(), dict)())
    for example in module.examples():
        example.evaluate()


def _public_objects():
    named = [name.rpartition(".") for name in public_names()]
    things = {f"{room}.{last}": getattr(import_module(room), last) for room, _, last in named}
    return {name: thing for name, thing in things.items() if callable(thing)}


def test_every_public_object_has_an_example():
    lacking = {name for name, thing in _public_objects().items() if ">>> " not in (inspect.getdoc(thing) or "")}
    assert lacking == set(SHOWN_ELSEWHERE)
    assert not lacking & set(filter(None, SHOWN_ELSEWHERE.values()))


def test_examples_are_skipped_only_where_something_is_missing_here():
    skipped = {name for name, thing in _public_objects().items() if "+SKIP" in (inspect.getdoc(thing) or "")}
    assert skipped == CANNOT_RUN_HERE


def test_stand_ins_belong_to_pages_and_modules():
    modules = {path.relative_to(TOP / "src" / "texalign").as_posix() for path in MODULES}
    assert set(STAND_INS) <= {Path(name).name for name in TEXTS} | modules


def test_the_pages_stay_short():
    words = {name: len(text.split()) for name, text in TEXTS.items()}
    assert words["README.md"] <= 700 and sum(words.values()) <= 10_000, words


def test_code_stands_on_the_page_itself():
    for name, text in TEXTS.items():
        assert "--8<--" not in text, name


def test_links_pictures_and_tests_lead_somewhere():
    for name, text in TEXTS.items():
        text = re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE)
        for target in re.findall(r"\]\(([^)#\s]+)", text):
            assert "://" in target or ((TOP / name).parent / target).exists(), (name, target)
        for target in re.findall(r"\b(?:tests|tools|benchmarks|experiments|examples)/[\w./]*\w", text):
            assert (TOP / target).exists(), (name, target)


def test_every_picture_is_shown():
    shown = {Path(target).name for text in TEXTS.values() for target in re.findall(r"!\[[^]]*\]\(([^)]+)\)", text)}
    assert {path.name for path in (DOCS / "images").iterdir()} == shown


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
    for name in made:
        pages = [text for text in TEXTS.values() if f"images/{name}" in text]
        assert pages and all(f"tools/pictures/{script}.py" in text for text in pages), name


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
    for quoted, mistake in _mistakes().items():
        assert quoted in TEXTS["docs/troubleshooting.md"]
        if "nvdiffrast" in quoted and unavailable_reason("nvdiffrast", torch.device("cuda:0")) is None:
            continue
        with pytest.raises((ValueError, RuntimeError), match=re.escape(quoted)):
            mistake()
