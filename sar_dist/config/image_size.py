"""The size of a model's input: one number for a square, or height and width."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

Side = Annotated[int, Field(ge=1, le=16384)]
ImageSize = int | tuple[int, int]
"""Pixels: the side of a square, or (height, width)."""


def height_and_width(size: ImageSize) -> tuple[int, int]:
    """Both sides, pixels."""
    return (size, size) if isinstance(size, int) else (size[0], size[1])


def as_image_size(height: int, width: int) -> ImageSize:
    """The shortest way to say a size."""
    return height if height == width else (height, width)


def size_text(size: ImageSize) -> str:
    """A size in words: 224 of a square, else 256x128 (height x width)."""
    return str(size) if isinstance(size, int) else f"{size[0]}x{size[1]}"
