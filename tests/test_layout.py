"""The rooms keep their walls: what `lint-imports` cannot see. Floors and faces inside `src` are its contracts."""

from __future__ import annotations

import ast
import inspect
import json
from importlib import import_module
from pathlib import Path

import pytest

TOP = Path(__file__).parents[1]
SRC = TOP / "src"
LONGEST = 400  # lines of a file


def module_name(path: Path) -> str:
    parts = path.relative_to(SRC).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(path): path for path in sorted(SRC.rglob("*.py"))}
PACKAGES = [name for name, path in MODULES.items() if path.stem == "__init__"]
OUTSIDE = [path for top in ("tools", "experiments", "benchmarks", "examples") for path in (TOP / top).rglob("*.py")]
OUTSIDE += (TOP / "examples").glob("*.ipynb")


def is_face(name: str) -> bool:
    """A room, or a package that its own package's face names, as `texalign.adapters.hamer`."""
    above, _, last = name.rpartition(".")
    if above in ("", "texalign"):
        return True
    return is_face(above) and last in getattr(import_module(above), "__all__", ())


def source(path: Path) -> str:
    text = path.read_text(encoding="utf-8")
    if path.suffix != ".ipynb":
        return text
    cells = [cell["source"] for cell in json.loads(text)["cells"] if cell["cell_type"] == "code"]
    lines = "\n".join("".join(cell) for cell in cells).splitlines()
    return "\n".join(line for line in lines if not line.lstrip().startswith(("%", "!")))


def used_names(text: str) -> set[str]:
    """Everything of texalign that a file imports or reaches by dots, such as ``texalign.viz.save_png``."""
    used, aliases = set(), {}
    tree = ast.parse(text)
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                used.add(alias.name)
                top = alias.name.split(".")[0]
                aliases[alias.asname or top] = alias.name if alias.asname else top
        elif isinstance(node, ast.ImportFrom):
            module = "." * node.level + (node.module or "")
            for alias in node.names:
                used.add(f"{module}.{alias.name}")
                aliases[alias.asname or alias.name] = f"{module}.{alias.name}"
    for node in ast.walk(tree):
        chain = []
        while isinstance(node, ast.Attribute):
            chain.append(node.attr)
            node = node.value
        if chain and isinstance(node, ast.Name) and node.id in aliases:
            used.add(".".join([aliases[node.id], *reversed(chain)]))
    return {name for name in used if name.split(".")[0] in ("texalign", "")}


def trespasses(text: str, importer: str = "") -> set[str]:
    """The names used past a face: a room's inner module, a name with an underscore, a relative import."""
    room = importer.split(".")[:2]
    found = set()
    for name in used_names(text):
        parts = name.split(".")
        if parts[0] == "":
            found.add(name)
        if len(room) == 2 and parts[:2] == room:
            continue
        for end in range(2, len(parts) + 1):
            part, prefix = parts[end - 1], ".".join(parts[:end])
            shared = importer and prefix == "texalign._internal"
            private = part.startswith("_") and not part.endswith("__") and not shared
            if private or (prefix in MODULES and not is_face(prefix)):
                found.add(prefix)
    return found


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("from texalign.render.scene import Scene", {"texalign.render.scene"}),
        ("from texalign.render import scene", {"texalign.render.scene"}),
        ("import texalign as ta\nta.render.scene.Scene", {"texalign.render.scene"}),
        ("from texalign import hand\nhand._poses", {"texalign.hand._poses"}),
        ("from texalign._internal import expect", {"texalign._internal"}),
        ("from .render import Scene", {".render.Scene"}),
        ("from texalign.adapters.hamer import attach", set()),
        ("import pickle, texalign\npickle._Unpickler, texalign.__version__, texalign.render.Scene", set()),
    ],
)
def test_a_way_past_a_face_is_seen(text, found):
    assert trespasses(text) == found


def test_rooms_are_entered_through_their_faces():
    files = {path.relative_to(TOP).as_posix(): trespasses(source(path)) for path in OUTSIDE}
    files |= {name: trespasses(source(path), name) for name, path in MODULES.items()}
    wrong = [f"{file} uses {', '.join(sorted(found))}" for file, found in files.items() if found]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("package", PACKAGES)
def test_a_face_names_what_is_public_and_says_what_it_is(package):
    face = import_module(package)
    assert len(set(face.__all__)) == len(face.__all__)  # their order is ruff's RUF022
    without = []
    for name in face.__all__:
        thing = getattr(face, name)
        if inspect.isclass(thing):
            without += [] if thing.__doc__ else [name]
            methods = {key: value for key, value in vars(thing).items() if not key.startswith("_")}
            without += [
                f"{name}.{key}" for key, value in methods.items() if inspect.isfunction(value) and not value.__doc__
            ]
        elif (inspect.isfunction(thing) or inspect.ismodule(thing)) and not thing.__doc__:
            without.append(name)
    assert without == []


@pytest.mark.parametrize("package", PACKAGES)
def test_a_face_hides_no_module(package):
    """`from texalign.cli.main import main` would put a function where `texalign.cli.main` is."""
    hidden = []
    for node in ast.walk(ast.parse(MODULES[package].read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom):
            names = [(alias.asname or alias.name, f"{node.module}.{alias.name}") for alias in node.names]
            hidden += [name for name, origin in names if f"{package}.{name}" in MODULES and origin not in MODULES]
        elif isinstance(node, (ast.FunctionDef, ast.ClassDef)) and f"{package}.{node.name}" in MODULES:
            hidden.append(node.name)
    assert hidden == []


def test_files_are_small():
    lengths = {name: len(source(path).splitlines()) for name, path in MODULES.items()}
    assert {name: length for name, length in lengths.items() if length > LONGEST} == {}
