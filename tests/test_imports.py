"""The direction of imports, as `docs/architecture.md` draws it.

The source is read, not imported, so that imports inside functions count as well.
"""

from __future__ import annotations

import ast
import importlib
import re
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest
from setuptools.config.pyprojecttoml import read_configuration

import vqgan_fast
from vqgan_fast import cli

PACKAGE = Path(__file__).resolve().parent.parent / "vqgan_fast"

# Each part of the package and the parts it may import besides itself, from the kernels upwards.
ALLOWED: dict[str, set[str]] = {
    "_library": set(),
    "_native": set(),
    "numpy": {"_native"},
    "ops": {"_library"},
    "preflight": set(),
    "damage": set(),
    "info": {"_library", "_native", "damage", "preflight"},
    "quantizers": {"ops"},
    "models": {"quantizers", "ops"},
    "compat": {"losses", "models", "quantizers", "ops"},
    "losses": {"models", "quantizers", "ops"},
    "data": {"models", "quantizers", "ops"},
    "train": {"losses", "data", "models", "quantizers", "ops"},
    "sampling": {"models", "quantizers", "ops"},
    "guidance": {"sampling", "models", "quantizers", "ops"},
}
# The programs stand on top: they may use every part, and no part may use them.
PROGRAMS = {"cli", "demo", "evaluate", "plan", "report", "study", "__main__"}

# What other packages are imported as, where that is not their name.
PACKAGE_OF = {"PIL": "pillow", "skimage": "scikit-image", "yaml": "pyyaml"}
# The extra of each that is for some programs alone; `train` brings everything else.
EXTRA_OF = {"matplotlib": "demo", "rich": "demo", "torch-fidelity": "evaluate"}
# What comes with another one (lpips requires torchvision), and what its user has anyway.
NOT_OURS = {"torchvision", "transformers"}


@cache
def tree_of(path: Path) -> ast.Module:
    """A source file, parsed once for all checks."""
    return ast.parse(path.read_text())


def part_of(path: Path) -> str:
    """The part a source file belongs to: its first folder or its own name below the package."""
    first = path.relative_to(PACKAGE).parts[0]
    return first.removesuffix(".py")


def imported_parts(path: Path, tree: ast.Module) -> set[tuple[str, int]]:
    """Every part of vqgan_fast that a file imports, with the line."""
    package = ("vqgan_fast", *path.relative_to(PACKAGE).parts[:-1])
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            module = ".".join([*base, *([node.module] if node.module else [])])
            names = [f"{module}.{alias.name}" for alias in node.names]
        else:
            continue
        for name in names:
            pieces = name.split(".")
            if pieces[0] == "vqgan_fast" and len(pieces) > 1:
                found.add((pieces[1], node.lineno))
    return found


SOURCES = sorted(path for path in PACKAGE.rglob("*.py") if path != PACKAGE / "__init__.py")


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_go_one_way(path: Path) -> None:
    part = part_of(path)
    if part in PROGRAMS:
        return
    assert part in ALLOWED, f"{part} has no place in ALLOWED: say what it may import"
    known = set(ALLOWED) | PROGRAMS
    for imported, line in imported_parts(path, tree_of(path)):
        if imported in known and imported != part:
            assert imported in ALLOWED[part], f"{path.name}:{line}: {part} imports {imported}"


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_only_ops_calls_the_registered_operators(path: Path) -> None:
    if part_of(path) == "ops":
        return
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.Attribute) and ast.unparse(node).startswith("torch.ops."):
            assert ast.unparse(node) == "torch.ops.load_library", (
                f"{path.name}:{node.lineno}: only vqgan_fast/ops may say {ast.unparse(node)}"
            )


@cache
def declared(extra: str) -> set[str]:
    """The packages of an extra of pyproject.toml, with those that are always installed."""
    project = read_configuration(PACKAGE.parent / "pyproject.toml", expand=False)["project"]
    texts = [*project["dependencies"], *project["optional-dependencies"][extra]]
    return {re.match(r"[\w-]+", text)[0] for text in texts}


def imported_packages(tree: ast.Module) -> set[str]:
    """Other people's packages that a file imports, by the names pip knows them by."""
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            names.add(node.module.split(".")[0])
    others = names - set(sys.stdlib_module_names) - {"vqgan_fast"}
    return {PACKAGE_OF.get(name, name.replace("_", "-")) for name in others}


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_what_is_imported_is_declared(path: Path) -> None:
    for name in imported_packages(tree_of(path)) - NOT_OURS:
        extra = EXTRA_OF.get(name, "train")
        assert name in declared(extra), f"{path.name} imports {name}, which [{extra}] lacks"


def test_the_rules_see_a_violation() -> None:
    relative = PACKAGE / "sampling" / "made_up.py"
    tree = ast.parse("from ..train import stage1\nfrom vqgan_fast.models.gpt import GPT\n")
    assert imported_parts(relative, tree) == {("train", 1), ("models", 2)}
    assert "train" not in ALLOWED["sampling"]
    assert "sampling" not in ALLOWED["train"]


@pytest.mark.parametrize("module", [vqgan_fast, vqgan_fast.ops])
def test_dir_lists_what_is_public(module) -> None:
    assert dir(module) == sorted(module.__all__)
    assert all(hasattr(module, name) for name in dir(module))


@pytest.mark.parametrize("name", ["compat.taming", "guidance", "numpy", "train"])
def test_a_part_is_found_without_an_import_of_its_own(name: str) -> None:
    code = f"import vqgan_fast; print(vqgan_fast.{name}.__name__)"
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert told.stdout == f"vqgan_fast.{name}\n", told.stderr


@pytest.mark.parametrize("extra", ["train", "demo", "evaluate"])
def test_the_programs_say_how_to_get_a_package(extra: str, monkeypatch, capsys) -> None:
    modules = {PACKAGE_OF.get(name, name.replace("_", "-")): name for name in cli.EXTRAS}
    always = declared("train") if extra != "train" else {"torch", "numpy"}
    for package in declared(extra) - always - {"vqgan_fast"}:
        monkeypatch.setitem(sys.modules, modules[package], None)
        monkeypatch.setattr(
            cli.info, "run", lambda _, name=modules[package]: importlib.import_module(name)
        )
        assert cli.main(["info"]) == cli.USER_ERROR
        expected = f"{modules[package]} is not installed: pip install 'vqgan_fast[{extra}]'\n"
        assert capsys.readouterr().err == f"vqgan-fast info: {expected}"
