"""The house rules that can be checked: which package may use which, and how long things may be."""

from __future__ import annotations

import ast
import importlib
import re
from importlib.util import resolve_name
from pathlib import Path

import pytest
from house import ALLOWED, PAGE, with_picture
from support import ROOT

PACKAGE = ROOT / "sar_dist"

SOURCES = sorted(path for path in PACKAGE.rglob("*.py") if path != PACKAGE / "__init__.py")
READING_PATH = (
    "configs/demo.py",
    "tools/train.py",
    "sar_dist/training/trainer.py",
    "sar_dist/models/attention_tap.py",
    "sar_dist/regularizer/entropy.py",
)


def part_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported_parts(path: Path) -> set[str]:
    """The parts of sar_dist that a file imports, also inside functions and relatively."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.level:
            continue  # the house writes relative imports within a package only; the next test makes sure
        if isinstance(node, ast.ImportFrom) and node.module == "sar_dist":
            found |= {alias.name for alias in node.names} - {"__version__"}
        else:
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            found |= {name.split(".")[1] for name in names if name.startswith("sar_dist.")}
    return found


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_dependencies_point_one_way(path: Path) -> None:
    part = part_of(path)
    assert imported_parts(path) - {part} <= ALLOWED[part]


def test_allowed_dependencies_have_no_circle() -> None:
    remaining = dict(ALLOWED)
    while remaining:
        leaves = {part for part, uses in remaining.items() if not uses & remaining.keys()}
        assert leaves, f"a circle among {sorted(remaining)}"
        remaining = {part: uses for part, uses in remaining.items() if part not in leaves}


def test_packages_are_used_through_their_faces() -> None:
    """A file imports the modules of its own folder; of every other package, only what its ``__init__`` offers."""
    bypasses = []
    for path in SOURCES:
        folder = ".".join(path.relative_to(ROOT).parts[:-1])
        for module in imported_modules(path):
            parent = module.rpartition(".")[0]
            if (
                parent not in ("", "sar_dist", folder)
                and not (ROOT / module.replace(".", "/") / "__init__.py").exists()
            ):
                bypasses.append(f"{path.relative_to(ROOT)}: {module}")
    assert not bypasses, "\n".join(bypasses)


def imported_modules(path: Path) -> set[str]:
    """The modules and packages of sar_dist that a file imports from."""
    nodes = list(ast.walk(ast.parse(path.read_text())))
    names = {node.module or "" for node in nodes if isinstance(node, ast.ImportFrom) and not node.level}
    names |= {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    return {name for name in names if name.startswith("sar_dist.")}


LAZY_FACES = [path for path in PACKAGE.rglob("__init__.py") if "lazy_face(" in path.read_text()]


@pytest.mark.parametrize("path", LAZY_FACES, ids=lambda path: path.parent.name)
def test_lazy_faces_are_what_type_checkers_see(path: Path) -> None:
    """The imports below ``if TYPE_CHECKING``, the table of ``lazy_face`` and ``__all__`` say the same."""
    package = ".".join(path.parent.relative_to(ROOT).parts)
    tree = ast.parse(path.read_text())
    condition = next(node for node in tree.body if isinstance(node, ast.If))
    imported = {
        (node.module, alias.name) for node in condition.body if isinstance(node, ast.ImportFrom) for alias in node.names
    }
    call = next(node for node in ast.walk(condition) if isinstance(node, ast.Call))
    assert isinstance(call.args[1], ast.Dict)
    table: dict[str, str] = ast.literal_eval(call.args[1])
    assert {
        (resolve_name(module, package), name) for module, names in table.items() for name in names.split()
    } == imported
    face = importlib.import_module(package)
    assert sorted(face.__all__) == sorted(name for _, name in imported)
    assert all(hasattr(face, name) for name in face.__all__)
    assert not hasattr(face, "no_such_name")


def test_relative_imports_stay_in_their_package() -> None:
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text())):
            assert not (isinstance(node, ast.ImportFrom) and node.level > 1), path


def test_files_and_functions_can_be_read() -> None:
    for path in [*SOURCES, *(ROOT / "tools").glob("*.py"), *(ROOT / "configs").glob("*.py")]:
        text = path.read_text()
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef):
                assert (node.end_lineno or 0) - node.lineno <= 60, f"{path}: {node.name} needs scrolling"


def test_the_package_speaks_through_one_file() -> None:
    """Whoever wants to change what a user sees, or where, finds all of it behind output.py and the progress bars."""
    speakers = {PACKAGE / "output.py", *PACKAGE.rglob("progress.py")}
    other = []
    for path in set(SOURCES) - speakers:
        for node in ast.walk(ast.parse(path.read_text())):
            prints = isinstance(node, ast.Call) and ast.unparse(node.func) in (
                "print",
                "sys.stdout.write",
                "sys.stderr.write",
            )
            logs = isinstance(node, ast.Import) and any(alias.name.startswith("logging") for alias in node.names)
            if prints or logs or (isinstance(node, ast.ImportFrom) and node.module == "logging"):
                other.append(f"{path.relative_to(ROOT)}:{node.lineno}")
    assert not other, "say it with sar_dist.output: " + ", ".join(other)


def test_texts_of_libraries_errors_become_a_line_in_one_file() -> None:
    """They may have many lines, none, or raise themselves; the regularizer, which uses nothing else, has its own way."""
    by_hand = re.compile(r"str\((error|exception|problem)\)(\.| if| or)|type\(error\)\.__name__\}: \{error")
    free = {PACKAGE / "errors.py", PACKAGE / "regularizer" / "kernel_probe.py"}
    found = [str(path) for path in PACKAGE.rglob("*.py") if path not in free and by_hand.search(path.read_text())]
    assert not found, "say it with sar_dist.errors: in_brief, text_of or described"


def test_every_package_names_its_public_face() -> None:
    for init in PACKAGE.glob("*/__init__.py"):
        tree = ast.parse(init.read_text())
        assert ast.get_docstring(tree), init


def test_newcomers_reading_path_is_short() -> None:
    assert sum((ROOT / path).read_text().count("\n") for path in READING_PATH) <= 800


def test_the_picture_in_the_docs_is_the_table() -> None:
    assert PAGE.read_text() == with_picture(PAGE.read_text()), "run python tests/unit/house.py"
