"""init_from: every key is accounted for, nothing is loaded by half, and no file can run code."""

from __future__ import annotations

import argparse
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from run_factory import random_model, settings, write_run
from safetensors.torch import save_file
from torch import Tensor

from sar_dist.checkpoint import complete_checkpoints
from sar_dist.config import ModelSettings, RegularizerSettings
from sar_dist.errors import UserError
from sar_dist.models import TappedVisionTransformer, model_on_meta
from sar_dist.models.export import export_run
from sar_dist.models.initialize import InitialWeightsReport, check_initial_weights, load_initial_weights


def load(source: object, **changes: Any) -> tuple[TappedVisionTransformer, InitialWeightsReport]:
    model = settings(init_from=str(source), **changes)
    built = random_model(model, seed=99)
    report = load_initial_weights(built.vit, model)
    assert report is not None
    return built, report


def check(source: object, **changes: Any) -> None:
    """The check of a start-up, on a model without memory."""
    model: ModelSettings = settings(init_from=str(source), **changes)
    check_initial_weights(model_on_meta(model, RegularizerSettings()).vit, model)


def same(state: dict[str, Tensor], other: dict[str, Tensor], but: tuple[str, ...] = ()) -> bool:
    return all(torch.equal(state[name], other[name]) for name in state if name not in but)


@pytest.fixture
def state(tmp_path: Path) -> dict[str, Tensor]:
    """The weights of a plain model, also saved as ``weights.safetensors``."""
    weights = random_model(settings()).vit.state_dict()
    save_file(weights, tmp_path / "weights.safetensors")
    return weights


def test_nothing_happens_unless_it_is_set() -> None:
    assert load_initial_weights(random_model(settings()).vit, settings()) is None


def test_runs_checkpoints_exports_and_files_give_the_same_weights(tmp_path: Path) -> None:
    model, average = random_model(settings(), 1), random_model(settings(), 2)
    run = write_run(tmp_path, settings(), {5: model.vit}, average=average.vit)
    export_run(run, tmp_path / "export")
    state = average.vit.state_dict()
    torch.save({"model": {f"module.{name}": value for name, value in state.items()}}, tmp_path / "weights.pth")
    torch.save(state, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    training = {
        "state_dict": model.vit.state_dict(),
        "state_dict_ema": state,
        "args": argparse.Namespace(lr=1),
        "best": np.float64(7),
        "n": np.int64(3),
    }
    torch.save(training, tmp_path / "training.pth.tar")
    sources = [run, *complete_checkpoints(run / "checkpoints"), tmp_path / "export"]
    sources += [tmp_path / "export" / "model.safetensors", tmp_path / "weights.pth", tmp_path / "old.pt"]
    for source in [*sources, tmp_path / "training.pth.tar"]:
        built, report = load(source)
        assert same(built.vit.state_dict(), state), source
        assert report.loaded == tuple(state), source
        assert (*report.resampled, *report.reinitialised, *report.missing, *report.unexpected) == ()


def test_another_number_of_classes_initialises_the_head_anew(tmp_path: Path, state: dict[str, Tensor]) -> None:
    built, report = load(tmp_path / "weights.safetensors", num_classes=7)
    fresh = random_model(settings(num_classes=7), 99).vit.state_dict()
    assert report.reinitialised == ("head.weight", "head.bias")
    assert same({name: state[name] for name in report.loaded}, built.vit.state_dict())
    assert torch.equal(built.vit.head.weight, fresh["head.weight"])
    assert len(report.loaded) == len(state) - 2
    assert str(report).endswith("newly initialised head.weight, head.bias")


def test_backbone_without_head_fits(tmp_path: Path, state: dict[str, Tensor]) -> None:
    save_file({name: value for name, value in state.items() if "head" not in name}, tmp_path / "backbone.safetensors")
    _, report = load(tmp_path / "backbone.safetensors")
    assert report.missing == report.reinitialised == ("head.weight", "head.bias")


def test_position_embedding_is_resampled_to_another_image_size(tmp_path: Path, state: dict[str, Tensor]) -> None:
    built, report = load(tmp_path / "weights.safetensors", image_size=64)
    assert report.resampled == ("pos_embed",)
    reference = timm.create_model(
        "vit_tiny_patch16_224", img_size=64, patch_size=8, num_classes=4, embed_dim=32, depth=2, num_heads=2
    )
    filtered = timm.models.vision_transformer.checkpoint_filter_fn(dict(state), reference)
    assert torch.equal(built.vit.pos_embed, filtered["pos_embed"])
    assert torch.equal(built.vit.pos_embed[:, 0], state["pos_embed"][:, 0])


def test_reduced_precision_is_converted(tmp_path: Path, state: dict[str, Tensor]) -> None:
    save_file({name: value.bfloat16() for name, value in state.items()}, tmp_path / "bf16.safetensors")
    built, _ = load(tmp_path / "bf16.safetensors")
    assert built.vit.norm.weight.dtype == torch.float32
    assert torch.equal(built.vit.norm.weight, state["norm.weight"].bfloat16().float())


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (lambda state: {name: value.double() * 0 + 1e300 for name, value in state.items()}, "does not hold finite"),
        (lambda state: {name: value.to("meta") for name, value in state.items()}, "no plain tensor .*on meta"),
        (lambda state: dict(enumerate(state.values())), "holds no state dict"),
        (b"<!DOCTYPE html><html>", "is a web page, not weights"),
        (b"version https://git-lfs.github.com/spec/v1\n", "is a pointer of Git LFS"),
        (b"", "is empty; download it again"),
    ],
)
def test_what_no_model_can_take_is_one_line(
    tmp_path: Path, state: dict[str, Tensor], content: Any, expected: str
) -> None:
    file = tmp_path / "weights.pth"
    file.write_bytes(content) if isinstance(content, bytes) else torch.save(content(state), file)
    with pytest.raises(UserError, match=expected):
        load(file)


def test_eight_bit_floats_and_a_capital_suffix_are_taken(tmp_path: Path, state: dict[str, Tensor]) -> None:
    torch.save({name: value.to(torch.float8_e4m3fn) for name, value in state.items()}, tmp_path / "weights.PTH")
    built, _ = load(tmp_path / "weights.PTH")
    assert torch.equal(built.vit.norm.weight, state["norm.weight"].to(torch.float8_e4m3fn).float())


def test_pretrained_weights_of_timm(monkeypatch: pytest.MonkeyPatch) -> None:
    create, created = timm.create_model, []

    def pretend(name: str, pretrained: bool = False, **arguments: Any) -> Any:
        created.append(pretrained)
        return create(name, **arguments)

    monkeypatch.setattr("sar_dist.models.hub_access._unreachable", lambda: None)
    monkeypatch.setattr("timm.create_model", pretend)
    same_size = {"options": {}, "patch_size": None, "image_size": 64}
    check("timm:vit_tiny_patch16_224", **same_size)
    assert created == [False, False]  # the model and the shapes to compare it with: no download yet
    random_state = torch.get_rng_state()
    _, report = load("timm:vit_tiny_patch16_224.augreg_in21k", **same_size)
    assert created.count(True) == 1
    assert report.resampled == ("pos_embed",)
    assert report.reinitialised == ("head.weight", "head.bias")
    torch.set_rng_state(random_state)

    def refuse(name: str, pretrained: bool = False, **arguments: Any) -> Any:
        if pretrained:
            raise OSError("no network\nmore")
        return create(name, **arguments)

    monkeypatch.setattr("timm.create_model", refuse)
    with pytest.raises(UserError, match=r"cannot provide the weights of vit_tiny_patch16_224: no network$"):
        load("timm:vit_tiny_patch16_224", **same_size)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda state: state.pop("norm.weight"), "norm.weight missing"),
        (lambda state: state.update(extra=torch.ones(1)), "extra unexpected"),
        (lambda state: state.update({"cls_token": torch.ones(1, 1, 3)}), "cls_token (1, 1, 3) (model: (1, 1, 32)) of"),
        (lambda state: state.update(pos_embed=torch.ones(1, 12, 32)), "pos_embed (1, 12, 32) (model: (1, 17, 32)) of"),
        (lambda state: state.update({"head.extra": torch.ones(4)}), "head.extra unexpected"),
        (lambda state: [state.pop(f"blocks.{i}.norm2.weight") for i in (0, 1)], "blocks.1.norm2.weight missing"),
    ],
)
def test_keys_that_do_not_fit_are_named(tmp_path: Path, state: dict[str, Tensor], change: Any, expected: str) -> None:
    change(state)
    save_file(state, tmp_path / "other.safetensors")
    with pytest.raises(UserError) as caught:
        check(tmp_path / "other.safetensors")
    assert "does not fit vit_tiny_patch16_224" in str(caught.value)
    assert expected in str(caught.value)


def test_blocks_with_and_without_skip_are_not_mixed_up(tmp_path: Path, state: dict[str, Tensor]) -> None:
    with pytest.raises(UserError, match=r"no_skip_last_block=true: blocks\.1\.norm2\..* unexpected"):
        check(tmp_path / "weights.safetensors", no_skip_last_block=True)
    save_file(random_model(settings(no_skip_last_block=True)).vit.state_dict(), tmp_path / "noskip.safetensors")
    check(tmp_path / "noskip.safetensors", no_skip_last_block=True)
    with pytest.raises(UserError, match=r"no_skip_last_block=false: blocks\.1\.norm2\..* missing"):
        check(tmp_path / "noskip.safetensors")


@pytest.mark.parametrize("value", [torch.full((32,), float("nan")), torch.ones(32, dtype=torch.int64)])
def test_only_finite_real_numbers_are_loaded(tmp_path: Path, state: dict[str, Tensor], value: Tensor) -> None:
    save_file(state | {"norm.weight": value}, tmp_path / "bad.safetensors")
    with pytest.raises(UserError, match=r"norm\.weight of .* does not hold (finite )?floating-point numbers"):
        load(tmp_path / "bad.safetensors")


class Hostile:
    """Unpickled without restriction, it creates a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.path,))


@pytest.mark.parametrize("name", ["a.pth", "a.pt", "a.bin", "a.ckpt", "a.safetensors"])
def test_a_pickle_never_runs_code(tmp_path: Path, state: dict[str, Tensor], name: str) -> None:
    trap, path = tmp_path / "executed", tmp_path / name
    content = {"model": state, "extra": Hostile(trap)}
    for write in (
        lambda: torch.save(content, path),
        lambda: torch.save(content, path, _use_new_zipfile_serialization=False),
        lambda: path.write_bytes(pickle.dumps(content, protocol=2)),
    ):
        write()
        with pytest.raises(UserError, match=r"model\.init_from: .*(pickle that could run code|not an intact)"):
            check(path)
        assert not trap.exists()
    pickle.loads(path.read_bytes())
    assert trap.exists()  # the trap itself works


def test_damaged_and_absent_sources_are_one_line(tmp_path: Path, state: dict[str, Tensor]) -> None:
    (tmp_path / "cut.safetensors").write_bytes((tmp_path / "weights.safetensors").read_bytes()[:-10])
    torch.save(state, tmp_path / "whole.pth")
    (tmp_path / "cut.pth").write_bytes((tmp_path / "whole.pth").read_bytes()[:-500])
    torch.save([1, 2], tmp_path / "list.pth")
    (tmp_path / "weights.npz").touch()
    run = write_run(tmp_path / "runs", settings(), {1: random_model(settings()).vit})
    (complete_checkpoints(run / "checkpoints")[0] / "rank_00000.safetensors").write_bytes(b"x")
    for source, message in {
        "nowhere": "there is no .*nowhere; give a run or export directory",
        "cut.safetensors": "not an intact .safetensors file",
        "cut.pth": "cut.pth is damaged",
        "list.pth": "holds no state dict",
        "weights.npz": "no known kind of weights",
        "": "is no run directory",
        "runs/small": r"no checkpoint of .* is intact: .*rank_00000\.safetensors",
    }.items():
        with pytest.raises(UserError, match=rf"^model\.init_from: .*{message}"):
            check(tmp_path / source)
    for name in ("nonsense", "vit_tiny_patch16_224.nonsense", "test_vit4"):
        with pytest.raises(UserError, match="timm has no pretrained weights"):
            check(f"timm:{name}")
