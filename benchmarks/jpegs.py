"""The images that benchmarks of the data path are run on."""

from __future__ import annotations

from pathlib import Path

from sar_dist.data.making import demo_samples


def jpeg_files(folder: Path) -> list[Path]:
    """The JPEG files under a folder, in the order of their names."""
    return sorted(path for path in folder.rglob("*") if path.suffix.lower() in (".jpg", ".jpeg"))


def read_jpegs(folder: Path | None, count: int) -> list[bytes]:
    """The first ``count`` of them, or as many generated ones without a folder."""
    if folder is None:
        return [sample["jpg"] for sample in demo_samples("bench", count, 8, 400, seed=0)]
    return [path.read_bytes() for path in jpeg_files(folder)[:count]]
