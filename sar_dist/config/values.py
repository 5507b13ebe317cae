"""What a user types behind ``key=``: text as it is, numbers in decimal, and the values that JSON can hold."""

from __future__ import annotations

import math
import os
import re
import sys
import types
import typing
from typing import Annotated, Any

import yaml
from pydantic import AfterValidator, BaseModel

from sar_dist.errors import in_brief, shortened
from sar_dist.validation import NO_TEXT, is_utf8

LARGEST_INTEGER = 2**63 - 1
_DEEPEST = 16  # nested lists and mappings; DeepSpeed's own settings have three levels


class NumberOutOfRange(ValueError):
    """A number that no number of this program can be."""


class _DecimalLoader(yaml.SafeLoader):
    """YAML whose numbers are decimal: in YAML 1.1, 1:30 is ninety, 010 is eight, 1e-3 is text and `no` is false."""

    def construct_integer(self, node: yaml.ScalarNode) -> int:
        if len(node.value) > 40:
            raise yaml.YAMLError(f"a number of {len(node.value)} digits is too large")
        return int(node.value)

    def construct_float(self, node: yaml.ScalarNode) -> float:
        return decimal_number(node.value)


_DecimalLoader.yaml_implicit_resolvers = {}
for _tag, _pattern, _first in (
    ("bool", r"true|True|TRUE|false|False|FALSE", "tTfF"),
    ("int", r"[-+]?[0-9]+", "-+0123456789"),
    ("float", r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?", "-+.0123456789"),
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
):
    _DecimalLoader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(rf"^(?:{_pattern})$"), list(_first))
_DecimalLoader.add_constructor("tag:yaml.org,2002:int", _DecimalLoader.construct_integer)
_DecimalLoader.add_constructor("tag:yaml.org,2002:float", _DecimalLoader.construct_float)


def decimal_number(text: str) -> float:
    """What a number in decimal stands for.

    Raises:
        NumberOutOfRange: it is so large or so near to zero that it would become another number: infinity or zero.
    """
    number = float(text)
    if math.isinf(number):
        raise NumberOutOfRange(f"{shortened(text, 40)} is too large for a number, of which the largest is 1.8e308")
    if number == 0 and re.search("[1-9]", text.lower().partition("e")[0]):
        raise NumberOutOfRange(f"{shortened(text, 40)} is too near to zero for a number; write 0 if that is meant")
    return number


def read_value(text: str, annotation: Any = Any) -> Any:
    """The value that ``text`` stands for where a setting of type ``annotation`` is expected.

    Text is taken as typed, but for quotes around the whole of it, and a list in brackets where the setting may be one;
    ``none`` (and ``null``, and nothing) is None where the setting may be None; everything else is YAML with decimal numbers.

    Raises:
        ValueError: the text is no YAML, or holds a number that no number here can be.
    """
    members = _members(annotation)
    lists = {member for member in members if typing.get_origin(member) is tuple}
    singles = members - lists - {types.NoneType}
    if types.NoneType in members and text.strip().lower() in ("", "none", "null"):
        return None
    is_text = bool(singles) and all(_is_text(member) for member in singles)
    if is_text and not (lists and text.lstrip().startswith("[")):
        quoted = len(text) > 1 and text[0] == text[-1] and text[0] in "\"'"
        return text[1:-1] if quoted else text
    try:
        return yaml.load(text, _DecimalLoader)
    except (yaml.YAMLError, RecursionError) as error:
        raise ValueError(in_brief(error)) from error


def _members(annotation: Any) -> set[Any]:
    """The types of a union, or the one type."""
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        return {member for part in typing.get_args(annotation) for member in _members(part)}
    return _members(typing.get_args(annotation)[0]) if typing.get_origin(annotation) is Annotated else {annotation}


def _is_text(member: Any) -> bool:
    if typing.get_origin(member) is typing.Literal:
        return all(isinstance(choice, str) for choice in typing.get_args(member))
    return member is str


def is_number(annotation: Any) -> bool:
    """Whether a setting of this type is a number (or none), so that true and false are no values of it."""
    members = {kind for member in _members(annotation) for kind in _kinds(member)} - {types.NoneType}
    return bool(members) and members <= {int, float}


def _kinds(member: Any) -> set[Any]:
    """The type, or those of a ``Literal``'s choices."""
    return (
        {type(choice) for choice in typing.get_args(member)}
        if typing.get_origin(member) is typing.Literal
        else {member}
    )


def checked(value: Any, depth: int = 0) -> Any:
    """``value`` as JSON gives it back: finite numbers that 64 bits hold, lists instead of tuples inside mappings.

    Raises:
        ValueError: it holds something that a ``config.json`` cannot hold.
    """
    if depth > _DEEPEST:
        raise ValueError("nested too deeply")
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError("must be a finite number")
    if isinstance(value, int) and not -LARGEST_INTEGER <= value <= LARGEST_INTEGER:
        raise ValueError("is too large for a 64-bit integer")
    if isinstance(value, str) and not is_utf8(value):
        raise ValueError(NO_TEXT)  # bytes that are no text cannot be written to config.json
    if isinstance(value, tuple) and depth == 0:
        return tuple(checked(item, 1) for item in value)
    if isinstance(value, list | tuple):
        return [checked(item, depth + 1) for item in value]
    if isinstance(value, dict):
        if not all(isinstance(key, str) for key in value):
            raise ValueError("the keys of a mapping are words")
        return {checked(key, depth + 1): checked(item, depth + 1) for key, item in value.items()}
    if depth and not isinstance(value, str | int | float | BaseModel | None):
        raise ValueError(f"a {type(value).__name__} cannot be written to config.json")
    return value


def _path(text: str) -> str:
    if not text.strip():
        raise ValueError("is empty, as of a variable that is not set")
    if re.search(r"[\x00-\x1f\x7f]", text):
        raise ValueError("holds a line break or another control character; rename the folder")
    if (
        not text.isascii() and (encoding := sys.getfilesystemencoding()) != "utf-8"
    ):  # the system would be told other bytes
        raise ValueError(f"needs UTF-8, and this shell's locale is for {encoding}; export LC_ALL=C.UTF-8")
    if not is_utf8(text):
        raise ValueError(f"{NO_TEXT}; rename what it names, or give a link to it that has another name")
    return os.path.expanduser(text)


PathText = Annotated[str, AfterValidator(_path)]  # of text: a Path would spoil the slashes of a URL
"""A path or URL in one line, and never nothing; a ``~`` at its start is the home directory, also where the shell has not seen it."""
