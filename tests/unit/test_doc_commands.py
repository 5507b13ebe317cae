"""Every command of README and docs that runs a tool or benchmark is one that it takes: options, configuration, keys, values.

Nothing is started: the programs' own parsers read the words, and the configuration is loaded as the tool would.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import io
import re
from pathlib import Path

import pytest
from documented_commands import Command, commands, without_notation
from support import ROOT
from tool_parsers import program_parser

from sar_dist.config import apply_overrides, load_config
from sar_dist.errors import UserError
from sar_dist.transfer import find_task

PAGES = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "slurm/README.md")] + sorted(
    (ROOT / "docs").glob("*.md")
)
FOUND = {page: commands(page.read_text()) for page in PAGES}
parser_of = functools.cache(program_parser)


def problem(command: Command) -> str | None:
    """What the program would say of a command, or None."""
    if not (ROOT / command.program).exists():
        return f"there is no {command.program}"
    parser = parser_of(ROOT / command.program)
    known = {name for each in all_parsers(parser) for action in each._actions for name in action.option_strings}
    plain = [word for word in command.arguments if " " not in word]  # a quoted word is for another program
    unknown = set(re.findall(r"(?<![\w-])--[a-z][\w-]*", " ".join(plain))) - known
    if unknown:
        return f"there is no option {', '.join(sorted(unknown))}"
    if command.abbreviated:
        return None
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said), contextlib.redirect_stdout(io.StringIO()):
            words = numbered(parser, command)  # argparse mixes no options into the arguments of subcommands
            given = parser.parse_args(words) if len(all_parsers(parser)) > 1 else parser.parse_intermixed_args(words)
    except SystemExit as end:
        return None if end.code == 0 else said.getvalue().splitlines()[-1]  # --help ends well
    return wrong_settings(given)


def all_parsers(parser: argparse.ArgumentParser) -> list[argparse.ArgumentParser]:
    """A parser and those of its subcommands."""
    groups = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    return [parser, *(below for group in groups for below in group.choices.values())]


def numbered(parser: argparse.ArgumentParser, command: Command) -> list[str]:
    """The words of a command, with a 1 for what stands where an option takes a number: N, GiB."""
    words = without_notation(command.arguments)
    numbers = {
        name
        for each in all_parsers(parser)
        for a in each._actions
        if a.type is int or getattr(a.type, "__annotations__", {}).get("return") in ("int", "float")
        for name in a.option_strings
    }
    return [
        "1" if number and words[number - 1] in numbers and not re.match(r"[\d.]", word) else word
        for number, word in enumerate(words)
    ]


def wrong_settings(given: argparse.Namespace) -> str | None:
    """What is wrong with the configuration or the overrides of parsed arguments, or None."""
    overrides = getattr(given, "overrides", None) or []
    try:
        if getattr(given, "config", None) is not None:
            placeholder = given.config.isupper() or given.config in ("configs/X.py", "configs/Y.py")
            load_config("configs/vit_b_in1k.py" if placeholder else given.config, overrides)
        elif getattr(given, "task", None) is not None and given.task != "NAME" and ":" not in given.task:
            apply_overrides(find_task(given.task).settings_type, overrides)
    except UserError as error:
        return str(error)
    return None


@pytest.mark.parametrize("page", [page for page in PAGES if FOUND[page]], ids=lambda page: str(page.relative_to(ROOT)))
def test_the_programs_take_the_commands_of_a_page(page: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    saved = re.findall(r"Save this as `(\w+\.py)`.*?```python\n(.*?)```", page.read_text(), re.DOTALL)
    for name, content in saved:  # configurations; those of the package are found from every folder
        (tmp_path / name).write_text(content)
    monkeypatch.chdir(tmp_path if saved else ROOT)
    wrong = {command.written: why for command in FOUND[page] if (why := problem(command)) is not None}
    assert not wrong, "\n".join(f"{page.name}: {written}\n    {why}" for written, why in wrong.items())


WRONG = {
    "python tools/trian.py --config configs/demo.py": "no tools/trian.py",
    "deepspeed tools/train.py --config configs/demo.py --zero 2": "no option --zero",
    "sar-train --config demo optim.lrr=1": "unknown key 'optim.lrr'",
    "sar-train --config demo engine.zero_stage=7": "engine.zero_stage",
    "sar-train --config no_such_one": "no configuration file",
    "sbatch --nodes=2 slurm/multinode.sh configs/demo.py optim.lrr=1": "unknown key 'optim.lrr'",
    "bash slurm/multinode.sh --dry-run engine.zero_stage=7": "engine.zero_stage",
    "python tools/report.py --out report": "required: RUN",
    "python tools/make_shards.py photos SRC OUT": "invalid choice: 'photos'",
    "OMP_NUM_THREADS=1 python benchmarks/loader.py --turns 3": "no option --turns",
    "python tools/transfer_eval.py --task knn k_nearest=3": "unknown key 'k_nearest'",
}


@pytest.mark.parametrize(
    "block", ["```\n{}\n```\n", "text\n\n    {}  a remark\n", "see `{}`"], ids=["fenced", "indented", "text"]
)
def test_a_wrong_command_is_found(block: str) -> None:
    for line, why in WRONG.items():
        (command,) = commands(block.format(line))
        assert why in (problem(command) or "nothing")


def test_the_pages_are_full_of_commands() -> None:
    assert sum(map(len, FOUND.values())) > 100
    assert {"README.md", "tutorial.md", "evaluation.md"} <= {page.name for page in PAGES if FOUND[page]}


def test_notation_is_read_as_a_user_would() -> None:
    page = """```
python tools/plan.py --config configs/demo.py --nodes N \\
    [--mfu 0.4] [key=value ...]   # a remark
python tools/export.py RUN OUT [--ema | --live] [--dtype float32 | bfloat16]     said | of it
deepspeed tools/train.py --config FILE 'terms=[{name: total_variation, weight: 0.1}]' ...
```
or `python tools/report.py RUN [RUN ...]
--out DIR`, and `tools/report.py` alone is no command."""
    assert [(command.program, without_notation(command.arguments)) for command in commands(page)] == [
        ("tools/plan.py", ["--config", "configs/demo.py", "--nodes", "N", "--mfu", "0.4"]),
        ("tools/export.py", ["RUN", "OUT", "--ema", "--dtype", "float32"]),
        ("tools/train.py", ["--config", "FILE", "terms=[{name: total_variation, weight: 0.1}]"]),
        ("tools/report.py", ["RUN", "--out", "DIR"]),
    ]
