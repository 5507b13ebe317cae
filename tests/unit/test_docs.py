"""README and docs name only what exists: links, files, tools and configuration keys."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from support import ROOT

from sar_dist.config import config_keys

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
KEYS = {key for key, *_ in config_keys()}
GROUPS = {key.split(".")[0] for key in KEYS if "." in key}
FOLDERS = "sar_dist|tools|tests|configs|slurm|benchmarks|docs"
# Python attributes and a file that look like keys of the configuration, and a file that a site writes for itself.
OTHER_NAMES = {"engine.backward", "engine.step", "model.vit", "model.safetensors", "slurm/site.env"}
# What a reader is to write: my_terms/NAME.py, configs/X.py.
PLACEHOLDER = re.compile(r"\b(NAME|X)\b")


def links(text: str) -> set[str]:
    """The relative targets of Markdown links and pictures, without their anchors."""
    targets = re.findall(r"\]\(([^)\s]+)\)", text)
    return {target.split("#")[0] for target in targets if "://" not in target} - {""}


def anchors(text: str) -> set[str]:
    """What links may name in a page: its headings as GitHub and the site write them, `A key_b!` as "a-key_b"."""
    headings = re.findall(r"^#+ +(.*)$", re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


def lost_anchors(page: Path, text: str) -> set[str]:
    """The links to a heading that its page does not have; a page that is not there is missed elsewhere."""
    found = re.findall(r"\]\(([^)\s#:]*)#([^)\s]+)\)", text)
    pages = {target: (page.parent / target if target else page) for target, _ in found}
    known = {target: anchors(path.read_text()) for target, path in pages.items() if path.exists()}
    return {f"{target}#{anchor}" for target, anchor in found if target in known and anchor not in known[target]}


def named_files(text: str) -> set[str]:
    """Paths from the repository's root, such as tools/train.py or tests/unit/data; not parts of longer paths."""
    found = re.findall(rf"(?<![\w./-])(?:{FOLDERS})/[\w./-]*\w", text)
    return {path for path in found if not PLACEHOLDER.search(path)}


def named_keys(text: str) -> set[str]:
    """Dotted keys of the configuration: in backticks, or given a value, as on a command line."""
    group = "|".join(sorted(GROUPS))
    key = rf"(?:{group})(?:\.[a-z][a-z0-9_]*)+"
    quoted = re.findall(rf"`({key})(?:=[^`]*)?`", text)
    return {*quoted, *re.findall(rf"(?<![\w./])({key})=", text)}


def exists(path: str) -> bool:
    return (ROOT / path).exists()


def known(key: str) -> bool:
    """Whether the configuration has the key; below a key that holds options of another library, any is taken."""
    parents = [key.rsplit(".", cut)[0] for cut in range(key.count("."))]
    return key in KEYS or any(parent in KEYS for parent in parents)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_a_page_names_what_exists(page: Path) -> None:
    text = page.read_text()
    missing = {target for target in links(text) if not (page.parent / target).exists()}
    missing |= lost_anchors(page, text)
    missing |= {path for path in named_files(text) if not exists(path)}
    missing |= {key for key in named_keys(text) if not known(key)}
    assert not missing - OTHER_NAMES


def test_a_wrong_name_is_found() -> None:
    text = "[x](nowhere.md#a) `tools/trian.py` in `sar_dist/nowhere.py`; `optim.lrr`, `engine.stage=2`, optim.betas1=3"
    assert links(text) == {"nowhere.md"}
    there = "[a](docs/data.md#making-shards) [b](docs/data.md#making) [c](#two-commands) [d](#three) [e](nowhere.md#a)"
    assert lost_anchors(ROOT / "README.md", there) == {"docs/data.md#making", "#three"}
    assert {path for path in named_files(text) if not exists(path)} == {"tools/trian.py", "sar_dist/nowhere.py"}
    assert {key for key in named_keys(text) if not known(key)} == {"optim.lrr", "engine.stage", "optim.betas1"}


def test_every_page_is_linked_from_the_readme_or_another_page() -> None:
    reached = {(page.parent / target).resolve() for page in PAGES for target in links(page.read_text())}
    assert {page.name for page in PAGES[1:]} - {page.name for page in reached} == set()


def test_make_runs_every_folder_of_tests_once() -> None:
    makefile = (ROOT / "Makefile").read_text()
    named = re.findall(r"^(?:SIDE_BY_SIDE|ONE_BY_ONE) := (.*)$", makefile, re.MULTILINE)
    folders = {f"tests/{path.name}" for path in (ROOT / "tests").iterdir() if any(path.rglob("test_*.py"))}
    assert sorted(" ".join(named).split()) == sorted(folders)
