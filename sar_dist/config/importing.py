"""Classes of a user's own file, which a configuration names by import path: ``my_module:MyTerm``."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any

from sar_dist.errors import UserError

_folders: list[str] = []


def look_in(folder: Path) -> None:
    """Let ``import_named`` look in a folder too, after everything else: that of the configuration file."""
    path = str(folder.resolve())
    if path not in _folders:
        _folders.append(path)


def import_named(name: str) -> Any:
    """The object of an import path such as ``my_module:MyTerm``.

    The module is one that Python finds (``$PYTHONPATH``, installed packages), or a file in the working directory or next
    to the configuration file. These folders stay at the end of Python's search path, for what the module itself imports.

    Raises:
        UserError: there is no such module or object, or the module cannot be imported.
    """
    module_name, _, attribute = name.partition(":")
    folders = [str(Path.cwd()), *_folders]
    sys.path.extend(folder for folder in folders if folder not in sys.path)
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name != module_name.partition(".")[0] and error.name != module_name:
            raise UserError(f"{module_name} cannot be imported: {error}") from error
        raise UserError(
            f"there is no module {module_name!r} in {' or '.join(folders)}, nor on $PYTHONPATH; write my_module:MyTerm"
        ) from error
    except Exception as error:
        raise UserError(f"{module_name} cannot be imported: {type(error).__name__}: {error}") from error
    if not hasattr(module, attribute):
        raise UserError(f"{getattr(module, '__file__', module_name)} has no {attribute!r}")
    return getattr(module, attribute)
