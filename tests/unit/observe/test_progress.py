import io
import re
import sys
import time

from sar_dist.observe.progress import ProgressReporter


def test_plain_lines_say_step_share_time_left_and_values(capsys, monkeypatch):
    now = 100.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    reporter = ProgressReporter(1000, "demo", live=False)
    reporter.update(200, {"loss": 2.345678, "lr": 5e-4})
    now = 130.0
    reporter.update(300, {"loss": 2.0, "mfu": "n/a"})
    reporter.message("checkpoint saved")
    reporter.close()
    assert capsys.readouterr().out.splitlines() == [
        "demo  step 200/1000 (20.0%)  loss 2.346  lr 0.0005",
        "demo  step 300/1000 (30.0%)  left 3m30s  loss 2  mfu n/a",
        "checkpoint saved",
    ]


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_a_terminal_gets_a_bar_with_messages_above_it(monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr(sys, "stdout", terminal)
    for name in ("NO_COLOR", "TERM"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "120")
    reporter = ProgressReporter(1000, "demo [x]", live=None)
    reporter.update(250, {"loss": 2.5})
    reporter.message("saved [bold]step[/bold] 250")
    reporter.update(500, {"loss": 1.25})
    reporter.close()
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", terminal.getvalue())
    assert "250/1000" in text
    assert "500/1000" in text
    assert "demo [x]" in text
    assert "saved [bold]step[/bold] 250" in text
    assert "loss 1.25" in text
    assert sys.stdout is terminal
