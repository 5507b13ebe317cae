"""The generated reference is what the code says, and the site has every page."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml
from make_reference import PAGES, limits
from pydantic import BaseModel, Field
from support import ROOT
from tool_parsers import tool_parser

DOCS = ROOT / "docs"


@pytest.mark.parametrize("name", PAGES)
def test_the_reference_is_what_the_code_says(name: str) -> None:
    assert (DOCS / name).read_text() == PAGES[name](), "run `python docs/make_reference.py`"


def test_limits_are_shown_as_they_are_checked() -> None:
    class Model(BaseModel):
        share: float = Field(0.5, gt=0, le=1)
        count: int = Field(1, ge=1, le=10**12)
        size: int = Field(1, lt=1250000)
        names: tuple[str, ...] = Field(("a",), min_length=1)
        free: str = ""

    shown = {key: limits(field) for key, field in Model.model_fields.items()}
    assert shown == {
        "share": "above 0, at most 1",
        "count": "at least 1, at most 10^12",
        "size": "below 1250000",
        "names": "not empty",
        "free": "",
    }


def test_a_tools_parser_is_had_without_running_the_tool() -> None:
    parser = tool_parser("train")
    assert "--config" in parser.format_help()
    assert parser.parse_intermixed_args(["--config", "x"]).config == "x"  # it reads again, now that it is had
    with pytest.raises(FileNotFoundError):
        tool_parser("no_such_tool")


def site_settings() -> dict[str, object]:
    """mkdocs.yml, its Python objects as text."""

    class Loader(yaml.SafeLoader):
        pass

    Loader.add_multi_constructor("tag:yaml.org,2002:python/", lambda loader, suffix, node: suffix)
    return yaml.load((ROOT / "mkdocs.yml").read_text(), Loader)


def pages_of(entry: object) -> list[str]:
    """The files below an entry of the navigation."""
    if isinstance(entry, str):
        return [entry]
    below = entry.values() if isinstance(entry, dict) else entry
    return [page for each in below for page in pages_of(each)]  # type: ignore[attr-defined]


def test_the_navigation_has_every_page_once() -> None:
    assert sorted(pages_of(site_settings()["nav"])) == sorted(path.name for path in DOCS.glob("*.md"))


def test_the_site_builds_and_loads_nothing_from_elsewhere(tmp_path: Path) -> None:
    """Every link and anchor is there, for mkdocs.yml says strict. Needs the extra `docs`, which `make install` brings."""
    pytest.importorskip("material", reason="pip install 'sar_dist[docs]' brings mkdocs-material")
    from mkdocs.commands.build import build
    from mkdocs.config import load_config

    build(load_config(str(ROOT / "mkdocs.yml"), site_dir=str(tmp_path)))
    pages = list(tmp_path.rglob("*.html"))
    assert len(pages) > 30
    for page in pages:
        loaded = re.findall(
            r"<(?:script|img|link|iframe)\b[^>]*?(?:src|href)=[\"']?(?:https?:)?//[^\"'> ]*", page.read_text()
        )
        assert not [tag for tag in loaded if 'rel="canonical"' not in tag], page
