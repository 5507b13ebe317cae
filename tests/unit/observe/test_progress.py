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


def terminal_of(columns, monkeypatch):
    """Standard output as a terminal."""
    terminal = Terminal()
    monkeypatch.setattr(sys, "stdout", terminal)
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", str(columns))
    return terminal


def test_a_terminal_of_80_columns_shows_all_there_is(monkeypatch):
    terminal = terminal_of(80, monkeypatch)
    now = 100.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    reporter = ProgressReporter(375300, "vit_b_in1k_baseline", live=None)
    values = {"loss": 6.912, "entropy": 0.2345, "img/s": 12345.6, "data wait": "12%", "MFU": "41.3%"}
    reporter.update(100, values)
    now += 60
    reporter.update(200, values)
    reporter.close()
    lines = [re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", line).strip() for line in re.split(r"[\r\n]", terminal.getvalue())]
    bar, below = [line for line in lines if line][-2:]
    assert re.fullmatch(r"vit_b_in1k_baseline ━+ +200/375300 0:00:0\d left 2d14h", bar)
    assert below == "loss 6.912  entropy 0.2345  img/s 12346  data wait 12%  MFU 41.3%"
    assert len(bar) <= 80


def test_a_terminal_gets_a_bar_with_messages_above_it(monkeypatch):
    terminal = terminal_of(120, monkeypatch)
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
