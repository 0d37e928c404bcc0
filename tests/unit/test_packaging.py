"""What the package says it needs is what it imports, on every Python that it says it runs on."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from functools import cache
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "stars_local"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
MODULES = packages_distributions()
USED_BY_EXTRAS = {"training", "exporting"}  # rooms that nothing else imports while it starts
# Compiles everything, warnings being errors, and imports what needs nothing installed.
PROGRAM = """
import sys, warnings
from importlib import import_module
from pathlib import Path
warnings.simplefilter("error")
sys.dont_write_bytecode = True
root = Path(sys.argv[1])
sys.path.insert(0, str(root))
for path in sorted((root / "stars_local").rglob("*.py")):
    compile(path.read_bytes(), str(path), "exec")
core = sorted((root / "stars_local" / "core").rglob("*.py"))
for path in core:
    import_module(".".join(path.relative_to(root).with_suffix("").parts).removesuffix(".__init__"))
print(len(core), *sys.version_info[:2])
"""


def normal(name: str) -> str:
    """A distribution's name as all spellings of it come out."""
    return re.sub(r"[-_.]+", "-", name).lower()


def named(requirements: list[str]) -> set[str]:
    found = [re.match(r"[A-Za-z0-9._-]+", each) for each in requirements]
    return {normal(match[0]) for match in found if match is not None}


def third_party(path: Path, *, when_imported: bool) -> set[str]:
    """The top-level modules of others that a file imports; when_imported: as it is imported."""
    tree = _tree_of(path)
    found: set[str] = set()
    for node in _at_once(tree) if when_imported else ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            found.add(node.module.partition(".")[0])
    return found - sys.stdlib_module_names - {"stars_local"}


@cache
def _tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text("utf-8"))


def _at_once(node: ast.AST) -> list[ast.AST]:
    """The nodes that run when a module is imported: no body of a function, nothing for types."""
    found: list[ast.AST] = [node]
    for child in ast.iter_child_nodes(node):
        for_types = isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test)
        if not for_types and not isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef):
            found += _at_once(child)
    return found


def distributions_of(module: str) -> set[str]:
    """The packages that a module may come from; onnxruntime comes from either of two."""
    return {normal(name) for name in MODULES.get(module, [module])}


def test_every_import_is_of_a_declared_package() -> None:
    needed = named(PROJECT["dependencies"])
    extras = PROJECT["optional-dependencies"]
    optional = needed.union(*(named(extras[name]) for name in extras if name != "dev"))
    for path in PACKAGE.rglob("*.py"):
        where = path.relative_to(PACKAGE)
        for module in third_party(path, when_imported=False):
            assert distributions_of(module) & optional, f"{where} imports {module}: not declared"
        if where.parts[0] not in USED_BY_EXTRAS:
            for module in third_party(path, when_imported=True):
                assert distributions_of(module) & needed, (
                    f"{where} imports {module}, which only an extra brings, before it is asked for"
                )


def test_every_declared_package_is_imported() -> None:
    imported = {
        name
        for path in PACKAGE.rglob("*.py")
        for module in third_party(path, when_imported=False)
        for name in distributions_of(module)
    }
    assert named(PROJECT["dependencies"]) - {"onnxruntime", "onnxruntime-gpu"} <= imported


def test_an_import_that_is_not_declared_would_be_found(tmp_path: Path) -> None:
    path = tmp_path / "m.py"
    path.write_text(
        "import os, a.b\nif TYPE_CHECKING:\n    import t\ndef f():\n    from c import d"
    )
    assert third_party(path, when_imported=False) == {"a", "c", "t"}
    assert third_party(path, when_imported=True) == {"a"}


def interpreters() -> list[str]:
    """One Python a minor version from 3.11 on, of those that can be found and start."""
    places = [sys.executable, *(f"python3.{minor}" for minor in range(11, 15))]
    places += sorted(map(str, Path.home().glob(".pyenv/versions/3.*/bin/python3")))
    found: dict[str, str] = {}
    for place in places:
        command = [place, "-I", "-c", "import sys; print('%d.%d' % sys.version_info[:2])"]
        try:
            done = subprocess.run(command, capture_output=True, text=True, check=False)
        except OSError:
            continue
        version = done.stdout.strip()
        if done.returncode == 0 and re.fullmatch(r"3\.1[1-4]", version):
            found.setdefault(version, place)
    return [found[version] for version in sorted(found)]


@pytest.mark.parametrize("python", interpreters())
def test_all_compiles_and_the_core_runs_on_every_python_here(python: str) -> None:
    command = [python, "-I", "-c", PROGRAM, str(ROOT)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    n_core, major, minor = map(int, done.stdout.split())
    assert n_core > 10 and (major, minor) >= (3, 11)
