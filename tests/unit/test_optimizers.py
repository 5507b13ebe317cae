"""Optimizers by name: settings, what they hold, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import timm.optim
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
        ({"name": "lamb"}, "layer-wise optimizer, which scales each tensor's update by its norm"),
        ({"name": "adafactor"}, "layer-wise optimizer, which keeps sums of each matrix's rows and columns"),
        ({"name": "mars"}, "layer-wise optimizer, which clips each tensor's corrected gradient"),
        ({"name": "adopt2"}, "did you mean adopt"),
        ({"name": "lion", "options": {"betas": [0.9, 1.5]}}, "are no decays"),
        ({"name": "lion", "options": {"eps": 1e-8}}, "unknown key 'eps'"),
        ({"name": "nadamw", "options": {"caution": True}}, "unknown key 'caution'"),
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


Numbers = list[torch.Tensor]
RATE, DECAY, STEPS = 0.01, 0.1, 20


def plain_nadamw(weight: torch.Tensor, gradients: Numbers) -> torch.Tensor:
    """Table 1 of arXiv:1910.05446, with decoupled decay."""
    m, v = torch.zeros_like(weight), torch.zeros_like(weight)
    for step, g in enumerate(gradients, 1):
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g * g
        ahead = (0.9 * m + 0.1 * g) / (1 - 0.9**step)
        weight = weight * (1 - RATE * DECAY) - RATE * ahead / ((v / (1 - 0.999**step)).sqrt() + 1e-8)
    return weight


def plain_lion(weight: torch.Tensor, gradients: Numbers) -> torch.Tensor:
    """Algorithm 2 of arXiv:2302.06675."""
    m = torch.zeros_like(weight)
    for g in gradients:
        weight = weight - RATE * ((0.9 * m + 0.1 * g).sign() + DECAY * weight)
        m = 0.99 * m + 0.01 * g
    return weight


def plain_adan(weight: torch.Tensor, gradients: Numbers) -> torch.Tensor:
    """Algorithm 1 of arXiv:2208.06677, with bias corrections; its betas are 1 minus these."""
    m, d, n = (torch.zeros_like(weight) for _ in range(3))
    before = gradients[0]
    for step, g in enumerate(gradients, 1):
        difference, before = g - before, g
        m, d = 0.98 * m + 0.02 * g, 0.92 * d + 0.08 * difference
        n = 0.99 * n + 0.01 * (g + 0.92 * difference) ** 2
        direction = m / (1 - 0.98**step) + 0.92 * d / (1 - 0.92**step)
        root = (n / (1 - 0.99**step)).sqrt() + 1e-8
        weight = (weight - RATE * direction / root) / (1 + RATE * DECAY)
    return weight


def plain_adopt(weight: torch.Tensor, gradients: Numbers) -> torch.Tensor:
    """Algorithm 2 of arXiv:2411.02853, with its clipping at step ** (1/4) as timm's at (step - 1) ** .333."""
    m, v = torch.zeros_like(weight), gradients[0] ** 2
    for step, g in enumerate(gradients[1:], 1):
        limit = step**0.333
        m = 0.9 * m + 0.1 * (g / v.sqrt().clamp(min=1e-6)).clamp(-limit, limit)
        weight = weight * (1 - RATE * DECAY) - RATE * m
        v = 0.9999 * v + 0.0001 * g * g
    return weight


PLAIN = {"nadamw": plain_nadamw, "lion": plain_lion, "adan": plain_adan, "adopt": plain_adopt}


def built(name: str, weights: Numbers) -> tuple[Optimizer, torch.optim.Optimizer]:
    settings = optimizer_of(OptimSettings(name=name))
    return settings, settings.build([{"params": weights, "lr": RATE, "weight_decay": DECAY}], RATE)


def stepped(optimizer: torch.optim.Optimizer, weights: Numbers, gradients: list[Numbers]) -> None:
    for of_step in gradients:
        for weight, gradient in zip(weights, of_step, strict=True):
            weight.grad = gradient.clone()
        optimizer.step()


@pytest.mark.parametrize("name", PLAIN)
def test_each_optimizer_is_its_paper_whole_in_pieces_and_resumed(name: str) -> None:
    """A matrix and a vector as they are, and flat pieces of both as ZeRO makes them, with states as a checkpoint fills them."""
    generator = torch.Generator().manual_seed(0)
    whole = [torch.randn(4, 3, generator=generator, dtype=torch.float64), torch.randn(5, generator=generator).double()]
    gradients = [[torch.randn(w.shape, generator=generator, dtype=torch.float64) for w in whole] for _ in range(STEPS)]
    expected = torch.cat([PLAIN[name](w, [g[i] for g in gradients]).flatten() for i, w in enumerate(whole)])

    weights = [w.clone().requires_grad_() for w in whole]
    settings, optimizer = built(name, weights)
    stepped(optimizer, weights, gradients)
    torch.testing.assert_close(torch.cat([w.detach().flatten() for w in weights]), expected, rtol=1e-10, atol=1e-12)
    made, kept = settings.new_state(weights[0]), optimizer.state[weights[0]]
    assert {key: value.shape for key, value in made.items()} == {key: value.shape for key, value in kept.items()}

    def pieces(tensors: Numbers) -> Numbers:
        return [piece.clone() for piece in torch.cat([tensor.detach().flatten() for tensor in tensors]).split(6)]

    shards = [piece.requires_grad_() for piece in pieces(whole)]
    _, optimizer = built(name, shards)
    for shard in shards:
        optimizer.state[shard].update(settings.new_state(shard))  # a save before the first step makes it
    stepped(optimizer, shards, [pieces(g) for g in gradients[:9]])
    again = [shard.detach().clone().requires_grad_() for shard in shards]
    _, resumed = built(name, again)
    for old, new in zip(shards, again, strict=True):
        state = settings.new_state(new)
        for moment in settings.moments:
            state[moment].copy_(optimizer.state[old][moment])
        if settings.counts_steps:
            state["step"].fill_(float(optimizer.state[old]["step"]))
        resumed.state[new].update(state)
    stepped(resumed, again, [pieces(g) for g in gradients[9:]])
    torch.testing.assert_close(torch.cat([shard.detach() for shard in again]), expected, rtol=1e-10, atol=1e-12)


def test_timms_mars_is_refused_because_pieces_change_it() -> None:
    weights, gradients = (
        torch.randn(4, 3, dtype=torch.float64),
        [torch.randn(4, 3, dtype=torch.float64) for _ in range(5)],
    )
    results = []
    for parameters in (
        [weights.clone().requires_grad_()],
        [p.requires_grad_() for p in weights.flatten().clone().split(6)],
    ):
        shapes = [parameter.shape for parameter in parameters]
        optimizer = timm.optim.Mars(parameters, lr=RATE)
        split = [
            [p.view(s) for p, s in zip(g.flatten().split([s.numel() for s in shapes]), shapes, strict=True)]
            for g in gradients
        ]
        stepped(optimizer, parameters, split)
        results.append(torch.cat([parameter.detach().flatten() for parameter in parameters]))
    assert (results[0] - results[1]).abs().max() > 1e-4


@pytest.mark.parametrize(("name", "held"), [("adamw", 12), ("nadamw", 12), ("lion", 8), ("adan", 20), ("adopt", 12)])
def test_what_each_holds_and_takes_for_an_update(name: str, held: int) -> None:
    weight = torch.randn(1_000_000, requires_grad=True)
    settings, optimizer = built(name, [weight])
    assert settings.bytes_per_parameter == held
    stepped(optimizer, [weight], [[torch.randn(len(weight))]])
    weight.grad = torch.randn(len(weight))
    activities = [torch.profiler.ProfilerActivity.CPU]
    with torch.profiler.profile(activities=activities, profile_memory=True, acc_events=False) as profile:
        optimizer.step()
    level = highest = 0
    for event in sorted(profile.profiler.kineto_results.events(), key=lambda event: event.start_ns()):
        if event.name() == "[memory]":
            level += event.nbytes()
            highest = max(highest, level)
    assert highest / len(weight) == pytest.approx(settings.update_bytes_per_parameter, abs=0.1)


def test_muon_holds_one_moment_of_matrices_and_two_of_the_rest() -> None:
    muon = optimizer_of(OptimSettings(name="muon"))
    assert muon.held_bytes(10, 4) == 4 * 8 + 6 * 12
    assert (muon.update_bytes(10, 4, scattered=False), muon.update_bytes(10, 4, scattered=True)) == (16, 48)
    assert muon.exchanged_bytes(4) == 32
    adamw = optimizer_of(OptimSettings())
    assert (adamw.held_bytes(10, 4), adamw.update_bytes(10, 4, scattered=True), adamw.exchanged_bytes(4)) == (120, 0, 0)
