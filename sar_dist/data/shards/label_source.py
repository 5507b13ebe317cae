"""Where the label of a sample in a shard comes from: a ``cls`` member, or a field of a JSON member; a number or a word."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from sar_dist.data.layout import CLASSES_NAME, class_word, refuse_number_words
from sar_dist.errors import UserError, shortened

LABEL_EXTENSION = "cls"
# Longest member that a label is looked for in, bytes; captions and their like fit.
LABEL_MAX_BYTES = 1 << 20

_MOST_LETTERS = 40

ParseNumber = Callable[[bytes], int]


@dataclass(frozen=True)
class LabelSource:
    """What ``data.label`` says: ``cls``, or ``json.label`` for the field ``label`` of the member ``json``.

    Attributes:
        member: extension of the member.
        fields: path of keys inside its JSON object; empty: the member's text is the label.
        words: label of each class word, from ``classes.json``; a label that is a whole number stands for itself.
    """

    member: str = LABEL_EXTENSION
    fields: tuple[str, ...] = ()
    words: Mapping[str, int] = field(default_factory=dict)

    @property
    def tag(self) -> str:
        """Empty for plain numbers in ``cls``; else tells indices and stages of different sources apart."""
        if self == LabelSource():
            return ""
        content = json.dumps([self.member, self.fields, sorted(self.words.items())])
        return hashlib.blake2b(content.encode(), digest_size=6).hexdigest()

    def label(self, data: bytes, parse_number: ParseNumber, missing: int) -> int:
        """The label in the content of the member; ``missing`` if there is none. ``parse_number`` reads ASCII digits."""
        text = self._text(data)
        if text is None:
            return missing
        number = parse_number(text.encode("utf-8", "surrogatepass"))
        return self.words.get(class_word(text), missing) if number == missing else number

    @property
    def where(self) -> str:
        """The place of labels as ``data.label`` names it."""
        return ".".join([self.member, *self.fields])

    def found(self, members: Mapping[str, bytes]) -> str | None:
        """What a sample's members hold in the place of its label, as a message shows it; None: nothing is there."""
        data = members.get(self.member)
        if data is None:
            return None
        if len(data) > LABEL_MAX_BYTES:
            return f"of {len(data)} bytes (at most {LABEL_MAX_BYTES})"
        if not self.fields:
            return shortened(repr(data.decode("utf-8", "backslashreplace")), _MOST_LETTERS)
        try:
            value: Any = json.loads(data)
        except (ValueError, RecursionError):
            return f"in a {self.member} that is no JSON, {shortened(repr(data[:_MOST_LETTERS]), _MOST_LETTERS)},"
        try:
            json.loads(data, object_pairs_hook=self._once)
        except ValueError as error:
            return str(error)
        for key in self.fields:
            if not isinstance(value, dict) or key not in value:
                return None
            value = value[key]
        return shortened(json.dumps(value), _MOST_LETTERS)

    def _once(self, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        """An object of JSON, of which Python would take the last of several labels. Raises ValueError for such."""
        content = dict(pairs)
        if len(content) < len(pairs):
            names = [name for name, _ in pairs]
            twice = next((name for name in self.fields if names.count(name) > 1), None)
            if twice is not None:
                raise ValueError(f"{twice!r} twice in one object")
        return content

    def _text(self, data: bytes) -> str | None:
        try:
            if not self.fields:
                return data.decode()
            value: Any = json.loads(data, object_pairs_hook=self._once)
            for key in self.fields:
                value = value[key]
        except (ValueError, KeyError, TypeError, RecursionError):
            return None
        whole = isinstance(value, int) and not isinstance(value, bool)
        return str(value) if whole or isinstance(value, str) else None


def parse_label_source(text: str, words: Mapping[str, int]) -> LabelSource:
    """``cls``, or ``json.label``; ``words`` are those of a ``classes.json``. Raises UserError."""
    member, *fields = text.split(".")
    if not member or not all(fields):
        raise UserError(
            f"data.label={text} is no source of labels; give cls, or a field of a JSON member such as json.label"
        )
    refuse_number_words(words, CLASSES_NAME)
    return LabelSource(member.lower(), tuple(fields), dict(words))
