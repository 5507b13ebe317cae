"""Fixtures that every kind of test shares."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from support import SMALL_CONFIG, jpeg, write_tar


def pytest_configure(config: pytest.Config) -> None:
    """The tests are about the CPU, also on a machine with GPUs, but for those that `make test-gpu` asks for."""
    if config.option.markexpr != "gpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
        os.environ["DS_ACCELERATOR"] = "cpu"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if not torch.cuda.is_available():
        for item in items:
            if item.get_closest_marker("gpu") is not None:  # keywords have the folders too, such as tests/gpu
                item.add_marker(pytest.mark.skip(reason="needs a CUDA device; make test-gpu"))


@pytest.fixture(autouse=True)
def as_found() -> Iterator[None]:
    """What a test leaves in this process is gone for the next: environment, and the group of a program that ended early."""
    environment = dict(os.environ)
    yield
    for variable in set(os.environ) - set(environment):
        del os.environ[variable]
    os.environ.update(environment)
    if dist.is_initialized():
        dist.destroy_process_group()


@pytest.fixture(scope="session")
def small_shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Plain WebDataset tars, 3 shards of 32 training and 1 of 21 validation images, 4 classes of colour patterns."""
    root = tmp_path_factory.mktemp("shards")
    for split, shards, samples, first in (("train", 3, 32, 0), ("val", 1, 21, 1000)):
        for shard in range(shards):
            members: dict[str, bytes] = {}
            for number in range(first + shard * samples, first + (shard + 1) * samples):
                members |= {f"{number:06d}.jpg": jpeg(number), f"{number:06d}.cls": b"%d" % (number % 4)}
            write_tar(root / split / f"{split}-{shard:04d}.tar", members)
    return root


@pytest.fixture
def small_config(tmp_path: Path, small_shards: Path) -> Path:
    """A configuration file of a tiny run on ``small_shards``; its runs go to ``tmp_path/runs``."""
    path = tmp_path / "settings" / "small.py"
    path.parent.mkdir()
    path.write_text(SMALL_CONFIG.format(runs=str(tmp_path / "runs"), data=str(small_shards)))
    return path
