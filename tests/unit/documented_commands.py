"""The command lines of a Markdown page: found, and taken apart into launcher, tool and arguments."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass

TOOL = re.compile(r"tools/(?P<path>\w+)\.py|sar_dist\.tools\.(?P<module>\w+)|sar-(?P<command>[a-z-]+)")
FENCED = re.compile(r"^ *```[^\n]*\n(?P<code>.*?)^ *```", re.MULTILINE | re.DOTALL)
LAUNCHERS = ("python", "deepspeed", "torchrun", "srun", "sar-", "/usr/bin/time", "tools/", "sbatch", "bash")


@dataclass(frozen=True)
class Command:
    """A command line of a page: as it is written, the tool that it runs, and the arguments that the tool gets.

    One that begins with ``tools/`` is an abbreviation: its options exist, and some that it needs may be missing.
    """

    written: str
    tool: str
    arguments: tuple[str, ...]

    @property
    def abbreviated(self) -> bool:
        return self.written.startswith("tools/")


def commands(page: str) -> list[Command]:
    """Every command of a page that runs a tool: in code blocks, fenced or indented, and with arguments in backticks."""
    in_text = re.findall(r"`([^`\n]+ [^`\n]+)`", re.sub(FENCED, "", page).replace("\\|", "|"))
    in_code = [command for line in code_lines(page) if (command := parsed(line)) is not None]
    return in_code + [command for line in in_text if (command := parsed(line)) is not None and command.arguments]


def code_lines(page: str) -> list[str]:
    """The lines of the code blocks, those that end with a backslash joined with the next."""
    fenced = [block.group("code") for block in FENCED.finditer(page)]
    indented = re.findall(r"^ {4}\S.*$(?:(?<=\\)\n.*$)*", FENCED.sub("", page), re.MULTILINE)
    return re.sub(r"\s*\\\n\s*", " ", "\n".join([*fenced, *indented])).splitlines()


def parsed(line: str) -> Command | None:
    """A line as a command, or None where it runs no tool. What stands behind several spaces, or a #, is a remark."""
    written = re.split(r"\s{2,}|\s#", line.strip(), maxsplit=1)[0]
    if not written.startswith(LAUNCHERS):
        return None
    words = shlex.split(written)
    for number, word in enumerate(words):
        if word == "slurm/multinode.sh":
            return Command(written, "train", launched(words[number + 1 :]))
        found = TOOL.fullmatch(word)
        if found:
            return Command(written, found[found.lastgroup or 0].replace("-", "_"), tuple(words[number + 1 :]))
    return None


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
