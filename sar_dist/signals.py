"""Stop signals and the launcher's end, watched before anything slow is imported (standard library only, therefore).

While a run is being prepared, a stop signal or the end of its launcher ends the process at once: nothing is lost, and
long checks or a wait for other processes are not sat out. A thread does that, because Python's own handlers wait until
the main thread comes back from the library it is in.

Once training has begun the first SIGTERM, SIGINT, SIGQUIT, SIGHUP, SIGUSR1 or SIGUSR2 is only remembered, and so is the launcher's end:
``sar_dist.training.preemption`` agrees on them between the processes. A second signal leaves at once, also where the main
thread waits for a process that stands still, which is safe: checkpoints are committed by a rename. Where the launcher has
gone and nothing moves any more, the thread leaves so of itself (``sar_dist.standstill``).
"""

from __future__ import annotations

import os
import select
import signal
import threading
import time
from pathlib import Path
from types import FrameType

from sar_dist.launchers import find_launchers
from sar_dist.output import is_main_process, open_missing_streams, warn
from sar_dist.processes import ProcessIdentity
from sar_dist.standstill import Standstill

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)
# Ctrl-C and Ctrl-\\: somebody at a keyboard, who does not want the job back.
KEYBOARD_SIGNALS = (signal.SIGINT, signal.SIGQUIT)
MARKER_VARIABLE = "SAR_REQUEUE_FILE"
_SAME_REQUEST_SECONDS = 2.0  # a launcher that forwards a signal to its process group delivers it twice
_LOOK_SECONDS = 1.0

_received: signal.Signals | None = None
_training = False
_launcher_is_gone = False


def install_handlers() -> None:
    """From now on end at a stop signal, or at the end of the launcher, as this module's first lines say."""
    open_missing_streams()  # else the pipe is taken for stdout, and what is printed for signals
    reading, writing = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    # A forked worker shares the pipe: its signals are not this process's.
    os.register_at_fork(after_in_child=lambda: signal.set_wakeup_fd(-1))
    for number in STOP_SIGNALS:
        # Under nohup a terminal may close.
        if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, _on_signal)
    watch = threading.Thread(target=_watch, args=(reading, find_launchers()), name="stop watch", daemon=True)
    watch.start()


def end_with_launcher() -> None:
    """From now on end at once when the launcher does, which may leave its processes without a word: they would wait for each other.

    For programs whose unfinished work is in files that appear whole or not at all.
    """
    launchers = find_launchers()
    if launchers:
        threading.Thread(target=_outlive_none, args=(launchers,), name="launcher watch", daemon=True).start()


def _outlive_none(launchers: list[ProcessIdentity]) -> None:
    while all(launcher.is_alive() for launcher in launchers):
        time.sleep(_LOOK_SECONDS)
    if is_main_process():
        warn("the launcher has gone; start the same command again to go on from what is saved")
    os._exit(128 + signal.SIGTERM)


def begin_training() -> None:
    """From now on only remember signals and the launcher's end: the run stops together, with everything saved."""
    global _training
    _training = True


def ignore_signals() -> None:
    """Ignore stop signals from now on: one during interpreter shutdown would fail a finished run."""
    for number in STOP_SIGNALS:
        signal.signal(number, signal.SIG_IGN)


def received() -> signal.Signals | None:
    """The stop signal that this process got, if any."""
    return _received


def launcher_is_gone() -> bool:
    """Whether a launcher that was there at the start has ended: nobody waits for this process any more."""
    return _launcher_is_gone


def write_marker(text: str) -> str | None:
    """Write $SAR_REQUEUE_FILE, if it is set, which tells a batch script to requeue the job.

    Returns:
        Why it could not be written, or None.
    """
    path = os.environ.get(MARKER_VARIABLE)
    if not path:
        return None
    try:
        Path(path).write_text(text)
    except OSError as error:
        return f"{MARKER_VARIABLE}={path} could not be written: {error.strerror}"
    return None


def _on_signal(number: int, frame: FrameType | None) -> None:
    """Nothing more than that there is a handler: Python writes the signal's number into the pipe, and the thread acts."""


def _watch(signals: int, launchers: list[ProcessIdentity]) -> None:
    """The thread: reads the signals that Python writes into the pipe, and looks after the launchers every second."""
    global _launcher_is_gone, _received
    received_at = 0.0
    standstill = Standstill()
    while True:
        ready, _, _ = select.select([signals], [], [], _LOOK_SECONDS)
        numbers = os.read(signals, 64) if ready else b""
        stops = [number for number in numbers if number in STOP_SIGNALS]
        if stops and not _training:
            name = signal.Signals(stops[0]).name
            if stops[0] not in KEYBOARD_SIGNALS and is_main_process():
                write_marker(f"before training began: {name}\n")
            _end_start(f"stopped by {name}", 128 + stops[0])
        if stops and _received is None:
            _received, received_at = signal.Signals(stops[0]), time.monotonic()
        elif stops and time.monotonic() - received_at > _SAME_REQUEST_SECONDS:
            os._exit(128 + stops[0])
        if not _launcher_is_gone and not all(launcher.is_alive() for launcher in launchers):
            _launcher_is_gone = True
            if not _training:
                _end_start("the launcher has gone", 128 + signal.SIGTERM)
        if _launcher_is_gone and standstill.look():
            _end_standstill(standstill)


def _end_standstill(standstill: Standstill) -> None:
    """Leave a run whose launcher has gone and in which nothing moves; the main thread waits for what will not come."""
    if standstill.speaks:
        write_marker("the launcher has gone\n")
        warn(
            f"the launcher has gone, and {standstill.describe()}; start the same command again to go on from the last checkpoint"
        )
    standstill.end_stopped()
    os._exit(128 + signal.SIGTERM)


def _end_start(reason: str, status: int) -> None:
    """Leave without the main thread, which may be anywhere. What a start writes appears whole or not at all."""
    warn(f"{reason} before training began; nothing is lost")
    os._exit(status)
