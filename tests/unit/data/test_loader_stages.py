"""Where a core's time goes: measured stages, and remedies that are named only where they help."""

from __future__ import annotations

import io
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from shard_factory import tar_bytes, train_loader

from sar_dist.config import RunConfig, load_config
from sar_dist.data import DeviceDecoder, TrainLoader
from sar_dist.data.images import EncodedBatch
from sar_dist.training import loader_stages
from sar_dist.training.loader_stages import StageCosts, measure_stages

ROOT = Path(__file__).resolve().parents[3]


def jpeg(width: int, height: int) -> bytes:
    pixels = np.random.default_rng(0).integers(0, 256, (height // 8, width // 8, 3), dtype=np.uint8)
    out = io.BytesIO()
    Image.fromarray(pixels).resize((width, height)).save(out, "JPEG")
    return out.getvalue()


def loader_of(folder: Path, width: int, height: int) -> TrainLoader:
    image, broken = jpeg(width, height), jpeg(width, height)[:400]
    members = []
    for number in range(8):
        members += [(f"{number}.jpg", broken if number == 3 else image), (f"{number}.cls", b"0")]
    folder.mkdir()
    (folder / "a.tar").write_bytes(tar_bytes(members))
    return train_loader(folder, global_batch=4, micro_batch=2)


def config_of(*overrides: str) -> RunConfig:
    return load_config(ROOT / "configs" / "vit_l_in1k.py", ["model.image_size=64", *overrides])


def costs_of(loader: TrainLoader, *overrides: str, device: str = "cpu") -> StageCosts:
    return measure_stages(config_of(*overrides), loader, torch.device(device), images=8)


def test_encoded_images_are_those_of_the_run_from_a_batch_on(tmp_path: Path) -> None:
    loader = loader_of(tmp_path / "a", 48, 40)
    files = loader.encoded(0, 8)
    assert len(files) == 8
    assert loader.encoded(1, 4) == files[4:]
    assert loader.encoded(0, 3) == files[:3]


def test_large_images_are_what_takes_the_time(tmp_path: Path) -> None:
    """Of images of 800 x 600 pixels, for crops of 64: the first remedy is to resize them, and it says how."""
    costs = costs_of(loader_of(tmp_path / "a", 800, 600), "augment.rand_augment=rand-m9-mstd0.5-inc1")
    assert costs.decode > costs.operations
    assert "make_shards.py shards SRC OUT --max-short-side 73" in costs.remedies[0].what
    assert costs.remedies[0].milliseconds < costs.total / 2
    assert [each.milliseconds for each in costs.remedies] == sorted(each.milliseconds for each in costs.remedies)


def test_remedies_are_those_that_this_run_has(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Small images need no resizing, and the fast backend is a remedy of the other one's; however much they save."""
    monkeypatch.setattr(loader_stages, "_LEAST_SAVING", -1e9)
    loader = loader_of(tmp_path / "a", 80, 64)
    assert costs_of(loader, "augment.rand_augment=null").remedies == ()
    costs = costs_of(loader, "augment.backend=pil", "augment.rand_augment=rand-m9")
    assert [each.what for each in costs.remedies] == ["set augment.backend=fast"]


def test_the_device_is_a_remedy_where_it_is_a_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loader_stages, "_LEAST_SAVING", -1e9)
    loader = loader_of(tmp_path / "a", 80, 64)
    heavy = ("augment.rand_augment=rand-m9", "augment.where=worker")
    assert costs_of(loader, *heavy).remedies == ()
    assert [each.what for each in costs_of(loader, *heavy, device="cuda").remedies] == ["set augment.where=device"]
    placed = costs_of(loader, "augment.rand_augment=rand-m9", "augment.where=device", device="cuda")
    assert placed.remedies == ()


def test_what_saves_nothing_is_not_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loader_stages, "_milliseconds", lambda _action, _encoded: 1.0)
    assert costs_of(loader_of(tmp_path / "a", 800, 600)).remedies == ()


def test_batches_cost_what_is_left_and_the_run_s_random_numbers_stay(tmp_path: Path) -> None:
    loader = loader_of(tmp_path / "a", 80, 64)
    state = (random.getstate(), torch.get_rng_state().tolist(), torch.get_num_threads())
    costs = measure_stages(config_of(), loader, torch.device("cpu"), total=1000.0, images=8)
    assert costs.total == pytest.approx(1000)
    assert costs.batch > 900
    assert (random.getstate(), torch.get_rng_state().tolist(), torch.get_num_threads()) == state


def test_where_the_device_decodes_the_stages_are_those_of_its_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The CPU stands in for the device; the broken file is the worker's, and whoever decodes it would refuse it."""
    decoded: list[int] = []
    decode = DeviceDecoder.__call__

    def counted(decoder: DeviceDecoder, batch: EncodedBatch) -> object:
        decoded.append(len(batch.files()))
        return decode(decoder, batch)

    monkeypatch.setattr(DeviceDecoder, "__call__", counted)
    loader = loader_of(tmp_path / "a", 800, 600)
    options = ("data.decoder=gpu", "augment.where=device", "engine.micro_batch=4")
    costs = measure_stages(config_of(*options), loader, torch.device("cpu"), total=1000.0, images=8)
    assert decoded == [4, 4, 3], "the first to warm up, then all that is left to the device"
    assert costs.device is not None
    # On the CPU the thread itself decodes; a worker that only checks and draws is done much earlier.
    assert 0 < costs.resize < costs.decode / 2 < costs.device
    assert costs.total == pytest.approx(1000)
    assert costs.remedies == ()
    assert "check and draw the crop" in str(costs)
    assert f"the device decodes, crops and resizes one in {costs.device:.2f} ms" in str(costs)
