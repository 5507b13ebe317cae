"""Maps of labels whose palettes say that an index means something else from file to file."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sar_dist.data.making.sources.map_palettes import refuse_different_palettes
from sar_dist.errors import UserError

RED, GREEN, BLUE, BLACK = (255, 0, 0), (0, 255, 0), (0, 0, 255), (0, 0, 0)


def maps(root: Path, *palettes: list[tuple[int, int, int]], used: tuple[int, ...] = (0, 1, 2)) -> list[Path]:
    """A map for each palette, with pixels of the indices ``used``."""
    files = []
    for number, palette in enumerate(palettes):
        image = Image.fromarray(np.tile(np.array(used, np.uint8), (4, 4)), "P" if palette else "L")
        if palette:
            image.putpalette([part for entry in palette for part in entry])
        file = root / f"{number}.png"
        image.save(file)
        files.append(file)
    return files


@pytest.mark.parametrize(
    "palettes",
    [
        [[BLACK, RED, GREEN], [BLACK, RED, GREEN]],
        [[BLACK, RED, GREEN, BLUE], [BLACK, RED, GREEN, RED]],  # an entry that no pixel has
        [[BLACK, RED, GREEN, BLUE], [BLACK, RED, GREEN]],  # trimmed
        [[BLACK, RED, GREEN], [(0, 0, 0), (1, 1, 1), (2, 2, 2)], []],  # grey says nothing
        [[(0, 0, 0), (85, 85, 85), (170, 170, 170)]],  # to be looked at
    ],
)
def test_palettes_that_agree_are_taken(tmp_path: Path, palettes: list[list[tuple[int, int, int]]]) -> None:
    refuse_different_palettes(maps(tmp_path, *palettes))


def test_maps_that_were_quantised_one_by_one_are_refused(tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match=r"0\.png and .*1\.png have different colours for their index 1 \(#ff0000, #00ff00\)"
    ):
        refuse_different_palettes(maps(tmp_path, [BLACK, RED, GREEN], [BLACK, GREEN, RED]))


def test_greys_out_of_order_are_the_labels(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"has the grey 1 for its index 1, and 2 for a lower one, .* 8-bit grey"):
        refuse_different_palettes(maps(tmp_path, [(2, 2, 2), (1, 1, 1), (0, 0, 0)]))


def test_a_palette_behind_other_chunks_is_found_and_damage_left_to_the_reader(tmp_path: Path) -> None:
    files = maps(tmp_path, [BLACK, RED, GREEN], [BLACK, GREEN, RED])
    image = Image.open(io.BytesIO(files[1].read_bytes()))
    image.save(files[1], icc_profile=bytes(range(256)) * 64)
    with pytest.raises(UserError, match="different colours"):
        refuse_different_palettes(files)
    files[1].write_bytes(files[1].read_bytes()[:100])
    refuse_different_palettes(files)
