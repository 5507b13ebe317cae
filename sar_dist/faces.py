"""Faces of packages whose names are imported when they are first used, for PyTorch takes seconds to import."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Mapping


def lazy_face(package: str, names: Mapping[str, str]) -> Callable[[str], object]:
    """The ``__getattr__`` of ``package``, for its ``__init__``.

    Below ``if TYPE_CHECKING`` the same names are imported as usual, so that a type checker knows them; a test compares.

    Args:
        names: by module, relative to the package (".loader"), the names that it has, with spaces between them.
    """
    home_of = {name: module for module, its in names.items() for name in its.split()}

    def find(name: str) -> object:
        if name not in home_of:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        value = getattr(importlib.import_module(home_of[name], package), name)
        setattr(sys.modules[package], name, value)
        return value

    return find
