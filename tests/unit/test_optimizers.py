"""Optimizers by name: settings, what they hold, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from sar_dist.config import OptimSettings
from sar_dist.engine import Optimizer, optimizer_of
from sar_dist.errors import UserError


def test_adamw_is_torchs_with_the_keys_of_optim() -> None:
    settings = optimizer_of(OptimSettings(betas=(0.8, 0.9), eps=1e-6, fused=False))
    built = settings.build([{"params": [torch.zeros(3, requires_grad=True)], "lr": 0.1, "weight_decay": 0.2}], 0.5)
    assert type(built) is torch.optim.AdamW
    assert (built.defaults["betas"], built.defaults["eps"], built.defaults["fused"]) == ((0.8, 0.9), 1e-6, False)
    assert (built.param_groups[0]["lr"], built.param_groups[0]["weight_decay"]) == (0.1, 0.2)
    assert settings.bytes_per_parameter == 12


@pytest.mark.parametrize("fused", [True, False])
def test_a_new_state_is_what_torch_makes_at_its_first_step(fused: bool) -> None:
    weight = torch.ones(5, requires_grad=True)
    settings = optimizer_of(OptimSettings(fused=fused))
    built = settings.build([{"params": [weight], "lr": 0.0, "weight_decay": 0.0}], 0.0)
    weight.grad = torch.zeros(5)
    built.step()
    made, expected = settings.new_state(weight), built.state[weight]
    assert made.keys() == expected.keys()
    assert all((made[key].shape, made[key].dtype) == (expected[key].shape, expected[key].dtype) for key in made)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"name": "adamv"}, "did you mean adamw"),
        ({"name": "lamb"}, "layer-wise"),
        ({"name": "no_such_module:It"}, "there is no module 'no_such_module'"),
        ({"name": "math:pi"}, "no subclass"),
        ({"name": "math:tau_"}, "has no 'tau_'"),
        ({"options": {"momentum": 0.9}}, "adamw is set by optim.betas"),
    ],
)
def test_what_cannot_be_used_is_one_line(settings: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        optimizer_of(OptimSettings(**settings))  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)


def test_options_are_checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own_optimizer.py").write_text(
        "from sar_dist.engine import Optimizer\n\nclass Own(Optimizer):\n    moments = ('a', 'b', 'c')\n    beta: float = 0.5\n"
        "    def build(self, groups, lr):\n        return None\n\nclass Bare(Optimizer):\n    pass\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    own = optimizer_of(OptimSettings(name="own_optimizer:Own", options={"beta": 0.1}))
    assert isinstance(own, Optimizer)
    assert own.bytes_per_parameter == 16
    with pytest.raises(
        UserError, match=r"optim\.options of own_optimizer:Own: unknown key 'betta'; did you mean 'beta'"
    ):
        optimizer_of(OptimSettings(name="own_optimizer:Own", options={"betta": 0.1}))
