"""The one exception a user meets: bad input, said in one line that tells what to do; and any exception in one line.

Texts of libraries' exceptions may have many lines, none, or raise themselves: ``in_brief``, ``text_of`` and ``described`` are for all.
"""

from __future__ import annotations

# What scripts may rely on: docs/clusters.md, "What an exit status means".
EXIT_BAD_INPUT = 2
EXIT_CANNOT_MEET = 3
_UNSHOWN = "its text cannot be shown"


class UserError(Exception):
    """Something the user gave is wrong (config, shard, image, checkpoint, environment).

    The message is one line: what is wrong, where, and what to do about it. Command-line tools print it without a
    traceback and exit with status ``exit_status``, which is 2 unless a subclass says otherwise.
    """

    exit_status = EXIT_BAD_INPUT
    for_every_process = False  # whether each process says it, because nobody may be the one that speaks for all


class CannotMeet(UserError):
    """The processes of a run could not form a group: a network, a port or a node at fault, so that trying again may help."""

    exit_status = EXIT_CANNOT_MEET


def killed_worker(error: RuntimeError) -> str | None:
    """What to say where torch tells that a data-loader process has gone, whatever was at work then; None: another error."""
    text = text_of(error)
    if "killed by signal" not in text and "exited unexpectedly" not in text:
        return None
    return (
        "a data worker was killed, most likely because the system ran out of memory; "
        f"lower data.workers or data.prefetch ({first_line(error)})"
    )


def described(error: BaseException, limit: int = 500) -> str:
    """Kind and text of what a user's own code or a library raised, which can be anything, in one line that is not too long."""
    text = " ".join(_text(error).split())
    return shortened(f"{type(error).__name__}: {text}" if text else type(error).__name__, limit)


def text_of(error: BaseException) -> str:
    """The text of an exception, which a user's own class or a library's may make, in one line; its kind where that fails."""
    text = " ".join(_text(error).split())
    return f"{type(error).__name__}: {text}" if text == _UNSHOWN else text


def first_line(error: BaseException) -> str:
    """The first line of an exception's text; empty: it has none."""
    return next(iter(_text(error).strip().splitlines()), "")


def in_brief(error: BaseException) -> str:
    """What went wrong, without a library's further lines, which are mostly advice to programmers; the kind of error where it says nothing."""
    return first_line(error) or type(error).__name__


def _text(error: BaseException) -> str:
    try:
        return str(error)
    except KeyboardInterrupt:
        raise
    except BaseException:  # noqa: BLE001 -- its own text is that code's too
        return _UNSHOWN


def shortened(text: str, limit: int = 200) -> str:
    """``text``, cut where nobody would read on."""
    return text if len(text) <= limit else f"{text[:limit]}... ({len(text)} characters)"
