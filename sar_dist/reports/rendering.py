"""HTML pages from the templates beside this file: everything escaped, one look for all, no other file needed."""

from __future__ import annotations

import base64
import functools
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from sar_dist.errors import UserError
from sar_dist.files import read_regular

# In the head of every page, by which one is known as ours.
_POLICY = Markup("default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'")
_HEAD_BYTES = 4096


@dataclass(frozen=True)
class TextTable:
    """A table for people.

    Attributes:
        title: its heading.
        header: a cell for each column.
        rows: of as many cells; the first one is the name of the row.
        note: how to read it.
        differing: numbers of the rows in which the columns differ, which are marked.
    """

    title: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    note: str = ""
    differing: Collection[int] = ()


@dataclass(frozen=True)
class Headline:
    """One of the few numbers that a page begins with."""

    label: str
    value: str
    note: str = ""


@dataclass(frozen=True)
class Picture:
    """A picture that is inside the page itself.

    Attributes:
        title: its heading.
        alt: what it shows, for those who cannot see it.
        content: the bytes of its file.
        media_type: of the file.
        caption: the line below it.
    """

    title: str
    alt: str
    content: bytes
    media_type: str = "image/png"
    caption: str = ""

    @property
    def data_uri(self) -> str:
        """The file as an address."""
        return f"data:{self.media_type};base64,{base64.b64encode(self.content).decode()}"


def render_page(template: str, *, title: str, headlines: Sequence[Headline] = (), **values: Any) -> str:
    """A whole page.

    Args:
        template: name of a file of ``templates/`` that extends ``base.html.j2``.
        title: of the page, also its first heading.
        headlines: numbers to begin with.
        values: what the template names besides; a name that is missing is an error.
    """
    page = _environment().get_template(template).render(title=title, headlines=headlines, **values)
    # Names of files need not be UTF-8; what cannot be written so is shown escaped.
    return page.encode("utf-8", errors="backslashreplace").decode()


def check_place(page: Path, beside: Sequence[str] = ()) -> None:
    """Make sure before the work that nothing is overwritten but an earlier page and what was written beside it.

    Whoever writes them writes the page first: it says whose the other files are, also after a kill.

    Args:
        page: file to write.
        beside: names of the files to write in its folder.

    Raises:
        UserError: another file has one of the names.
    """
    try:
        if page.exists():
            theirs = None if _POLICY.encode() in read_regular(page)[:_HEAD_BYTES] else page
        else:
            theirs = next((file for file in map(page.with_name, beside) if file.exists()), None)
    except OSError as error:
        raise UserError(f"cannot read {page}: {error.strerror}") from error
    if theirs is not None:
        raise UserError(
            f"{theirs} would be overwritten and is no page of this program's or beside one; choose another folder, or move it away"
        )


@functools.cache
def _environment() -> Environment:
    # Everything is escaped but the templates themselves, the style sheet among them.
    environment = Environment(
        loader=PackageLoader("sar_dist.reports"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.globals["own_file"] = _own_file
    environment.globals["policy"] = _POLICY
    environment.filters["anchor"] = _anchor
    environment.filters["whole"] = _whole
    return environment


def _whole(cell: str) -> str:
    """A cell of a table in which a mean and its deviation, and the two ends of an interval, stay in one line."""
    return re.sub(r" ± ?|(?<=\d,) (?=-?\d)", lambda found: found[0].replace(" ", "\u00a0"), cell)


def _anchor(title: str) -> str:
    """A heading as the name of a place in the page."""
    return re.sub(r"\W+", "-", title.lower()).strip("-")


def _own_file(path: str) -> Markup:
    """A script or style sheet of this package as it is: code, in which nothing is a placeholder."""
    return Markup((files("sar_dist.reports") / path).read_text(encoding="utf-8"))
