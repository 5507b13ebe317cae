"""What ``--help`` prints fits the terminal."""

from __future__ import annotations

import argparse
import sys

import pytest

from sar_dist.command_help import Once, TerminalHelp, fitted

TEXT = """One line that is a paragraph of its own.

    python tools/train.py --config configs/vit_b_in1k.py run.name=a_command_that_stays_in_one_line

The beginning of a paragraph whose
end is in the next line. Status:
0 is good.

    first NAME    what the first of two is for, said at some length
    second        what the second is for
"""


def test_texts_are_wrapped_and_commands_are_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "50")
    parser = argparse.ArgumentParser(prog="x", description=TEXT, formatter_class=TerminalHelp, add_help=False)
    assert parser.format_help().splitlines()[2:] == [
        "One line that is a paragraph of its own.",
        "",
        "    python tools/train.py --config configs/vit_b_in1k.py run.name=a_command_that_stays_in_one_line",
        "",
        "The beginning of a paragraph whose end is in the",
        "next line. Status: 0 is good.",
        "",
        "    first NAME    what the first of two is for,",
        "                  said at some length",
        "    second        what the second is for",
    ]
    monkeypatch.setenv("COLUMNS", "400")
    assert max(map(len, parser.format_help().splitlines())) <= 118


def test_what_is_not_printed_on_a_terminal_stays_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "30")
    assert fitted(TEXT) == TEXT
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    assert (
        fitted("name\n    a line that is longer than 28 letters")
        == "name\n    a line that is longer\n    than 28 letters"
    )


def test_an_option_that_is_given_twice_is_refused(capsys: pytest.CaptureFixture) -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--split", action=Once)
    assert parser.parse_args(["--split", "val"]).split == "val"
    with pytest.raises(SystemExit) as ended:
        parser.parse_args(["--split", "test=val", "--split", "train"])
    assert ended.value.code == 2
    assert "--split is given twice; give it once, and make the rest by another command" in capsys.readouterr().err
