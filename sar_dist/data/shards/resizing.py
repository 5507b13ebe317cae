"""What was done to the images of a set of shards when it was made: a limit of their size, with what it took to keep it."""

from __future__ import annotations

from typing import Any, NamedTuple


class Resizing(NamedTuple):
    """Images with a short side above ``max_short_side`` pixels were made so small, as JPEG of ``quality`` (1 to 100)."""

    max_short_side: int
    quality: int = 90

    def __str__(self) -> str:
        return f"short side <= {self.max_short_side} px, JPEG quality {self.quality}"


def parse_resizing(content: Any) -> tuple[Resizing, ...]:
    """The steps, first to last, in which a manifest says that its images were resized; none: they are the originals.

    Raises KeyError, TypeError, ValueError.
    """
    return tuple(Resizing(int(step["max_short_side"]), int(step["quality"])) for step in content)


def resizing_content(steps: tuple[Resizing, ...]) -> list[dict[str, Any]]:
    """What a manifest says of the steps, with the filter for those who read it."""
    return [{**step._asdict(), "resampling": "bicubic, antialiased (Pillow)", "subsampling": "4:2:0"} for step in steps]


def describe(steps: tuple[Resizing, ...]) -> str | None:
    """The steps in words; None: originals."""
    return "; then ".join(map(str, steps)) or None
