import zipfile
from types import SimpleNamespace

import pytest
import timm
import torch
from huggingface_hub import constants
from run_factory import index_of_one_shard, weights_alone

from sar_dist.checkpoint import CheckpointStore
from sar_dist.config import ModelSettings, RunConfig, RunSettings
from sar_dist.errors import UserError
from sar_dist.models import build_model
from sar_dist.models.model_spec import _augment_of, load_model

MODEL = ModelSettings(
    name="vit_tiny_patch16_224",
    image_size=32,
    num_classes=5,
    no_skip_last_block=True,
    options={"embed_dim": 24, "depth": 2, "num_heads": 2},
)


def save(run, step, vit, average=None):
    """Write a checkpoint of one process as training does: all parameters one after the other in one flat shard."""
    parameters = dict(vit.named_parameters())
    tensors = {"0/master": torch.cat([parameter.detach().flatten() for parameter in parameters.values()])}
    if average is not None:
        tensors["0/ema"] = torch.cat([parameter.detach().flatten() for parameter in average.parameters()])
    shapes = {name: tuple(parameter.shape) for name, parameter in parameters.items()}
    store = CheckpointStore(run / "checkpoints", keep_last=5, keep_every=None)
    store.prepare()
    store.save(
        step, tensors, index_of_one_shard(shapes, step), weights_alone(shapes, None if average is None else step)
    )
    store.wait()
    assert store.take_problem() is None


@pytest.fixture
def run(tmp_path):
    config = RunConfig(run=RunSettings(name="small", dir=str(tmp_path)), model=MODEL)
    directory = tmp_path / "small"
    directory.mkdir()
    (directory / "config.json").write_text(config.model_dump_json())
    return directory


def make(seed):
    torch.manual_seed(seed)
    return build_model(MODEL, RunConfig(run=RunSettings(name="x")).regularizer).eval()


def logits(model):
    with torch.no_grad():
        return model(torch.ones(1, 3, 32, 32))["logits"]


def test_a_run_directory_is_its_newest_checkpoint(run):
    save(run, 10, make(1).vit)
    save(run, 20, make(2).vit)
    loaded = load_model(str(run))
    torch.testing.assert_close(logits(loaded.model), logits(make(2)), rtol=0, atol=0)
    assert loaded.image_size == 32
    assert loaded.description == "small (vit_tiny_patch16_224), weights after step 20"
    assert not loaded.model.training


def test_a_checkpoint_folder_is_itself(run):
    save(run, 10, make(1).vit)
    save(run, 20, make(2).vit)
    loaded = load_model(str(run / "checkpoints" / "step_00000010"))
    torch.testing.assert_close(logits(loaded.model), logits(make(1)), rtol=0, atol=0)


def test_the_moving_average_counts_where_there_is_one(run):
    save(run, 10, make(1).vit, average=make(3).vit)
    loaded = load_model(str(run))
    torch.testing.assert_close(logits(loaded.model), logits(make(3)), rtol=0, atol=0)
    assert "moving average of the weights after step 10" in loaded.description


def test_a_damaged_checkpoint_gives_way_to_the_one_before(run):
    save(run, 10, make(1).vit)
    save(run, 20, make(2).vit)
    (run / "checkpoints" / "step_00000020" / "rank_00000.safetensors").write_bytes(b"damaged")
    loaded = load_model(str(run))
    torch.testing.assert_close(logits(loaded.model), logits(make(1)), rtol=0, atol=0)


def test_what_cannot_be_loaded_is_said(run, tmp_path):
    with pytest.raises(UserError, match="no finished checkpoint"):
        load_model(str(run))
    with pytest.raises(UserError, match="no run directory"):
        load_model(str(tmp_path))
    with pytest.raises(UserError, match="did you mean"):
        load_model("random:vit_tiny_patch16_22")
    save(run, 10, make(1).vit)
    config = RunConfig(run=RunSettings(name="small"), model=ModelSettings(name="vit_tiny_patch16_224"))
    (run / "config.json").write_text(config.model_dump_json())
    with pytest.raises(UserError, match="does not fit"):
        load_model(str(run))


def test_random_weights_are_the_same_at_every_call():
    first, second = load_model("random:vit_tiny_patch16_224"), load_model("random:vit_tiny_patch16_224")
    assert first.image_size == 224
    assert first.augment.mean == (0.5, 0.5, 0.5)
    assert first.augment.crop_fraction == 0.9
    states = first.model.state_dict(), second.model.state_dict()
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


def test_a_timm_model_is_fed_as_its_configuration_says():
    assert load_model("random:vit_medium_patch16_gap_384.sw_in12k_ft_in1k").augment.crop_mode == "squash"
    with pytest.raises(UserError, match=r"interpolation = 'lanczos'"):
        _augment_of({"mean": (0, 0, 0), "std": (1, 1, 1), "crop_pct": 1, "interpolation": "lanczos"})
    with pytest.raises(UserError, match=r"crop_mode = 'corner'"):
        _augment_of(
            {"mean": (0, 0, 0), "std": (1, 1, 1), "crop_pct": 1, "interpolation": "bicubic", "crop_mode": "corner"}
        )


@pytest.mark.parametrize("dtype", [torch.int8, torch.bool, torch.complex64])
def test_integers_are_no_weights(tmp_path, dtype):
    """load_state_dict casts them: a quantised file without its scales gave an accuracy that looked like a measurement."""
    state = timm.create_model("test_vit").state_dict()
    torch.save(state | {"head.bias": state["head.bias"].to(dtype)}, tmp_path / "weights.pth")
    with pytest.raises(UserError, match=r"head\.bias of .* does not hold floating-point numbers but .*quantised"):
        load_model(f"timm:test_vit:{tmp_path / 'weights.pth'}")


def test_weights_that_cannot_be_downloaded_are_a_user_error(monkeypatch):
    def refuse(name, pretrained):
        raise OSError("cannot connect\nmore")

    monkeypatch.setattr("sar_dist.models.hub_access._unreachable", lambda: None)
    monkeypatch.setattr(timm, "create_model", refuse)
    monkeypatch.setattr("sar_dist.models.model_spec.model_on_meta", lambda *settings: None)
    with pytest.raises(UserError, match=r"weights of vit_tiny_patch16_224: cannot connect$"):
        load_model("timm:vit_tiny_patch16_224")


def save_whole_model(path):
    torch.save(torch.nn.Sequential(torch.nn.Linear(2, 2)), path)


def save_torchscript(path):
    with zipfile.ZipFile(path, "w") as archive:
        for name in ("data.pkl", "constants.pkl", "code/__torch__.py"):
            archive.writestr(f"file/{name}", "")


def save_archive(path):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("readme.txt", "nothing")


@pytest.mark.parametrize(
    ("save_file", "message"),
    [
        (save_whole_model, r"it holds a torch\.nn\.modules\.container\.Sequential, and not tensors alone"),
        (save_torchscript, "is a program of TorchScript, not weights"),
        (save_archive, "is an archive without weights of PyTorch"),
    ],
)
def test_files_that_hold_no_plain_weights_are_called_what_they_are(tmp_path, save_file, message):
    save_file(str(tmp_path / "file.pth"))
    with pytest.raises(UserError, match=message):
        load_model(f"timm:test_vit:{tmp_path / 'file.pth'}")


def test_a_weight_file_alone_is_told_how_it_is_given(tmp_path):
    (tmp_path / "file.pth").touch()
    with pytest.raises(UserError, match=r"is a file of weights, .* give timm:NAME:\S+file\.pth, with the name"):
        load_model(str(tmp_path / "file.pth"))
    (tmp_path / "model.safetensors").touch()
    (tmp_path / "config.json").touch()
    with pytest.raises(UserError, match=rf"is a file of weights, .* give its folder, {tmp_path}$"):
        load_model(str(tmp_path / "model.safetensors"))


def test_a_hub_that_cannot_be_reached_is_asked_once(monkeypatch):
    """Its client tries for 40 s otherwise; what is in its cache is still had."""
    asked = []

    def download(name, pretrained):
        asked.append(constants.is_offline_mode())
        raise ValueError("no such file in the cache")

    def fail(*_args, **_options):
        raise OSError("no route to host")

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr("sar_dist.models.hub_access.get_session", lambda: SimpleNamespace(head=fail))
    monkeypatch.setattr(timm, "create_model", download)
    monkeypatch.setattr("sar_dist.models.model_spec.model_on_meta", lambda *settings: None)
    with pytest.raises(
        UserError, match=r"weights of vit_tiny.*cannot be reached \(no route to host\).* timm:NAME:FILE$"
    ):
        load_model("timm:vit_tiny_patch16_224")
    assert asked == [True]
    assert not constants.is_offline_mode()
