"""What a user adds from outside the package, named as ``my_module:NAME`` where a built-in name could stand."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from types import ModuleType

from sar_dist.errors import UserError


def import_extension(name: str, what: str) -> tuple[ModuleType, str]:
    """Import the module of ``my_module:NAME``, from the working folder or $PYTHONPATH; gives it and NAME.

    Args:
        name: module and name with a colon between.
        what: how the user gave it, such as "model.name", for the message.

    Raises:
        UserError: the module cannot be imported.
    """
    module, _, attribute = name.rpartition(":")
    if str(Path.cwd()) not in sys.path:  # `python tools/x.py` looks in tools/ only
        sys.path.append(str(Path.cwd()))
    try:
        return importlib.import_module(module), attribute
    except Exception as error:  # the module is the user's own program, which can raise anything
        raise UserError(f"{what}={name}: {module} cannot be imported: {type(error).__name__}: {error}") from error
