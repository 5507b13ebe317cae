"""A configuration file plus ``key=value`` overrides -> one validated ``RunConfig``."""

from __future__ import annotations

import difflib
import importlib.util
import json
import sys
import traceback
import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, BeforeValidator, ValidationError
from pydantic_core import PydanticUndefined

from sar_dist.config.settings import RunConfig
from sar_dist.config.values import NumberOutOfRange, decimal_number, read_value
from sar_dist.errors import UserError, described, shortened
from sar_dist.extensions import look_in
from sar_dist.setting_trees import leaves, set_leaf
from sar_dist.validation import describe_problem, field_types, one_line, shown

M = TypeVar("M", bound=BaseModel)


def load_config(path: str | Path, overrides: Sequence[str] = ()) -> RunConfig:
    """Load ``path`` and apply ``overrides`` such as ``optim.lr=1e-3``.

    Args:
        path: a Python file that defines ``config() -> RunConfig``, the ``config.json`` of a run directory, or the name of
            a configuration that comes with the package, such as "vit_l_in1k".
        overrides: dotted ``key=value`` pairs; values are read as ``read_value`` says, then checked against the key's type.

    Raises:
        UserError: the file is missing or defines no configuration, a key is unknown, or a value does not fit.
    """
    file = find_config(Path(path))
    config = apply_overrides(RunConfig, overrides, _read(file).model_dump(mode="json"))
    look_in(file.parent)
    return config


def find_config(path: Path) -> Path:
    """``path``; where there is nothing, and it is a name or below ``configs/``, the configuration that comes with the package."""
    if path.exists() or path.is_absolute():
        return path
    name = Path(*path.parts[1:]) if path.parts[:1] == ("configs",) else path
    package = Path(__file__).parents[1]
    for folder in (package / "configs", package.parent / "configs"):  # installed, or in a checkout
        shipped = folder / name.with_suffix(".py")
        if shipped.is_file() and (folder / "__init__.py").is_file():
            return shipped
    return path


def apply_overrides(model: type[M], overrides: Sequence[str], values: dict[str, Any] | None = None) -> M:
    """``values`` (none: the defaults) with dotted ``key=value`` pairs applied, as a validated ``model``.

    Raises:
        UserError: a key is unknown, or a value does not fit.
    """
    values = {} if values is None else values
    for override in overrides:
        _apply(values, override, dict(field_types(model)))
    with one_line("", model):
        return model.model_validate(values)


def config_keys(model: type[BaseModel] = RunConfig, prefix: str = "") -> Iterator[tuple[str, str, str, str]]:
    """Every dotted key with its type, default and description, in the order of definition."""
    for name, field in model.model_fields.items():
        key = f"{prefix}{name}"
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from config_keys(field.annotation, f"{key}.")
            continue
        default = field.get_default(call_default_factory=True, validated_data={})
        shown = "required" if default is PydanticUndefined else json.dumps(default)
        is_duration = any(isinstance(item, BeforeValidator) for item in field.metadata)  # pydantic unwraps Annotated
        yield key, "duration" if is_duration else _type_name(field.annotation), shown, field.description or ""


def _read(path: Path) -> RunConfig:
    if not path.is_file():
        raise UserError(
            f"no configuration file {path}; give one of configs/*.py, the name of one, or the config.json of a run"
        )
    if path.suffix == ".json":
        content = json.dumps(_read_mapping(path))  # any encoding of JSON, which pydantic knows in UTF-8 alone
        with one_line(path, RunConfig):
            return RunConfig.model_validate_json(content)
    config = _run_file(path)
    if not isinstance(config, RunConfig):
        raise UserError(f"{path}: config() must return a RunConfig, not {type(config).__name__}")
    return config


def _read_mapping(path: Path) -> dict[str, Any]:
    """What a file holds. Raises UserError unless it is a JSON object; one that a full disk cut short does not hold one."""
    try:
        content = json.loads(path.read_bytes(), parse_float=decimal_number)
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from error
    except NumberOutOfRange as error:
        raise UserError(f"{path} holds a number that cannot be read: {error}") from error
    except (ValueError, RecursionError) as error:
        content, reason = None, f"damaged or cut short ({error})"
    else:
        reason = "not a mapping of settings"
    if not isinstance(content, dict):
        raise UserError(
            f"{path} is {reason}; restore it, or give the configuration file that the run was started with: a run whose "
            "config.json is damaged recovers it from its checkpoints"
        )
    return content


def _run_file(path: Path) -> object:
    """What ``config()`` of a Python file returns; whatever goes wrong in it is one line with file and line number."""
    spec = importlib.util.spec_from_file_location(f"sar_dist_config_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise UserError(f"{path} is not a Python file; a configuration file defines `def config() -> RunConfig`")
    module = importlib.util.module_from_spec(spec)
    root = str(path.resolve().parent.parent)  # so that a variant can say `from configs import vit_b_in1k`
    sys.path.insert(0, root)
    try:
        spec.loader.exec_module(module)
        return module.config()
    except UserError:
        raise
    except ValidationError as error:
        raise UserError(f"{_place(path, error)}: {describe_problem(error, RunConfig)}") from error
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # the file is the user's own program, which can raise anything
        raise UserError(f"{_place(path, error)} cannot be loaded: {described(error)}") from error
    finally:
        if root in sys.path:  # which the file may have changed
            sys.path.remove(root)


def _place(path: Path, error: BaseException) -> str:
    """``path:line`` of the statement that failed in a configuration file; ``path`` where there is no such line."""
    if isinstance(error, SyntaxError) and error.filename:
        return f"{error.filename}:{error.lineno}"
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(path)]
    return f"{path}:{lines[-1]}" if lines else str(path)


def _apply(values: dict[str, Any], override: str, known: Mapping[str, Any]) -> None:
    """Set one dotted ``key=value`` in the nested ``values``."""
    key, separator, text = override.partition("=")
    if not separator or not all(key.split(".")):
        raise UserError(f"{override!r} is not an override; write key=value, such as optim.lr=1e-3")
    free_form = any(typing.get_origin(kind) is dict and key.startswith(f"{name}.") for name, kind in known.items())
    if key == "data.benchmark":
        raise UserError(f"{override} is no setting of a run; measure the loader with tools/benchmark_loader.py")
    if key not in known and not free_form:
        nearest = difflib.get_close_matches(key, known, n=1, cutoff=0.0)
        if typing.get_origin(known.get("train")) is dict and key in dict(field_types(RunConfig)):
            nearest = [f"train.{key}"]
        raise UserError(f"unknown key {key!r}; did you mean {nearest[0]!r}? (--help lists every key)")
    try:
        set_leaf(values, key, read_value(text, known.get(key, Any)))
    except ValueError as error:
        raise UserError(f"{shortened(repr(override))} cannot be read: {error}") from error
    except TypeError as above:
        held, leaf = shown(dict(leaves(values)).get(str(above))), key.rpartition(".")[2]
        raise UserError(f"{override!r}: {above} is {held} and not a mapping that could hold {leaf!r}") from above


def _type_name(annotation: Any) -> str:
    """A type as a user reads it: ``float | none``, ``auto | never``, ``(float, float)``."""
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if annotation is types.NoneType:
        return "none"
    if origin is typing.Annotated:  # a duration, or a path
        return "duration" if isinstance(arguments[1], BeforeValidator) else _type_name(arguments[0])
    if origin is typing.Literal:
        return " | ".join(str(value) for value in arguments)
    if origin in (typing.Union, types.UnionType):
        return " | ".join(_type_name(value) for value in arguments)
    if origin is tuple and isinstance(arguments[0], type) and issubclass(arguments[0], BaseModel):
        return f"[{{{', '.join(arguments[0].model_fields)}}}, ...]"
    if origin is tuple:
        return f"({', '.join('...' if value is Ellipsis else _type_name(value) for value in arguments)})"
    return "mapping" if origin is dict else getattr(annotation, "__name__", str(annotation))


def help_text(model: type[BaseModel] = RunConfig) -> str:
    """Every key with its type, default and description, one line each, for ``--help``."""
    rows = [(f"{key} ({kind}, {default})", description) for key, kind, default, description in config_keys(model)]
    return "\n".join(["configuration keys (type, default):", *(f"  {key}\n      {text}" for key, text in rows)])
