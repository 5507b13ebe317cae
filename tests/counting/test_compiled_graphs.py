"""How often torch.compile makes a graph of a model's blocks: each costs seconds to minutes at the start of a run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from support import run_processes
from test_training_traffic import CONFIG

PROGRAM = Path(__file__).with_name("count_graphs.py")
BASE = "engine.compile=true model.options.depth=24 optim.min_lr=0"
SETTINGS = {
    "recommended": f"{BASE} engine.zero_stage=1 engine.precision=bf16_parameters",
    "autocast": f"{BASE} engine.zero_stage=1 engine.precision=bf16",
    "sharded": f"{BASE} engine.zero_stage=3 engine.precision=bf16_parameters",
    # Blocks of 8 to 16 samples.
    "skipping": f"{BASE} engine.zero_stage=1 engine.precision=bf16_parameters engine.micro_batch=16 model.drop_path=0.5 "
    "model.skip_dropped=true",
}


def count(names: list[str], folder: Path, shards: Path) -> dict[str, Any]:
    config, out = folder / "settings" / "graphs.py", folder / "graphs.json"
    config.parent.mkdir()
    config.write_text(CONFIG.format(runs=str(folder / "runs"), data=str(shards)))
    run_processes(1, str(PROGRAM), str(config), str(out), *(SETTINGS[name] for name in names))
    return dict(zip(names, json.loads(out.read_text()), strict=True))


def assert_few_graphs(result: dict[str, Any]) -> None:
    """Two kinds of blocks, plain and tapped; and training differs from validation, which has no gradients."""
    assert result["breaks"] == {}
    assert result["graphs"] == {
        "first training": 2,
        "first validation": 4,
        "second training": 4,
        "second validation": 4,
        "smaller batch": 6,  # the loader fills its last batch up, so that a run never sees one
    }


def test_24_blocks_are_two_graphs_in_training_and_two_in_validation(tmp_path: Path, small_shards: Path) -> None:
    counted = count(["recommended", "skipping"], tmp_path, small_shards)
    assert_few_graphs(counted["recommended"])
    # One more for all blocks that compute fewer samples than there are, however many.
    assert counted["skipping"] == {
        "breaks": {},
        "graphs": {
            "first training": 3,
            "first validation": 5,
            "second training": 5,
            "second validation": 5,
            "smaller batch": 7,
        },
    }


@pytest.mark.long
def test_other_settings_have_no_more_graphs(tmp_path: Path, small_shards: Path) -> None:
    for result in count(["autocast", "sharded"], tmp_path, small_shards).values():
        assert_few_graphs(result)
