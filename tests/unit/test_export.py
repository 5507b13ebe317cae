"""An export is a folder that timm loads strictly, and never half a folder or somebody else's."""

from __future__ import annotations

import io
import json
import re
import runpy
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from run_factory import random_model, settings, write_run
from safetensors.torch import load_file
from support import ROOT

from sar_dist.checkpoint import complete_checkpoints
from sar_dist.data.images import build_eval_transform
from sar_dist.errors import UserError
from sar_dist.models import TapBlock
from sar_dist.models.export import export_run
from sar_dist.models.model_spec import load_model
from sar_dist.models.weights import open_run, open_weights

IMAGES = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        output = model.eval()(IMAGES)
    return output["logits"] if isinstance(output, dict) else output


@pytest.fixture
def run(tmp_path: Path) -> Path:
    live = {step: random_model(settings(), step).vit for step in (10, 20)}
    return write_run(tmp_path / "runs", settings(), live, average=random_model(settings(), 3).vit)


def test_moving_average_is_the_default_and_live_weights_and_steps_can_be_chosen(run: Path, tmp_path: Path) -> None:
    for number, (arguments, seed) in enumerate([({}, 3), ({"ema": False}, 20), ({"ema": False, "step": 10}, 10)]):
        out = tmp_path / f"out{number}"
        export = export_run(run, out, **arguments)
        vit = timm.create_model(f"local-dir:{out}", pretrained=True)
        assert torch.equal(logits(vit), logits(random_model(settings(), seed)))
        assert export.config["sar_dist"]["ema"] is (seed == 3)
        assert export.config["sar_dist"]["step"] == (10 if seed == 10 else 20)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"no_skip_last_block": True},
        {"no_skip_last_block": True, "options": {"embed_dim": 32, "depth": 2, "num_heads": 2, "init_values": 0.1}},
        {"options": {"embed_dim": 32, "depth": 2, "num_heads": 2, "reg_tokens": 2, "attn_drop_rate": 0.1}},
        {"options": {"embed_dim": 32, "depth": 2, "num_heads": 2, "dynamic_img_size": True, "global_pool": "avg"}},
        {"name": "deit_tiny_distilled_patch16_224"},
        {"name": "vit_tiny_patch16_224.augreg_in21k_ft_in1k", "patch_size": None, "image_size": 32},
    ],
)
def test_every_model_loads_in_timm_by_folder_and_by_file(changes: dict[str, Any], tmp_path: Path) -> None:
    model = random_model(settings(**changes))
    run = write_run(tmp_path, settings(**changes), {1: model.vit})
    out = tmp_path / "out"
    config = export_run(run, out).config
    by_folder = timm.create_model(f"local-dir:{out}", pretrained=True)
    weights = out / "model.safetensors"
    by_file = timm.create_model(
        config["architecture"], checkpoint_path=weights, num_classes=config["num_classes"], **config["model_args"]
    )
    for loaded in (by_folder, by_file, load_model(str(out)).model):
        assert torch.equal(logits(loaded), logits(model))
    assert isinstance(by_folder.blocks[-1], TapBlock) is bool(changes.get("no_skip_last_block"))


def test_another_number_of_classes_and_image_size_adapts_as_in_timm(tmp_path: Path) -> None:
    model = settings(no_skip_last_block=True)
    vit = random_model(model).vit
    export_run(write_run(tmp_path, model, {1: vit}), tmp_path / "out")
    adapted = timm.create_model(f"local-dir:{tmp_path / 'out'}", pretrained=True, num_classes=7, img_size=64)
    assert adapted.head.out_features == 7
    assert adapted.pos_embed.shape == (1, 65, 32)
    assert torch.equal(adapted.blocks[-1].attn.qkv.weight, vit.blocks[-1].attn.qkv.weight)
    features = timm.create_model(f"local-dir:{tmp_path / 'out'}", pretrained=True, features_only=True, out_indices=1)
    assert [tuple(feature.shape) for feature in features(IMAGES)] == [(2, 32, 4, 4)]


def test_weights_without_skip_do_not_load_into_a_plain_model(tmp_path: Path) -> None:
    model = settings(no_skip_last_block=True)
    config = export_run(write_run(tmp_path, model, {1: random_model(model).vit}), tmp_path / "out").config
    arguments = {**config["model_args"], "num_classes": config["num_classes"]}
    del arguments["base"]
    with pytest.raises(RuntimeError, match=r"blocks\.1\.norm2\.weight"):
        timm.create_model(
            config["model_args"]["base"], checkpoint_path=tmp_path / "out" / "model.safetensors", **arguments
        )


def test_config_says_how_images_are_prepared(run: Path, tmp_path: Path) -> None:
    export_run(run, tmp_path / "out")
    vit = timm.create_model(f"local-dir:{tmp_path / 'out'}", pretrained=True)
    data = timm.data.resolve_model_data_config(vit)
    assert data["input_size"] == (3, 32, 32)
    assert (data["crop_pct"], data["interpolation"]) == (0.875, "bicubic")
    assert (*data["mean"], *data["std"]) == (0.485, 0.456, 0.406, 0.229, 0.224, 0.225)
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert (config["num_classes"], config["num_features"], config["global_pool"]) == (4, 32, "token")
    assert config["sar_dist"]["regularizer"]["weight"] == 0.01
    assert str(tmp_path) not in json.dumps(config)
    loaded = load_model(str(tmp_path / "out"))
    assert loaded.description.endswith(
        "out (vit_tiny_patch16_224), run small, moving average of the weights after step 20"
    )
    assert (loaded.image_size, loaded.augment.crop_fraction) == (32, 0.875)
    del config["sar_dist"]
    (tmp_path / "out" / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match=r"was not written by tools/export\.py"):
        load_model(str(tmp_path / "out"))


def test_class_names_are_exported_where_timm_looks_for_them(tmp_path: Path) -> None:
    model = settings()
    run = write_run(tmp_path, model, {1: random_model(model).vit}, classes=["cat", "dog", "eel"])
    assert load_model(str(run)).classes == ("cat", "dog", "eel")
    export_run(run, tmp_path / "out")
    names = ["cat", "dog", "eel", "class 3"]  # the model has a class more than the data name
    vit = timm.create_model(f"local-dir:{tmp_path / 'out'}", pretrained=True)
    assert vit.pretrained_cfg["label_names"] == names
    assert load_model(str(tmp_path / "out")).classes == tuple(names)


@pytest.mark.parametrize("mode", ["squash", "border"])
def test_crop_mode_is_exported_and_evaluated_as_timm_would(mode: str, tmp_path: Path) -> None:
    model = settings()
    run = write_run(tmp_path, model, {1: random_model(model).vit})
    config = json.loads((run / "config.json").read_text())
    config["augment"]["crop_mode"] = mode
    (run / "config.json").write_text(json.dumps(config))
    export_run(run, tmp_path / "out")
    vit = timm.create_model(f"local-dir:{tmp_path / 'out'}", pretrained=True)
    data = timm.data.resolve_model_data_config(vit)
    assert data["crop_mode"] == mode
    loaded = load_model(str(tmp_path / "out"))
    assert loaded.augment.crop_mode == mode
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 90, 3), np.uint8))
    file = io.BytesIO()
    picture.save(file, "PNG")
    ours = build_eval_transform(loaded.augment, loaded.image_size, 10**6)(file.getvalue())
    theirs = timm.data.create_transform(**data, normalize=False)(picture)
    assert (ours.int() - theirs.int()).abs().max() <= 1


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.bfloat16, 2**-8), (torch.float16, 2**-11)])
def test_reduced_precision_is_rounding(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype, tolerance: float
) -> None:
    monkeypatch.setattr("sar_dist.models.export._MAPPED_BYTES", 0)  # opens the checkpoint anew for every tensor
    export_run(run, tmp_path / "out", dtype=dtype)
    stored = load_file(tmp_path / "out" / "model.safetensors")
    for name, parameter in random_model(settings(), 3).vit.state_dict().items():
        assert stored[name].dtype == dtype
        torch.testing.assert_close(stored[name].float(), parameter, rtol=tolerance, atol=1e-7)


def test_same_export_again_is_left_alone_and_another_is_refused(run: Path, tmp_path: Path) -> None:
    out = tmp_path / "new" / "out"
    first = export_run(run, out)
    before = (out / "model.safetensors").stat().st_mtime_ns
    again = export_run(run, out)
    assert (first.written, again.written) == (True, False)
    assert first.config == again.config == json.loads((out / "config.json").read_text())
    assert (out / "model.safetensors").stat().st_mtime_ns == before
    for arguments in ({"ema": False}, {"step": 10}, {"dtype": torch.bfloat16}):
        with pytest.raises(UserError, match="holds another export"):
            export_run(run, out, **arguments)
    weights = out / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"x")
    for action in (lambda: export_run(run, out), lambda: load_model(str(out))):
        with pytest.raises(UserError, match="has changed since it was exported"):
            action()
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    for other in (run, tmp_path / "full", tmp_path / "full" / "file"):
        with pytest.raises(UserError, match=r"exists and is no export"):
            export_run(run, other)


def test_failure_leaves_nothing_behind(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parent = tmp_path / "exports"
    broken = random_model(settings(), 3)
    with torch.no_grad():
        broken.vit.head.bias[0] = 1e5
        broken.vit.norm.weight[0] = float("inf")
    run = write_run(tmp_path / "broken", settings(), {1: broken.vit})
    with pytest.raises(UserError, match=r"norm\.weight of .* not finite in torch\.float32"):
        export_run(run, parent / "out")
    with torch.no_grad():
        broken.vit.norm.weight[0] = 1
    run = write_run(tmp_path / "large", settings(), {1: broken.vit})
    with pytest.raises(UserError, match=r"head\.bias of .* not finite in torch\.float16"):
        export_run(run, parent / "out", dtype=torch.float16)
    monkeypatch.setattr("os.fsync", lambda descriptor: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(UserError, match=r"cannot export to .*: .*No space left on device"):
        export_run(run, parent / "out")
    monkeypatch.undo()
    assert list(parent.iterdir()) == []
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr("shutil.disk_usage", lambda path: usage._replace(free=1000))
    with pytest.raises(UserError, match=r"free; the export takes"):
        export_run(run, parent / "out")


def test_what_cannot_be_exported_is_said(run: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is no run directory"):
        export_run(tmp_path, tmp_path / "out")
    with pytest.raises(UserError, match="has no checkpoint of step 15; it has 10, 20"):
        export_run(run, tmp_path / "out", step=15)
    live_only = write_run(tmp_path / "live", settings(), {1: random_model(settings()).vit})
    assert export_run(live_only, tmp_path / "live" / "out").config["sar_dist"]["ema"] is False
    with pytest.raises(UserError, match=r"kept no moving average .*--live"):
        export_run(live_only, tmp_path / "out", ema=True)
    with pytest.raises(UserError, match="is no run directory"):
        export_run(tmp_path / "live" / "out", tmp_path / "out")


def test_damaged_checkpoint_gives_way_to_the_one_before_unless_it_was_asked_for(run: Path, tmp_path: Path) -> None:
    (complete_checkpoints(run / "checkpoints")[0] / "rank_00000.safetensors").write_bytes(b"damaged")
    assert export_run(run, tmp_path / "out").config["sar_dist"]["step"] == 10
    with pytest.raises(
        UserError, match=r"of step 20 of .*rank_00000\.safetensors has another size.*; give another step, or none"
    ):
        export_run(run, tmp_path / "other", step=20)


def test_command_line(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def export(*arguments: object) -> tuple[Any, str, str]:
        monkeypatch.setattr(sys, "argv", ["export.py", *map(str, arguments)])
        with pytest.raises(SystemExit) as caught:
            runpy.run_path(str(ROOT / "tools" / "export.py"), run_name="__main__")
        return caught.value.code, *capsys.readouterr()

    out = tmp_path / "out"
    status, printed, _ = export(run, out, "--dtype", "bfloat16")
    assert status == 0
    assert printed.splitlines()[0] == f"wrote {out}: moving average of the weights of small after step 20, bfloat16"
    assert re.search(r'^load with: timm\.create_model\("local-dir:.*", pretrained=True\)$', printed, re.MULTILINE)
    status, printed, _ = export(run, out, "--dtype", "bfloat16", "--ema")
    assert (status, printed.startswith("is there already")) == (0, True)
    status, _, errors = export(run, out, "--live")
    assert (status, errors.count("\n")) == (2, 1)
    assert "holds another export" in errors


def test_configuration_of_absurd_size_or_depth_is_refused(run: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    export_run(run, out)
    file = out / "config.json"
    config = json.loads(file.read_text())
    sizes = config["sar_dist"]["model"]["options"]
    for name, problem in (
        ("depth", r"config\.json says depth 100000, but \S+ has the weights of \d+ blocks"),
        ("embed_dim", r"does not fit its config\.json: cls_token is \[1, 1, \d+\], not \[1, 1, 100000\]"),
    ):
        config["sar_dist"]["model"]["options"] = {**sizes, name: 100_000}
        file.write_text(json.dumps(config))
        with pytest.raises(UserError, match=problem):
            load_model(str(out))
    file.write_text("[" * 100_000)
    with pytest.raises(UserError, match=r"config\.json is nested too deeply"):
        load_model(str(out))
    with file.open("r+b") as stream:
        stream.truncate(10**12)  # sparse: takes no space
    with pytest.raises(UserError, match=r"config\.json: 1000000000000 bytes are no configuration"):
        load_model(str(out))


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"pretrained_cfg": {"mean": [9, 9, 9]}}, r"mean = \[9, 9, 9\] .*pixels from 0 to 1"),
        ({"pretrained_cfg": {"std": [58, 57, 57]}}, r"std = \[58, 57, 57\] .*pixels from 0 to 1"),
        (
            {"pretrained_cfg": {"input_size": [3, 64, 64]}},
            r"input_size is \[3, 64, 64\] for timm, and \[3, 32, 32\] by",
        ),
        (
            {"sar_dist": {"model": {"options": {"num_heads": 4}}}},
            r"contradicts itself: model_args is .*'num_heads': 2.* 4",
        ),
        ({"num_classes": 9}, r"num_classes is 9 for timm, and 4 by sar_dist\.model"),
        ({"label_names": list("abcde")}, r"label_names names 5 classes, and the model tells 4 apart"),
        ({"label_names": {"0": "a"}}, r"label_names is no list of words"),
        ({"label_names": ["a", None, "c", "d"]}, r"label_names is no list of words"),
    ],
)
def test_a_configuration_that_was_edited_is_refused(run: Path, tmp_path: Path, change: Any, expected: str) -> None:
    """Each of these computed other logits than the run's, or named them wrong, without a word."""

    def merged(old: Any, new: Any) -> Any:
        both = isinstance(old, dict) and isinstance(new, dict)
        return old | {name: merged(old.get(name), value) for name, value in new.items()} if both else new

    file = tmp_path / "out" / "config.json"
    file.write_text(json.dumps(merged(export_run(run, file.parent).config, change)))
    with pytest.raises(UserError, match=expected):
        load_model(str(file.parent))


def test_a_configuration_that_an_editor_began_with_a_mark_is_read(run: Path, tmp_path: Path) -> None:
    file = tmp_path / "out" / "config.json"
    file.write_text("\ufeff" + json.dumps(export_run(run, file.parent).config), encoding="utf-8")
    assert load_model(str(file.parent)).image_size == 32


def test_another_runs_checkpoint_is_not_taken_for_this_runs(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = write_run(tmp_path / "other", settings(), {30: random_model(settings(), 30).vit})
    stray = run / "checkpoints" / "step_00000030"
    shutil.copytree(other / "checkpoints" / "step_00000030", stray)
    assert export_run(run, tmp_path / "out").config["sar_dist"]["step"] == 20
    assert f"{stray} was written by another run" in capsys.readouterr().err
    with pytest.raises(UserError, match=r"no checkpoint of .*step_00000030 is intact: .* was written by another run"):
        export_run(stray, tmp_path / "stray")
    (run / "checkpoints" / "run_id").unlink()
    (run / "checkpoints" / "run_id").mkdir()
    with pytest.raises(UserError, match=r"run_id: run_id is not a regular file; repair it"):
        export_run(run, tmp_path / "out2")


def test_a_checkpoint_directly_below_the_root_is_no_run(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = run / "checkpoints" / "step_00000020"
    monkeypatch.setattr(Path, "resolve", lambda path: Path("/ckpt") if path == folder else path)
    with pytest.raises(UserError, match="is no run directory"):
        open_run(folder)


def test_a_part_is_chosen_of_weight_files_only(run: Path, tmp_path: Path) -> None:
    export_run(run, tmp_path / "out")
    for folder in (run, tmp_path / "out"):
        with pytest.raises(UserError, match=r"#ema chooses a part of a weight file, and \S+ is a folder; give "):
            open_weights(f"{folder}#ema")
