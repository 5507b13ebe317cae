"""What a user adds from outside the package, named as ``my_module:NAME`` where a built-in name could stand."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

from sar_dist.errors import UserError, described, text_of

_folders: list[str] = []


def look_in(folder: Path) -> None:
    """Let extensions be found in a folder too, after everything else: that of the configuration file."""
    path = str(folder.resolve())
    if path not in _folders:
        _folders.append(path)


def import_extension(name: str, what: str) -> tuple[ModuleType, str]:
    """Import the module of ``my_module:NAME``; gives it and NAME.

    The module is one that Python finds (``$PYTHONPATH``, installed packages), or a file in the working directory or next
    to the configuration file. These folders stay at the end of Python's search path, for what the module itself imports.

    Args:
        name: module and name with a colon between.
        what: how the user gave it, such as "model.name", for the message.

    Raises:
        UserError: there is no such module, or it cannot be imported.
    """
    module, _, attribute = name.rpartition(":")
    folders = [str(Path.cwd()), *_folders]  # `python tools/x.py` looks in tools/ only
    sys.path.extend(folder for folder in folders if folder not in sys.path)
    try:
        return importlib.import_module(module), attribute
    except ModuleNotFoundError as error:
        if error.name not in (module, module.partition(".")[0]):
            raise UserError(f"{what}={name}: {module} cannot be imported: {text_of(error)}") from error
        raise UserError(
            f"{what}={name}: there is no module {module!r} in {' or '.join(folders)}, nor on $PYTHONPATH; "
            "write my_module:NAME"
        ) from error
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # the module is the user's own program, which can raise anything
        raise UserError(f"{what}={name}: {module} cannot be imported: {described(error)}") from error


def import_object(name: str, what: str) -> Any:
    """The object that ``my_module:NAME`` names. Arguments and errors as for ``import_extension``."""
    module, attribute = import_extension(name, what)
    if not hasattr(module, attribute):
        raise UserError(f"{what}={name}: {getattr(module, '__file__', module.__name__)} has no {attribute!r}")
    return getattr(module, attribute)
