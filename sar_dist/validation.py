"""What pydantic finds wrong with a value, as the one line that a user reads."""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from pydantic import BaseModel, ValidationError

from sar_dist.errors import UserError

_KINDS = ("(", "constrained-", "tuple[")  # ours are in parentheses, the others pydantic's
NO_TEXT = "holds bytes that are not UTF-8"
_CHECKS = ("value_error", "assertion_error")  # what validators in Python raise; the other types are pydantic's own


@contextmanager
def one_line(
    where: object, model: type[BaseModel] | None = None, error_type: type[UserError] = UserError
) -> Iterator[None]:
    """Turn a ``ValidationError`` of the body into an error that begins with ``where``, such as a file's path.

    Args:
        where: what is wrong; empty where the description says enough.
        model: as in ``describe_problem``.
        error_type: ``UserError`` or a subclass.
    """
    try:
        yield
    except ValidationError as error:
        description = describe_problem(error, model)
        raise error_type(f"{where}: {description}" if where else description) from error


def describe_problem(error: ValidationError, model: type[BaseModel] | None = None) -> str:
    """The first problem of a validation error in one line, with the number of others.

    Args:
        error: what pydantic raised.
        model: the model whose keys a misspelt one is compared with; None compares it with nothing.
    """
    first = error.errors(include_url=False)[0]
    # What a setting was taken for, where it may be several things, is no part of its key.
    key = ".".join(str(part) for part in first["loc"] if not str(part).startswith(_KINDS))
    message = first["msg"].removeprefix("Value error, ")
    keys = [] if model is None else [name for name, _ in field_types(model)]
    if first["type"] == "extra_forbidden":
        nearest = difflib.get_close_matches(key, keys, n=1, cutoff=0.0)
        return f"unknown key {key!r}" + (f"; did you mean {nearest[0]!r}?" if nearest else "")
    if first["type"] == "string_unicode":
        message = NO_TEXT
    if first["type"] == "json_invalid":
        return "it is cut off, or no JSON"
    if first["type"] == "missing":
        return f"{key} is missing"
    if first["type"] in ("tuple_type", "list_type") and isinstance(first["input"], int | float | str):
        message = f"several values are wanted; write {key}=[{shown(first['input'])}]"
    is_group = first["type"] in _CHECKS and isinstance(first["input"], dict) and key not in keys
    if not first["loc"] or is_group:  # a check of a whole group names its keys itself
        return message
    others = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
    return f"{key}={shown(first['input'])}: {message}{others}"


def is_utf8(text: str) -> bool:
    """Whether a text can be written as UTF-8; what Python made of a file name's other bytes cannot."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def field_types(model: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Every dotted key of a model with its type, in the order of definition."""
    for name, field in model.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from field_types(field.annotation, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", field.annotation


def shown(value: object, limit: int = 80) -> str:
    """A value as Python writes it, cut where nobody would read on."""
    try:
        text = repr(value)
    except ValueError:  # an integer of more digits than Python converts
        return "a very long number"
    return text if len(text) <= limit else f"{text[:limit]}... ({len(text)} characters)"
