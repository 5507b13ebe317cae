"""The pictures that runs and their evaluations left, made small enough for one page."""

from __future__ import annotations

import io
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image

from sar_dist.observe import FIGURES_FOLDER
from sar_dist.reports.kept import kept_records
from sar_dist.reports.rendering import Picture
from sar_dist.reports.runs import ReportedRun

LEAST_BYTES = 60_000  # of a picture that is worth looking at
LARGEST_WIDTH = 1500
JPEG_QUALITY = 85
_OF_A_STEP = re.compile(r"(.+)_step_(\d+)\.png")
_EVALUATIONS, _OTHERS = "Pictures of the evaluations", "Further pictures"
_FIGURES = {
    "attention": ("Attention at the end", "what the heads attend to on some validation images"),
    "confusion": ("Confusion", "confusion matrix over the validation set"),
    "training_samples": ("Training samples", "training images as the model saw them"),
    "attention_heads": (
        "Attention, head by head",
        "similarity, mask, components and overlay of each head on one validation image",
    ),
}
SECTIONS = ("Attention at the end", _EVALUATIONS, "Confusion", "Training samples", "Attention, head by head", _OTHERS)
"""From the most important ones to those that are left out first."""


@dataclass(frozen=True)
class FoundPicture:
    """A picture's file, the run it belongs to, the section of the page that it goes into, and what it shows."""

    file: Path
    run: str
    section: str
    title: str
    shows: str


@dataclass
class PagePictures:
    """What goes onto a page, and what does not.

    Attributes:
        by_section: title of a section -> its pictures, runs one after the other.
        left_out: number of pictures for which the page has no room.
        unreadable: files that are no pictures, or damaged.
    """

    by_section: dict[str, list[Picture]] = field(default_factory=dict)
    left_out: int = 0
    unreadable: list[Path] = field(default_factory=list)


def find_pictures(runs: Sequence[ReportedRun]) -> list[FoundPicture]:
    """The newest of each figure of each run and all pictures of its evaluations, the most important ones first.

    That is section by section; within a section runs take turns.
    """
    ranked: list[tuple[int, int, FoundPicture]] = []
    for run in runs:
        places = Counter[str]()
        for found in _pictures_of(run):
            ranked.append((SECTIONS.index(found.section), places[found.section], found))
            places[found.section] += 1
    return [found for *_, found in sorted(ranked, key=lambda entry: entry[:2])]


def _pictures_of(run: ReportedRun) -> Iterator[FoundPicture]:
    kept_maps = bool(kept_records(run, "attention"))
    for name, (step, file) in newest_figures(run.path / FIGURES_FOLDER).items():
        family = name.partition("/")[0]
        if family == "attention_heads" and kept_maps:
            continue  # the slider shows each head of the same images
        section, what = _FIGURES.get(family, (_OTHERS, ""))
        title = f"{_words(name)}, step {step:,}"
        yield FoundPicture(file, run.name, section, title, f"{title}: {what}" if what else title)
    for evaluation in run.transfer:
        for file in sorted((run.path / "transfer" / evaluation).glob("*.png")):
            shows = f"{_words(file.stem)} of the evaluation {evaluation}"
            yield FoundPicture(file, run.name, _EVALUATIONS, f"{evaluation}: {_words(file.stem)}", shows)


def newest_figures(folder: Path) -> dict[str, tuple[int, Path]]:
    """Name of each figure, such as "attention" or "attention_heads/image_0" -> its last step and that picture's file."""
    newest: dict[str, tuple[int, Path]] = {}
    for file in sorted(folder.rglob("*.png")):
        match = _OF_A_STEP.fullmatch(file.relative_to(folder).as_posix())
        if match and int(match[2]) >= newest.get(match[1], (-1, file))[0]:
            newest[match[1]] = (int(match[2]), file)
    return newest


def _words(name: str) -> str:
    return name.replace("_", " ").replace("/", ", ")


def fit_pictures(found: Sequence[FoundPicture], room: int) -> PagePictures:
    """As many of the pictures, the first ones first, as ``room`` bytes hold, each in what the smaller ones leave it."""
    tried = found[: max(0, room) // LEAST_BYTES]
    page = PagePictures(left_out=len(found) - len(tried))
    sizes = {picture.file: size for picture in tried if (size := _size_if_readable(picture.file)) is not None}
    page.unreadable += [picture.file for picture in tried if picture.file not in sizes]
    fitted: dict[Path, tuple[bytes, str]] = {}
    for file in sorted(sizes, key=sizes.__getitem__):
        fitted[file] = shrunk(file.read_bytes(), room // (len(sizes) - len(fitted)))
        room -= len(fitted[file][0])
    for section in SECTIONS:
        for picture in tried:
            if picture.section == section and picture.file in fitted:
                caption = f"{picture.run}: {picture.title}"
                shown = Picture(picture.title, f"{picture.run}: {picture.shows}", *fitted[picture.file], caption)
                page.by_section.setdefault(section, []).append(shown)
    return page


def _size_if_readable(file: Path) -> int | None:
    if not file.is_file():  # a pipe would be waited for
        return None
    try:
        with Image.open(file) as picture:
            picture.load()
        return file.stat().st_size
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):  # what Pillow raises for damaged files
        return None


def shrunk(content: bytes, most: int) -> tuple[bytes, str]:
    """A PNG file and its media type: as it is if it has at most ``most`` bytes, else the largest JPEG that has."""
    if len(content) <= most:
        return content, "image/png"
    with Image.open(io.BytesIO(content)) as picture:
        layers = picture.convert("RGBA")
    image = Image.new("RGB", layers.size, "white")
    image.paste(layers, mask=layers.getchannel("A"))
    scale = min(1.0, LARGEST_WIDTH / image.width)
    while True:
        size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
        out = io.BytesIO()
        # Text and thin lines in colour need every pixel's colour: no subsampling.
        image.resize(size, Image.Resampling.LANCZOS).save(out, "JPEG", quality=JPEG_QUALITY, subsampling=0)
        if out.tell() <= most or max(size) == 1:
            return out.getvalue(), "image/jpeg"
        scale *= 0.8
