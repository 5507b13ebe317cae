"""Configuration files, overrides, durations, and the one line that each mistake gives."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support import ROOT

from sar_dist.config import RunConfig, RunSettings, config_keys, duration_in_steps, help_text, load_config
from sar_dist.config.command_line import parse_run_arguments
from sar_dist.config.values import read_value
from sar_dist.errors import UserError
from sar_dist.validation import field_types

DEMO = ROOT / "configs" / "demo.py"

# Users and scripts rely on these names (design, section 3).
PINNED_KEYS = {
    *(f"run.{name}" for name in ("name", "dir", "seed", "max_steps", "max_hours", "resume")),
    *(
        f"model.{name}"
        for name in ("name", "image_size", "patch_size", "num_classes", "drop_path", "no_skip_last_block")
    ),
    *(f"regularizer.{name}" for name in ("weight", "ramp_epochs", "backend", "blocks", "query")),
    *(f"data.{name}" for name in ("train", "val", "workers")),
    *(
        f"optim.{name}"
        for name in ("global_batch", "lr", "weight_decay", "epochs", "warmup_epochs", "layer_decay", "clip", "ema")
    ),
    *(
        f"engine.{name}"
        for name in (
            "zero_stage",
            "precision",
            "micro_batch",
            "activation_checkpointing",
            "compile",
            "offload",
            "deepspeed",
        )
    ),
    *(f"checkpoint.{name}" for name in ("every", "keep_last", "keep_every")),
    *(f"log.{name}" for name in ("every", "figures_every")),
}


@pytest.mark.parametrize("number", ["1e-400", "-1e400"])
def test_number_of_a_json_file_that_no_number_can_be_is_refused(number: str, tmp_path: Path) -> None:
    """Python reads the one as 0, the other as infinity."""
    file = tmp_path / "config.json"
    settings = load_config(DEMO, ["optim.weight_decay=0.125"]).model_dump_json()
    file.write_text(settings.replace("0.125", number))
    with pytest.raises(UserError, match=rf"config.json holds a number that cannot be read: {number} is too "):
        load_config(file)


@pytest.mark.parametrize(
    ("text", "value"), [("0e-400", 0.0), ("0.0e999", 0.0), ("1e-323", 1e-323), ("-1.7e308", -1.7e308)]
)
def test_numbers_at_the_ends_of_their_range_are_read(text: str, value: float) -> None:
    assert read_value(text, float) == value


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-32"])
def test_a_config_json_that_another_editor_saved(tmp_path: Path, encoding: str) -> None:
    file = tmp_path / "config.json"
    file.write_text(load_config(DEMO).model_dump_json(), encoding=encoding)
    assert load_config(file) == load_config(DEMO)


@pytest.mark.parametrize("path", sorted((ROOT / "configs").glob("[!_]*.py")), ids=lambda path: path.stem)
def test_every_config_loads_and_says_its_command(path: Path) -> None:
    config = load_config(path)
    assert config.run.name == path.stem
    assert "Command:" in path.read_text()
    assert path.stem.endswith("_baseline") == (config.regularizer.weight == 0)


@pytest.mark.parametrize("name", ["vit_s_in100", "vit_b_in1k", "vit_l_in1k"])
def test_baseline_differs_in_nothing_but_the_method(name: str) -> None:
    method, baseline = (load_config(ROOT / "configs" / f"{stem}.py") for stem in (name, f"{name}_baseline"))
    changes = {"run.name": name, "model.no_skip_last_block": True, "regularizer.weight": 0.01}
    assert baseline.vary(changes) == method


def test_pinned_keys_exist_and_help_lists_every_key() -> None:
    keys = {key for key, *_ in config_keys()}
    assert keys >= PINNED_KEYS
    assert all(f"  {key} (" in help_text() for key in keys)
    assert all(description for *_, description in config_keys())
    types = {key: kind for key, kind, *_ in config_keys()}
    assert types["run.branch_from"] == "str | none"  # a path; Annotated as durations are
    assert (types["checkpoint.every"], types["checkpoint.keep_every"]) == ("duration", "duration | none")


def test_overrides_are_typed() -> None:
    config = load_config(
        DEMO,
        [
            "optim.lr=1e-4",
            "model.image_size=128",
            "augment.scale=[0.2,1]",
            "regularizer.blocks=[0,-1]",
            "optim.clip=null",
            "model.options.depth=3",
            "engine.deepspeed.zero_optimization.overlap_comm=true",
            "checkpoint.every=7",
        ],
    )
    assert config.optim.lr == 1e-4
    assert config.model.image_size == 128
    assert config.augment.scale == (0.2, 1.0)
    assert config.regularizer.blocks == (0, -1)
    assert config.optim.clip is None
    assert config.model.options["depth"] == 3
    assert config.engine.deepspeed == {"zero_optimization": {"overlap_comm": True}}
    assert config.checkpoint.every == "7st"


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("optim.global_batch=01024", 1024),
        ("run.seed=010", 10),
        ("run.dir=D/runs #1", "D/runs #1"),
        ("run.dir=~/runs", f"{Path.home()}/runs"),
        ("data.train=s3://bucket//a: b", "s3://bucket//a: b"),
        ("run.name=20261125", "20261125"),
        ("run.name='none'", "none"),
        ("data.stage=none", None),
        ("data.stage='none'", "none"),
        ("optim.clip=none", None),
        ("checkpoint.keep_every=none", None),
        ("engine.offload=none", "none"),
        ("optim.lr=1E-3", 1e-3),
        ("augment.three_augment=no", False),
    ],
)
def test_values_mean_what_is_typed(override: str, expected: object) -> None:
    config = load_config(DEMO, [override])
    group, name = override.partition("=")[0].split(".")
    value = getattr(getattr(config, group), name)
    assert (type(value), value) == (type(expected), expected)


def test_nothing_can_be_set_below_a_value() -> None:
    with pytest.raises(UserError, match=r"model\.options\.depth is 4 and not a mapping"):
        load_config(DEMO, ["model.options.depth=4", "model.options.depth.x=1"])


PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3) | st.tuples(inner)
    ),
    max_leaves=6,
)
SETS = st.lists(
    st.fixed_dictionaries(
        {"shards": st.text(max_size=5), "weight": st.floats() | st.integers()},
        optional={"label": PLAIN, "classes": st.dictionaries(st.text(max_size=4), st.text(max_size=4), max_size=2)},
    ),
    max_size=3,
)
ANYTHING = st.fixed_dictionaries(
    {},
    optional={
        key: SETS | PLAIN
        if key == "data.train"
        else PLAIN
        if key == "terms" or key.endswith((".options", ".deepspeed"))
        else st.from_type(type_of) | PLAIN
        for key, type_of in field_types(RunConfig)
        if key != "run.name"
    },
)


@given(changes=ANYTHING)
@settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))
def test_whatever_is_written_reads_back_equal(
    changes: dict[str, Any], tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Each change that a configuration accepts survives ``config.json``; a refused one is a ValueError."""
    config = RunConfig(run=RunSettings(name="a"))
    for key, value in changes.items():
        try:
            config = config.vary({key: value})
        except ValueError:
            continue
    path = tmp_path_factory.mktemp("run") / "config.json"
    path.write_text(config.model_dump_json(indent=2))
    assert load_config(path) == config


def test_dumped_config_loads_again(tmp_path: Path) -> None:
    config = load_config(DEMO, ["optim.ema=0.5", "augment.scale=[0.3,0.9]"])
    path = tmp_path / "config.json"
    path.write_text(config.model_dump_json(indent=2))
    assert load_config(path) == config


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("optim.lrr=1", "unknown key 'optim.lrr'; did you mean 'optim.lr'?"),
        ("optim=1", "unknown key 'optim'"),
        ("optim.lr=fast", "optim.lr='fast'"),
        ("optim.lr=-1", "optim.lr=-1"),
        ("optim.lr", "is not an override; write key=value"),
        ("model.image_size=64.5", "model.image_size=64.5"),
        ("engine.zero_stage=4", "engine.zero_stage=4"),
        ("engine.zero_stage=0", "stage 0 always ran as stage 1; set it to 1"),
        ("engine.precision=int8", "engine.precision='int8'"),
        ("checkpoint.every=2weeks", "checkpoint.every='2weeks': not a duration"),
        ("optim.warmup_epochs=500", "optim.warmup_epochs=500 is not less than optim.epochs"),
        ("engine.offload=all", "needs engine.zero_stage=3"),
        ("augment.scale=[1,0.5]", "is not a range"),
        ("augment.scale=[0.5,1.5]", "reaches beyond the whole image"),
        ("run.dir=", "run.dir='': is empty, as of a variable that is not set"),
        ("run.dir=a\nb", r"run.dir='a\nb': holds a line break or another control character"),
        ("model.init_from=a\0b", r"model.init_from='a\x00b': holds a line break"),
        ("run.dir= ", "is empty"),
        ("data.train=[{shards: '', weight: 1}]", "data.train.0.shards='': is empty"),
        ("engine.zero_stage=true", "engine.zero_stage=True: should be a number"),
        ("model.image_size=0", "model.image_size=0: Input should be greater"),
        ("run.name=../x", "run.name='../x'"),
        ("optim.betas=[0.9", "cannot be read"),
        ("optim.betas=[1.5,0.9]", "are no decays"),
        ("optim.global_batch=99999999999999999999", "less than or equal to 16777216"),
        ("optim.global_batch=" + 5000 * "9", "a number of 5000 digits is too large"),
        ("run.seed=99999999999999999999", "too large for a 64-bit integer"),
        ("optim.epochs=1e308", "optim.epochs=1e+308"),
        ("optim.lr=inf", "finite number"),
        ("optim.lr=.inf", "valid number"),
        (
            "optim.weight_decay=1e999",
            "cannot be read: 1e999 is too large for a number, of which the largest is 1.8e308",
        ),
        (
            "optim.weight_decay=1e-400",
            "cannot be read: 1e-400 is too near to zero for a number; write 0 if that is meant",
        ),
        ("optim.betas=[0.9, -.1e-999]", "cannot be read: -.1e-999 is too near to zero"),
        ("data.stall_seconds=nan", "finite number"),
        ("engine.deepspeed.gradient_clipping=1e999", "1e999 is too large for a number"),
        (
            "run.dir=a\udcff",
            r"run.dir='a\udcff': holds bytes that are not UTF-8; rename what it names, or give a link to it",
        ),
        ("data.train=a\udcff", r"data.train='a\udcff': holds bytes that are not UTF-8; rename"),
        ('data.train=[{shards: "a\udcff", weight: 1}]', "cannot be read"),
        ("data.stage=a\udcff", r"data.stage='a\udcff': holds bytes that are not UTF-8; rename"),
        ("model.name=a\udcff", r"model.name='a\udcff': holds bytes that are not UTF-8"),
        ("log.project=a\udcff", r"log.project='a\udcff': holds bytes that are not UTF-8"),
        ("model.options.x=&a [*a]", "nested too deeply"),
        ("optim.lr=true", "should be a number"),
        ("run.max_hours=1:30", "run.max_hours='1:30'"),
        ("run.seed=0x10", "run.seed='0x10'"),
        ("checkpoint.every=1:30", "not a duration"),
        ("checkpoint.every=" + 5000 * "9", "not a duration"),
        ("optim.lr=1e-6", "optim.min_lr=1e-05 is above the peak learning rate"),
        ("optim.warmup_lr=1", "optim.warmup_lr=1 is above the peak learning rate"),
        ("augment.std=[0,1,1]", "not above 0"),
        ("optim.lr.x=1", "unknown key 'optim.lr.x'"),
        ("model.options=3", "model.options=3"),
        ("model..name=a", "is not an override"),
    ],
)
def test_mistakes_give_one_line(override: str, expected: str) -> None:
    with pytest.raises(UserError) as caught:
        load_config(DEMO, [override])
    assert expected in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_locale_without_the_characters_of_a_path_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    """The bytes are right and the shell's locale is not, so nothing is to be renamed."""
    monkeypatch.setattr("sys.getfilesystemencoding", lambda: "iso8859-1")
    assert load_config(DEMO, ["run.dir=runs"]).run.dir == "runs"
    with pytest.raises(UserError, match=r"locale is for iso8859-1; export LC_ALL=C\.UTF-8"):
        load_config(DEMO, ["run.dir=räuns"])


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("def config(:", "broken.py:1 cannot be loaded: SyntaxError"),
        ("\ndef config(): return 1 / 0", "broken.py:2 cannot be loaded: ZeroDivisionError"),
        ("raise SystemExit", "broken.py:1 cannot be loaded: SystemExit"),
        ("raise GeneratorExit('x')", "broken.py:1 cannot be loaded: GeneratorExit: x"),
        ("raise BaseExceptionGroup('x', [KeyboardInterrupt()])", "cannot be loaded: BaseExceptionGroup: x"),
        ("def config(): return config()", "broken.py:1 cannot be loaded: RecursionError"),
        ("class E(Exception):\n    __str__ = None\nraise E", "broken.py:3 cannot be loaded: E: its text cannot be"),
        ("raise ValueError('a\\nb')", "cannot be loaded: ValueError: a b"),
        ("import sys\nsys.path.clear()\nconfig = int", "config() must return a RunConfig, not int"),
        ("x = 1", "cannot be loaded: AttributeError"),
        ("import nonsense_module", "cannot be loaded: ModuleNotFoundError"),
        ("def config(): return 3", "must return a RunConfig, not int"),
        (
            "from sar_dist.config import RunConfig\ndef config(): return RunConfig(run={'name': 'a'}, x=1)",
            "unknown key 'x'",
        ),
    ],
)
def test_broken_files_give_one_line(
    tmp_path: Path, content: str, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "path", [*sys.path])
    path = tmp_path / "broken.py"
    path.write_text(content)
    with pytest.raises(UserError, match=r"broken\.py") as caught:
        load_config(path)
    assert expected in str(caught.value)


def test_missing_file() -> None:
    with pytest.raises(UserError, match=r"no configuration file nowhere\.py"):
        load_config("nowhere.py")


@pytest.mark.parametrize(
    ("duration", "steps"),
    [
        ("1000st", 1000),
        ("2ep", 200),
        ("0.5ep", 50),
        ("5%", 500),
        ("1Mex", 15625),
        ("6.4kex", 100),
        ("64ex", 1),
        ("1ex", 1),
    ],
)
def test_durations(duration: str, steps: int) -> None:
    assert duration_in_steps(duration, steps_per_epoch=100, total_steps=10_000, global_batch=64) == steps


def test_vary_changes_a_copy_and_validates() -> None:
    config = load_config(DEMO)
    assert config.vary({"optim.lr": 0.5}).optim.lr == 0.5
    assert config.optim.lr != 0.5
    with pytest.raises(KeyError):
        config.vary({"optim.nothing": 1})
    with pytest.raises(ValueError):
        config.vary({"optim.lr": -1})
    assert isinstance(config, RunConfig)


def test_the_old_benchmark_key_names_the_tool_and_old_files_load(tmp_path: Path) -> None:
    values = load_config(DEMO).model_dump(mode="json")
    path = tmp_path / "config.json"
    values["data"]["benchmark"] = False
    path.write_text(json.dumps(values))
    assert load_config(path) == load_config(DEMO)
    with pytest.raises(UserError, match=r"data\.benchmark=true .* tools/benchmark_loader\.py"):
        load_config(DEMO, ["data.benchmark=true"])


@pytest.mark.parametrize("words", [["a.b=1", "--config", "X", "--local-rank=0", "c=2"], ["--config=X", "a.b=1", "c=2"]])
def test_overrides_may_stand_anywhere(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["train.py", *words])
    arguments = parse_run_arguments(None)
    assert (arguments.config, arguments.overrides) == ("X", ["a.b=1", "c=2"])
