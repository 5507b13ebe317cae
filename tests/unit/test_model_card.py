"""The card of an export says what the run directory says, of the exported weights, and nothing of this machine."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from result_factory import some_result
from run_factory import random_model, settings, write_run
from safetensors.torch import load_file, save_file
from support import tool
from written_records import append_record

from sar_dist.config import load_config
from sar_dist.errors import UserError
from sar_dist.models import TappedVisionTransformer, export_run
from sar_dist.reports import write_card
from sar_dist.transfer.backbone import export_fingerprint, weights_fingerprint
from sar_dist.transfer.result import MeasuredModel, write_result

ENVIRONMENT = {
    "git_commit": "0123abcd",
    "git_changes": False,
    "world_size": 4,
    "device": "H",
    "host": "secret-host",
    "python": "3.12",
    "packages": {"torch": "2.9"},
}


@pytest.fixture
def run(tmp_path: Path) -> Path:
    live: Any = {step: random_model(settings(), step).vit for step in (10, 20)}
    run = write_run(tmp_path / "runs", settings(), live, average=random_model(settings(), 3).vit)
    config = json.loads((run / "config.json").read_text())
    config["data"] |= {"train": "/secret/imagenet/train", "val": "/secret/imagenet/val"}
    config["model"]["init_from"] = "/secret/weights/start.safetensors"
    (run / "config.json").write_text(json.dumps(config))
    (run / "environment.json").write_text(json.dumps([ENVIRONMENT]))
    for prefix, top1 in (("val", 41.5), ("val_ema", 43.25)):
        append_record(run / "metrics.jsonl", 20, prefix, 0.0, {"top1": top1, "loss_cls": 1.3595737069, "images": 50.0})
    live, average = live[20], random_model(settings(), 3).vit
    for folder, weights, top1 in (("knn", average, 61.5), ("knn_live", live, 60.51234)):
        (run / "transfer" / folder).mkdir(parents=True)
        tapped = TappedVisionTransformer(weights)
        model = MeasuredModel(
            spec="/secret/runs/small", description="as it pleases", fingerprint=weights_fingerprint(tapped)
        )
        write_result(some_result(model=model, metrics={"top1": top1}), run / "transfer" / folder)
    return run


def card(run: Path, out: Path, **arguments: object) -> str:
    export_run(run, out, **arguments)  # type: ignore[arg-type]
    write_card(run, out, plain_timm=True, licence="apache-2.0")
    return (out / "README.md").read_text()


def test_results_are_those_of_the_exported_weights(run: Path, tmp_path: Path) -> None:
    average = card(run, tmp_path / "average")
    assert "the moving average of the weights after optimizer step 20, in float32" in average
    for row in ("| top1 | 43.25 |", "| loss_cls | 1.36 |", "| images | 50 |"):
        assert row in average
    assert "| knn | d | top1 | 61.5 |" in average
    assert "41.5" not in average
    assert "60.5" not in average
    assert "1 transfer results of the run are of other weights" in average
    live = card(run, tmp_path / "live", ema=False)
    assert "| top1 | 41.5 |" in live
    assert "| knn | d | top1 | 60.51 |" in live
    early = card(run, tmp_path / "early", step=10, ema=False)
    assert "not validated during training" in early
    assert "No transfer results" in early


def test_a_card_of_somebody_else_stays(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first = card(run, tmp_path / "out")
    assert card(run, tmp_path / "out") == first
    (tmp_path / "out" / "README.md").write_text("mine")
    assert card(run, tmp_path / "out") == "mine"
    assert "README.md is another text than a card of this program's; it stays" in capsys.readouterr().err


def test_results_of_the_numbers_that_were_rounded_are_not_those_of_the_export(run: Path, tmp_path: Path) -> None:
    rounded = card(run, tmp_path / "out", dtype=torch.bfloat16)
    assert "2 transfer results of the run are of other weights, such as those that bfloat16 was rounded from" in rounded
    (tmp_path / "out" / "transfer" / "knn").mkdir(parents=True)
    model = MeasuredModel(spec="out", description="as it pleases", fingerprint=export_fingerprint(tmp_path / "out"))
    write_result(some_result(model=model, metrics={"top1": 59.0}), tmp_path / "out" / "transfer" / "knn")
    again = card(run, tmp_path / "out", dtype=torch.bfloat16)
    assert "| knn | d | top1 | 59 |" in again
    assert "2 transfer results" in again


@pytest.mark.long
@pytest.mark.parametrize("library", ["timm", "transformers"])
def test_the_code_of_a_card_loads_the_folder_in_a_fresh_process(library: str, tmp_path: Path) -> None:
    pytest.importorskip(library, reason="pip install 'sar_dist[transformers]' brings transformers")
    model = settings(image_size=(64, 32))
    trained = random_model(model)
    run = write_run(tmp_path / "runs", model, {1: trained.vit}, classes=("a", "b", "c", "d"))
    append_record(run / "metrics.jsonl", 1, "val", 0.0, {"top1": 1.0})
    config = json.loads((run / "config.json").read_text())
    config["data"] |= {"train": "t", "val": "v"}
    (run / "config.json").write_text(json.dumps(config))
    blocks = re.findall(r"```python\n(.*?)```", card(run, tmp_path / "out"), re.DOTALL)
    (code,) = (block for block in blocks if f"import {library}" in block or f"from {library}" in block)
    save_file({"images": torch.randn(2, 3, 64, 32)}, tmp_path / "images.safetensors")
    code = code.replace("FOLDER", str(tmp_path / "out")) + (
        "from safetensors.torch import load_file, save_file\n"
        f"output = model(load_file({str(tmp_path / 'images.safetensors')!r})['images'])\n"
        f"save_file({{'logits': getattr(output, 'logits', output)}}, {str(tmp_path / 'logits.safetensors')!r})\n"
    )
    done = tool("-c", code, HF_HUB_OFFLINE="1")
    assert done.status == 0, done.stderr
    logits = load_file(tmp_path / "logits.safetensors")["logits"]
    assert torch.equal(logits, trained(load_file(tmp_path / "images.safetensors")["images"])["logits"])


def test_the_recipe_can_be_repeated_and_says_nothing_of_this_machine(run: Path, tmp_path: Path) -> None:
    text = card(run, tmp_path / "out")
    assert text.startswith("---\nlibrary_name: timm\nlicense: apache-2.0\n")
    assert "| training data | imagenet/train |" in text
    assert "deepspeed --num_accelerators 4 tools/train.py --config training_config.json" in text
    assert "| commit | 0123abcd |" in text
    assert "It needs what these settings name too: model.init_from." in text
    training = tmp_path / "out" / "training_config.json"
    for secret in ("/secret", "secret-host", str(tmp_path)):
        assert secret not in text + training.read_text()
    repeated, original = load_config(training), load_config(run / "config.json")
    assert repeated.model_dump(exclude={"run": {"dir"}, "data": {"train", "val"}, "model": {"init_from"}}) == (
        original.model_dump(exclude={"run": {"dir"}, "data": {"train", "val"}, "model": {"init_from"}})
    )


def test_several_training_sets(run: Path, tmp_path: Path) -> None:
    config = json.loads((run / "config.json").read_text())
    places = ("/secret/in1k/train", "/secret/more")
    config["data"]["train"] = [
        {"shards": place, "weight": weight} for place, weight in zip(places, (3, 0.5), strict=True)
    ]
    (run / "config.json").write_text(json.dumps(config))
    text = card(run, tmp_path / "out")
    assert "| training data | in1k/train (weight 3), secret/more (weight 0.5) |" in text
    assert "'data.train=[{shards: FOLDER_1, weight: 3}, {shards: FOLDER_2, weight: 0.5}]' data.val=FOLDER" in text
    assert len(load_config(tmp_path / "out" / "training_config.json").data.training_sets) == 2


def test_a_damaged_record_is_one_line(run: Path, tmp_path: Path) -> None:
    (run / "environment.json").write_text("{")
    with pytest.raises(UserError, match=r"environment\.json cannot be read"):
        card(run, tmp_path / "out")


def test_what_a_run_did_not_record_is_unknown(run: Path, tmp_path: Path) -> None:
    config = json.loads((run / "config.json").read_text())
    del config["optim"], config["engine"], config["augment"]
    (run / "config.json").write_text(json.dumps(config))
    (run / "environment.json").write_text('[{"host": "x"}]')
    text = card(run, tmp_path / "out")
    assert "| packages | Python unknown, unknown |" in text
    assert "| commit | not recorded |" in text


def test_what_is_not_utf_8_is_shown_escaped(run: Path, tmp_path: Path) -> None:
    (run / "environment.json").write_text(json.dumps([{"host": "x", "device": "caf\udce9"}]))
    assert "caf\\udce9" in card(run, tmp_path / "out")
