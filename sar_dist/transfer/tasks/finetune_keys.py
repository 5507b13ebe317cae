"""The keys of ``finetune`` for those of the training run that it starts: messages name what can be typed here."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator

from sar_dist.config import RunConfig
from sar_dist.errors import UserError

# What the task has settings of its own for; everything else of a training configuration is behind ``train.``.
OWN_KEYS = {
    "data.workers": "workers",
    "engine.micro_batch": "micro_batch",
    "engine.zero_stage": "zero_stage",
    "model.drop_path": "drop_path",
    "model.image_size": "image_size",
    "optim.epochs": "epochs",
    "optim.global_batch": "global_batch",
    "optim.layer_decay": "layer_decay",
    "optim.lr": "lr",
    "optim.warmup_epochs": "warmup_epochs",
    "optim.weight_decay": "weight_decay",
    "regularizer.weight": "entropy_weight",
    "run.seed": "seed",
}
_GROUPS = {name: getattr(field.annotation, "model_fields", {}) for name, field in RunConfig.model_fields.items()}
_KEY = re.compile(rf"(?<![\w./-])({'|'.join(_GROUPS)})\.([a-z_]\w*)(?![\w/-])")
_UNKNOWN = re.compile(r"unknown key '(?!train\.)")


def in_own_keys(message: str) -> str:
    """A message about a training configuration with the keys as ``finetune`` takes them."""
    translated = _KEY.sub(_own_key, message)
    return _UNKNOWN.sub("unknown key 'train.", translated)


@contextlib.contextmanager
def own_keys() -> Iterator[None]:
    """Raise the body's ``UserError`` with the keys as ``finetune`` takes them."""
    try:
        yield
    except UserError as error:
        error.args = (in_own_keys(str(error)), *error.args[1:])
        raise


def _own_key(found: re.Match[str]) -> str:
    group, name = found[1], found[2]
    if name not in _GROUPS[group]:
        return found[0]
    return OWN_KEYS.get(f"{group}.{name}", f"train.{group}.{name}")
