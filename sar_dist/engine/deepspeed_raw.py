"""Checks of ``engine.deepspeed``, which goes to DeepSpeed as it is: its keys and the types of their values.

DeepSpeed (0.19) passes over an unknown key at the top and in some of its sections without a word, and takes values of any
type there; the tables here say what it reads. The other sections it checks itself, in the middle of the start and with
messages of its own: here it does so before anything starts.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from typing import Any

from pydantic import ValidationError

from sar_dist.errors import UserError, in_brief
from sar_dist.setting_trees import merged

# A kind of value: how a message calls it, and whether a value is of it.
_Kind = tuple[str, Callable[[Any], bool]]


def _whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


_SWITCH: _Kind = ("true or false", lambda value: isinstance(value, bool))
_COUNT: _Kind = ("a whole number", _whole)
_POSITIVE: _Kind = ("a whole number, 1 or more", lambda value: _whole(value) and value > 0)  # DeepSpeed divides by it
_NUMBER: _Kind = ("a number", lambda value: _whole(value) or isinstance(value, float))
_TEXT: _Kind = ("text", lambda value: isinstance(value, str))
_WORDS: _Kind = (
    "a list of text",
    lambda value: isinstance(value, list) and all(isinstance(word, str) for word in value),
)
_TYPE: _Kind = ("fp32, fp16 or bf16", lambda value: value in ("fp32", "fp16", "bf16"))
_MAPPING: _Kind = ("a mapping", lambda value: isinstance(value, Mapping))

_TOP_LEVEL: dict[str, _Kind] = {
    **dict.fromkeys(
        "activation_checkpointing aio bf16 checkpoint comms_logger compile csv_monitor data_types flops_profiler fp16 "
        "tensorboard timers torch_autocast wandb zero_optimization optimizer scheduler".split(),
        _MAPPING,
    ),
    **dict.fromkeys(
        "disable_allgather disable_python_gc dump_state memory_breakdown prescale_gradients wall_clock_breakdown "
        "zero_allow_untested_optimizer zero_force_ds_cpu_optimizer".split(),
        _SWITCH,
    ),
    **dict.fromkeys("train_batch_size train_micro_batch_size_per_gpu gradient_accumulation_steps".split(), _COUNT),
    "steps_per_print": _POSITIVE,
    **dict.fromkeys("gradient_clipping gradient_predivide_factor".split(), _NUMBER),
    **dict.fromkeys("gradient_allreduce_op log_level".split(), _TEXT),
    "communication_data_type": _TYPE,
}
# Sections of which DeepSpeed looks at the keys that it knows and at nothing else.
_SECTIONS: dict[str, dict[str, _Kind]] = {
    "activation_checkpointing": {
        **dict.fromkeys(
            "partition_activations contiguous_memory_optimization cpu_checkpointing synchronize_checkpoint_boundary "
            "profile".split(),
            _SWITCH,
        ),
        "number_checkpoints": _COUNT,
    },
    "aio": {
        **dict.fromkeys("block_size queue_depth intra_op_parallelism".split(), _COUNT),
        **dict.fromkeys("single_submit overlap_events use_gds".split(), _SWITCH),
    },
    "checkpoint": {
        "tag_validation": _TEXT,
        **dict.fromkeys("load_universal use_node_local_storage".split(), _SWITCH),
        "parallel_write": _MAPPING,
    },
    "data_types": {
        **dict.fromkeys("grad_accum_dtype param_dtype buffer_dtype".split(), _TYPE),
        "keep_in_fp32_modules": ("auto or a list of text", lambda value: value == "auto" or _WORDS[1](value)),
    },
    "flops_profiler": {
        **dict.fromkeys("enabled detailed".split(), _SWITCH),
        **dict.fromkeys("profile_step module_depth top_modules".split(), _COUNT),
        "recompute_fwd_factor": _NUMBER,
        "output_file": _TEXT,
    },
    "timers": {"throughput": _MAPPING},
    "torch_autocast": {"enabled": _SWITCH, "dtype": _TEXT, "lower_precision_safe_modules": _WORDS},
}


def check_kinds(raw: Mapping[str, Any]) -> None:
    """Keys and types of values, as far as the tables above know them.

    Raises:
        UserError: DeepSpeed reads no such key, or takes another kind of value.
    """
    _check_table(raw, _TOP_LEVEL, "engine.deepspeed")
    for section, table in _SECTIONS.items():
        _check_table(raw.get(section, {}), table, f"engine.deepspeed.{section}")


def _check_table(values: Mapping[str, Any], table: Mapping[str, _Kind], where: str) -> None:
    for key, value in values.items():
        if key not in table:
            nearest = difflib.get_close_matches(key, table, n=1, cutoff=0.0)
            raise UserError(f"{where}.{key}: DeepSpeed has no such key; did you mean {nearest[0]!r}?")
        wanted, fits = table[key]
        if not fits(value):
            raise UserError(f"{where}.{key}={str(value)[:80]}: should be {wanted}")


def check_with_deepspeed(raw: Mapping[str, Any], generated: Mapping[str, Any]) -> None:
    """Let DeepSpeed itself read each section of ``raw`` over what was ``generated``.

    Raises:
        UserError: it refuses a key or a value.
    """
    from deepspeed.runtime.config import DeepSpeedConfig  # slow to import, and most runs have no such section

    # Without the global batch, of which it would find that one process cannot make it.
    alone = {key: value for key, value in generated.items() if key != "train_batch_size"}
    for section, values in raw.items():
        try:
            DeepSpeedConfig(merged(alone, {section: values}))
        except Exception as error:  # what it raises depends on where it stumbles: six kinds were seen
            raise UserError(f"engine.deepspeed.{section}: {_reason(error, values)}") from error


def _reason(error: Exception, values: object) -> str:
    if not isinstance(error, ValidationError):
        return f"DeepSpeed does not take {str(values)[:80]} ({in_brief(error)})"
    first = error.errors(include_url=False)[0]
    key = ".".join(map(str, first["loc"]))
    if first["type"] == "extra_forbidden":
        return f"DeepSpeed has no key {key!r} there"
    return f"{key}={str(first['input'])[:80]}: {first['msg'].removeprefix('Value error, ')}"
