"""The command lines of a Markdown page that run a tool or a benchmark: found, and taken apart into program and arguments."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass

PATH = re.compile(r"(?:tools|benchmarks)/\w+\.py")
INSTALLED = re.compile(r"sar_dist\.tools\.(\w+)|sar-([a-z-]+)")
FENCED = re.compile(r"^ *```[^\n]*\n(?P<code>.*?)^ *```", re.MULTILINE | re.DOTALL)
LAUNCHERS = (
    "python",
    "deepspeed",
    "torchrun",
    "srun",
    "sar-",
    "/usr/bin/time",
    "tools/",
    "sbatch",
    "bash",
    "OMP_NUM_THREADS=",
)


@dataclass(frozen=True)
class Command:
    """A command line of a page: as it is written, the path of the program that it runs, and the arguments that this gets.

    One that begins with ``tools/`` is an abbreviation: its options exist, and some that it needs may be missing.
    """

    written: str
    program: str
    arguments: tuple[str, ...]

    @property
    def abbreviated(self) -> bool:
        return self.written.startswith("tools/")


def commands(page: str) -> list[Command]:
    """Every command of a page that runs a program of ours: in code blocks, fenced or indented, and with arguments in backticks."""
    text = FENCED.sub("", page).replace("\\|", "|")
    in_text = [
        re.sub(r"\s*\n\s*", " ", code) for part in text.split("\n\n") for code in re.findall(r"`([^`]+\s[^`]+)`", part)
    ]
    in_code = [command for line in code_lines(page) if (command := parsed(line)) is not None]
    return in_code + [command for line in in_text if (command := parsed(line)) is not None and command.arguments]


def code_lines(page: str) -> list[str]:
    """The lines of the code blocks, those that end with a backslash joined with the next."""
    fenced = [block.group("code") for block in FENCED.finditer(page)]
    indented = re.findall(r"^ {4}\S.*$(?:(?<=\\)\n.*$)*", FENCED.sub("", page), re.MULTILINE)
    return re.sub(r"\s*\\\n\s*", " ", "\n".join([*fenced, *indented])).splitlines()


def parsed(line: str) -> Command | None:
    """A line as a command, or None where it runs no such program. What stands behind several spaces, or a #, is a remark."""
    written = re.split(r"\s{2,}|\s#", line.strip(), maxsplit=1)[0]
    if not written.startswith(LAUNCHERS):
        return None
    words = shlex.split(written)
    for number, word in enumerate(words):
        if word == "slurm/multinode.sh":
            return Command(written, "tools/train.py", launched(words[number + 1 :]))
        if (program := program_of(word)) is not None:
            return Command(written, program, tuple(words[number + 1 :]))
    return None


def program_of(word: str) -> str | None:
    """The path that a word of a command line names, also by module or by the name of an installed command."""
    if PATH.fullmatch(word):
        return word
    installed = INSTALLED.fullmatch(word)
    return f"tools/{(installed[1] or installed[2]).replace('-', '_')}.py" if installed else None


def launched(words: list[str]) -> tuple[str, ...]:
    """The arguments of tools/train.py that slurm/multinode.sh makes of its own; %a is the number of an array's task."""
    given = [word.replace("%a", "1") for word in words if word != "--dry-run"]
    config = [] if given and "=" not in given[0] else ["configs/vit_l_in1k.py"]
    return ("--config", *config, *given)


def without_notation(words: tuple[str, ...]) -> list[str]:
    """The arguments as a user types them: optional ones given, of alternatives the first, nothing for dots.

    Quoted words stay as they are: the brackets in them are a value's.
    """
    quoted = [word for word in words if " " in word]
    plain = " ".join("\0" if " " in word else word for word in words)
    plain = re.sub(r" \| [^\s\]]+", "", plain)  # A | B
    plain = re.sub(r"\[[\w.]+=[^\]]*\.\.\.\]|\[(?:\w+ )?\.\.\.\]|\.\.\.", "", plain)  # [key=value ...], [RUN ...], ...
    kept = iter(quoted)
    return [next(kept) if word == "\0" else word for word in re.sub(r"[\[\]]", "", plain).split()]
