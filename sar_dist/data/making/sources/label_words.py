"""What the labels of a table mean: class numbers, or words that are numbered."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from sar_dist.data.layout import (
    ClassTable,
    class_word,
    doubtful_words,
    lists_remark,
    order_remark,
    read_class_table,
    read_label_words,
    refuse_lists,
    refuse_number_words,
)
from sar_dist.errors import UserError, shortened
from sar_dist.output import warn

MOST_DIGITS = 7  # of a class number


def numbered_words(values: Iterable[str], where: Path, classes_file: Path) -> ClassTable | None:
    """The numbering of labels that are words, alphabetical or as ``classes_file`` says; None: all are numbers.

    Raises:
        UserError: some are numbers and some are not, or they are no class numbers; or one is a list of several.
    """
    different = sorted({class_word(value) for value in values})
    refuse_lists(set(different), str(where), classes_file)
    numbers = [value for value in different if _is_number(value)]
    if not numbers:
        table = read_class_table(different, classes_file, whole=True)
        said = os.path.lexists(classes_file)  # what the classes are
        remarks = () if said else (lists_remark(different), order_remark(table.names))
        for each in (doubtful_words(different), *remarks):
            if each is not None:
                warn(f"{where}: {each}")
        return table
    if len(numbers) < len(different):
        word = next(value for value in different if value not in numbers)
        raise UserError(
            f"{where} mixes numbers and names as labels, such as {numbers[0]} and {word}; make them one of these"
        )
    wrong = [value for value in numbers if not value.isascii() or not value.isdecimal() or len(value) > MOST_DIGITS]
    if wrong:
        raise UserError(
            f"{where} has labels that are negative, fractional or too large to be class numbers, such as "
            f"{shortened(wrong[0], 20)}; write whole numbers from 0, or words"
        )
    spelled: dict[int, str] = {}
    for value in numbers:
        other = spelled.setdefault(int(value), value)
        if other != value:
            raise UserError(
                f"{where} has the labels {other} and {value}, which are the same number; write it in one way"
            )
    return None


def _is_number(word: str) -> bool:
    try:
        float(word)
    except ValueError:
        return False
    return any(letter.isdigit() for letter in word)  # nan and inf are words here


def names_of_numbers(classes_file: Path, highest: int, where: Path) -> tuple[str, ...] | None:
    """What labels that are numbers, up to ``highest``, are called by a ``classes.json``; None where there is none.

    Raises:
        UserError: it is damaged, or names fewer classes.
    """
    if not os.path.lexists(classes_file):
        return None
    table = read_label_words(classes_file)
    refuse_number_words(table.labels, str(classes_file))
    if highest >= len(table.names):
        raise UserError(
            f"{where} has the label {highest}, but {classes_file} names the {len(table.names)} classes 0 to "
            f"{len(table.names) - 1}; correct one of them, or remove {classes_file.name}"
        )
    return table.names
