"""Writes the reference, docs/reference_*.md, from the code: settings, metrics, results, tools, the public face.

python docs/make_reference.py
"""

from __future__ import annotations

import argparse
import inspect
import math
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from tool_parsers import tool_names, tool_parser

import sar_dist
from sar_dist.config import RunConfig, config_keys
from sar_dist.console import TOOLS as COMMANDS
from sar_dist.engine.optimizers import OPTIMIZERS
from sar_dist.observe import quantity_rows
from sar_dist.terms import TERMS
from sar_dist.transfer import TASKS, TransferSettings, find_task
from sar_dist.transfer.result import MeasuredData, MeasuredModel, Result

FOLDER = Path(__file__).parent
NOTE = "This page is written by `docs/make_reference.py` from the code; a test holds it to that."
SIGNS = {"ge": "at least {}", "gt": "above {}", "le": "at most {}", "lt": "below {}"}


def cell(text: str) -> str:
    """Text for a cell of a Markdown table: on one line, its bars escaped."""
    return re.sub(r"\s+", " ", text).strip().replace("|", "\\|")


def prose(text: str) -> str:
    """Text of the code as a paragraph: no star outside of code is taken for emphasis."""
    spans = re.split(r"(`[^`]*`)", text)
    return "".join(span if span.startswith("`") else span.replace("*", "\\*") for span in spans)


def table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """A Markdown table."""
    lines = [list(head), *(list(row) for row in rows)]
    lines.insert(1, ["---"] * len(lines[0]))
    return "\n".join(f"| {' | '.join(line)} |" for line in lines).replace("|  |", "| |")


def limits(field: FieldInfo) -> str:
    """The values that a field takes, as its constraints say: "at least 1, at most 64"."""
    found = []
    for item in field.metadata:
        found += [sign.format(number(getattr(item, name))) for name, sign in SIGNS.items() if hasattr(item, name)]
        if getattr(item, "min_length", None):
            found.append("not empty")
        if getattr(item, "pattern", None):
            found.append(f"matches `{item.pattern}`")
    return ", ".join(found)


def number(value: float) -> str:
    """A limit as a reader writes it: 64, 0.5, 10^12."""
    power = round(math.log10(value)) if value >= 1e5 else 0
    return f"10^{power}" if power and value == 10**power else f"{value:.15g}"


def field_of(model: type[BaseModel], key: str) -> FieldInfo:
    """The field behind a dotted key."""
    name, _, rest = key.partition(".")
    field = model.model_fields[name]
    return field_of(field.annotation, rest) if rest else field  # type: ignore[arg-type]


def settings_table(model: type[BaseModel], without: Iterable[str] = (), group: str = "") -> str:
    """Every key of ``model``, or of one group of it, that is not in ``without``: type, default, limits, description."""
    rows = []
    for key, kind, default, description in config_keys(model):
        if (not group or key.split(".")[0] == group) and key not in without:
            shown = default if default == "required" else f"`{cell(default.replace('null', 'none'))}`"
            rows.append([f"`{key}`", cell(kind), shown, cell(limits(field_of(model, key))), cell(description)])
    return table(["key", "type", "default", "limits", "what"], rows) if rows else "No settings of its own."


def configuration_page() -> str:
    """Every key of a run's configuration, and the settings of terms and optimizers."""
    parts = [
        "# Configuration keys",
        NOTE,
        "A configuration file gives these, and `key=value` on the command line overrides them, as in "
        "`optim.lr=1e-3 engine.zero_stage=2`. A key that does not exist is an error, and so is a value that does not fit. "
        "A duration is `2ep` (epochs), `1000st` or `1000` (optimizer steps), `5%` (of the training), `1Mex` or `5kex` "
        "(images).",
    ]
    for group in RunConfig.model_fields:
        parts += [f"## {group}", settings_table(RunConfig, group=group)]
    parts += ["## Settings of each term", "Of an entry of `terms` ([terms.md](terms.md)); `name` chooses the term."]
    for name, term in TERMS.items():
        parts += [f"### Term `{name}`", first_paragraph(term), settings_table(term.settings_class)]
    parts += [
        "## Options of each optimizer",
        "`optim.name` chooses it, `optim.options.KEY` sets these ([optimization.md](optimization.md)).",
    ]
    for name, optimizer in OPTIMIZERS.items():
        parts += [f"### Optimizer `{name}`", first_paragraph(optimizer), settings_table(optimizer)]
    return page(parts)


def metrics_page() -> str:
    """What a run logs."""
    return page(
        [
            "# Metrics",
            NOTE,
            "What `metrics.jsonl` and TensorBoard hold; [observability.md](observability.md) explains them.",
            "## Training (`train/`)",
            "\n".join(quantity_rows("train")),
            "## Validation (`val/`, `val_ema/`)",
            "\n".join(quantity_rows("val")),
        ]
    )


def evaluation_page() -> str:
    """Every transfer task with its settings, and the schema of its result."""
    parts = [
        "# Transfer tasks and their results",
        NOTE,
        "`python tools/transfer_eval.py --task NAME --model SPEC --data ROOT KEY=VALUE` runs one "
        "([evaluation.md](evaluation.md)).",
        "## Settings of every task",
        settings_table(TransferSettings),
    ]
    common = {key: default for key, _, default, _ in config_keys(TransferSettings)}
    for name in TASKS:
        task = find_task(name)
        parts += [
            f"## Task `{name}`",
            prose(f"{task.summary}."),
            prose(f"Data, in `{task.data_folder}`: {task.data_help}."),
        ]
        parts += [
            f"`{key}` is {default} by default."
            for key, _, default, _ in config_keys(task.settings_type)
            if default != common.get(key, default)
        ]
        parts += [settings_table(task.settings_type, without=common)]
    parts += ["## The file `result.json`", first_paragraph(Result), schema_table(Result)]
    parts += ["### Its `model`", first_paragraph(MeasuredModel), schema_table(MeasuredModel)]
    parts += ["### Its `data`", first_paragraph(MeasuredData), schema_table(MeasuredData)]
    return page(parts)


def schema_table(model: type[BaseModel]) -> str:
    """The keys of a JSON object."""
    fields = model.model_fields.items()
    rows = [[f"`{key}`", type_of(field), cell(field.description or "")] for key, field in fields]
    return table(["key", "type", "what"], rows)


def type_of(field: FieldInfo) -> str:
    """The type of a field as JSON has it."""
    names = {"str": "text", "int": "integer", "float": "number", "bool": "true or false", "dict": "object"}
    annotation: Any = field.annotation
    name = getattr(annotation, "__name__", "")
    if name == "Literal":
        return f"`{annotation.__args__[0]}`"
    return names.get(name, "object")


def tools_page() -> str:
    """What ``--help`` of each tool says."""
    parts = [
        "# Tools",
        NOTE,
        "What `--help` of each tool says. Installed with pip, each is the command in brackets. Exit status: 0 success, "
        "2 bad input, with one line that says what to do; [clusters.md](clusters.md) has the rest.",
    ]
    for name in tool_names():
        command = f" (`sar-{name.replace('_', '-')}`)" if name in COMMANDS else ""
        parser = tool_parser(name)
        parts += [f"## tools/{name}.py{command}", *paragraphs(parser.description or ""), options_table(parser)]
        for action in parser._actions:
            if isinstance(action, argparse._SubParsersAction):
                for subcommand, below in action.choices.items():
                    parts += [f"### {name}.py {subcommand}", *paragraphs(below.description or ""), options_table(below)]
    return page(parts)


def paragraphs(text: str) -> Iterable[str]:
    """A tool's description in Markdown: what is indented, or is a command, as code."""
    for paragraph in re.split(r"\n{2,}", text.strip("\n")):
        if re.match(r"    |python |deepspeed ", paragraph):
            yield f"```\n{inspect.cleandoc(paragraph)}\n```"
        else:
            yield prose(paragraph.strip())


def options_table(parser: argparse.ArgumentParser) -> str:
    """Arguments and options with what they say of themselves."""
    rows = []
    for action in parser._actions:
        if argparse.SUPPRESS in (action.help, action.dest) or isinstance(
            action, argparse._HelpAction | argparse._SubParsersAction
        ):
            continue
        value = action.metavar or ("|".join(map(str, action.choices)) if action.choices else action.dest.upper())
        names = " ".join([", ".join(action.option_strings), "" if action.nargs == 0 else str(value)]).strip()
        needed = "required" if action.required and action.nargs != "*" else ""
        text = (action.help or "") % {**vars(action), "prog": parser.prog}
        rows.append([f"`{cell(names)}`", needed, cell(text)])
    return table(["argument", "", "what"], rows) if rows else ""


class _AsWritten:
    """An annotation that is shown without quotes."""

    def __init__(self, text: str) -> None:
        self.text = text

    def __repr__(self) -> str:
        return self.text


def signature(thing: Callable[..., Any]) -> str:
    """The signature as the source has it."""
    found = inspect.signature(thing)
    parameters = [each.replace(annotation=as_written(each.annotation)) for each in found.parameters.values()]
    returns = found.empty if inspect.isclass(thing) else as_written(found.return_annotation)
    return str(found.replace(parameters=parameters, return_annotation=returns))


def as_written(annotation: Any) -> Any:
    """An annotation that is text as that text."""
    text = getattr(annotation, "__forward_arg__", annotation)
    return _AsWritten(text) if isinstance(text, str) else annotation


def first_paragraph(thing: Any) -> str:
    """The first paragraph of a docstring, in Markdown."""
    text = inspect.cleandoc(thing.__doc__ or "").split("\n\n")[0]
    return re.sub(r"\s+", " ", text).replace("``", "`")


def python_page() -> str:
    """Every public name with its signature."""
    parts = [
        "# Public names of `sar_dist`",
        NOTE,
        "What `from sar_dist import NAME` gives; [python.md](python.md) shows how they are used.",
    ]
    for name in sorted(sar_dist.__all__, key=str.lower):
        thing = getattr(sar_dist, name)
        kind = "class " if inspect.isclass(thing) else ""
        plain = inspect.isclass(thing) and (
            issubclass(thing, BaseModel | Exception) or getattr(thing, "_is_protocol", False)
        )
        parts += [
            f"## {name}",
            f"```python\n{kind}{name}{'' if plain else signature(thing)}\n```",
            first_paragraph(thing),
        ]
    return page(parts)


def page(parts: Iterable[str]) -> str:
    """The paragraphs as one file."""
    return "\n\n".join(part for part in parts if part) + "\n"


PAGES: dict[str, Callable[[], str]] = {
    "reference_configuration.md": configuration_page,
    "reference_metrics.md": metrics_page,
    "reference_evaluation.md": evaluation_page,
    "reference_tools.md": tools_page,
    "reference_python.md": python_page,
}


def main() -> None:
    for name, written in PAGES.items():
        (FOLDER / name).write_text(written())


if __name__ == "__main__":
    main()
