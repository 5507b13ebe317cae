"""Lengths of training in the unit that suits them: "90ep", "5%", "1000st", "1.5Mex", resolved by one function."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import BeforeValidator

_PATTERN = re.compile(r"(?P<number>\d{1,12}(?:\.\d{1,12})?)\s*(?P<unit>ep|st|%|k?ex|Mex)", re.ASCII)
_EXAMPLES = {"ex": 1, "kex": 1_000, "Mex": 1_000_000}


def _check(value: object) -> str:
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise ValueError("not a duration; write steps as 1000 or '1000st', or '2ep', '5%', '1Mex'")
    if isinstance(value, int) and not 0 < value < 10**12:
        raise ValueError("not a duration: steps are counted from 1 to 10**12")
    text = f"{value}st" if isinstance(value, int) or value.isdecimal() else value
    match = _PATTERN.fullmatch(text)
    if match is None or float(match["number"]) <= 0:
        raise ValueError("not a duration; write steps as 1000 or '1000st', or '2ep', '5%', '1Mex'")
    return text


Duration = Annotated[str, BeforeValidator(_check)]
"""A validated duration: steps ("1000st" or 1000), epochs ("2ep"), share of training ("5%"), images ("1Mex", "5kex")."""


def duration_in_steps(duration: Duration, *, steps_per_epoch: int, total_steps: int, global_batch: int) -> int:
    """Optimizer steps that ``duration`` stands for, at least 1.

    Args:
        duration: a validated duration, such as "2ep".
        steps_per_epoch: optimizer steps in one pass over the training set.
        total_steps: optimizer steps of the whole run; what "%" is a share of.
        global_batch: images in one optimizer step; what "ex" durations are divided by.
    """
    match = _PATTERN.fullmatch(duration)
    if match is None:
        raise ValueError(f"not a validated duration: {duration!r}")
    number, unit = float(match["number"]), match["unit"]
    if unit == "st":
        steps = number
    elif unit == "ep":
        steps = number * steps_per_epoch
    elif unit == "%":
        steps = number / 100 * total_steps
    else:
        steps = number * _EXAMPLES[unit] / global_batch
    return max(1, round(steps))
