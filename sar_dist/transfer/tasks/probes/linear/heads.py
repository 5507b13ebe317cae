"""Linear heads of a sweep: what each sees, how each starts, LARS, and all of them in one step, each on its own."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sar_dist.keys import seed_of

MOMENTUM = 0.9
TRUST = 0.001
_BUFFER = "momentum_buffer"  # torch.optim.SGD's name


@dataclass(frozen=True)
class FeatureKind:
    """[CLS] tokens of the last ``blocks`` blocks, side by side, and with ``patch_mean`` the last mean patch token too."""

    blocks: int
    patch_mean: bool

    def __str__(self) -> str:
        return f"CLS of last {self.blocks}" + (" + patch mean" if self.patch_mean else "")

    def of(self, tokens: Tensor, patch_mean: Tensor) -> Tensor:
        """(B, D) of [CLS] tokens (B, L, C), the last block last, and the mean patch token (B, C)."""
        chosen = tokens[:, -self.blocks :].flatten(1)
        return torch.cat([chosen, patch_mean], dim=1) if self.patch_mean else chosen

    def width(self, channels: int) -> int:
        """D of C."""
        return channels * (self.blocks + self.patch_mean)


@dataclass(frozen=True)
class HeadSpec:
    """One head of a sweep: its features, and its learning rate at 256 images per step."""

    kind: FeatureKind
    learning_rate: float

    def __str__(self) -> str:
        return f"{self.kind}, lr {self.learning_rate:g}"


class Lars(torch.optim.Optimizer):
    """Layer-wise adaptive rate scaling with momentum (You et al. 2017), as in MoCo v3 and MAE: for a parameter w with
    gradient g, ``m = momentum * m + t * g`` and ``w -= lr * m`` with ``t = trust * |w| / |g|``; t = 1 where a norm is 0
    and for biases (one dimension)."""

    def __init__(
        self, parameters: Iterable[Any], lr: float = 0.0, momentum: float = MOMENTUM, trust: float = TRUST
    ) -> None:
        super().__init__(parameters, {"lr": lr, "momentum": momentum, "trust": trust})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        assert closure is None, "LARS needs one gradient"
        for group in self.param_groups:
            for parameter in group["params"]:
                update = parameter.grad
                if parameter.ndim > 1:
                    weight_norm, norm = parameter.norm(), update.norm()
                    ratio = group["trust"] * weight_norm / norm
                    update = update * torch.where((weight_norm > 0) & (norm > 0), ratio, torch.ones_like(ratio))
                state = self.state[parameter]
                if _BUFFER not in state:
                    state[_BUFFER] = torch.zeros_like(parameter)
                state[_BUFFER].mul_(group["momentum"]).add_(update)
                parameter.sub_(group["lr"] * state[_BUFFER])


class HeadSweep:
    """Heads of several features and learning rates, trained in one pass, none of which affects another.

    Args:
        specs: the heads.
        channels: C of the backbone.
        classes: of the data set.
        optimizer: all heads' optimizer.
        batch_norm: normalise features by their statistics first, as MAE does.
        rate_scale: all learning rates are multiplied by it.
        seed: of the weights; a head's weights depend on it and on the head's features alone.
        device: where to train.
    """

    def __init__(
        self,
        specs: Sequence[HeadSpec],
        channels: int,
        classes: int,
        *,
        optimizer: Literal["sgd", "lars"],
        batch_norm: bool,
        rate_scale: float,
        seed: int,
        device: torch.device,
    ) -> None:
        self.specs = list(specs)
        self.device = device
        self._rates = [spec.learning_rate * rate_scale for spec in specs]
        self._heads = nn.ModuleList(_make_head(spec.kind, channels, classes, batch_norm, seed) for spec in specs).to(
            device
        )
        groups: list[dict[str, Any]] = [{"params": list(head.parameters()), "lr": 0.0} for head in self._heads]
        self._optimizer: torch.optim.Optimizer = (
            Lars(groups) if optimizer == "lars" else torch.optim.SGD(groups, lr=0.0, momentum=MOMENTUM)
        )

    def step(self, tokens: Tensor, patch_mean: Tensor, labels: Tensor, rate_factor: float) -> tuple[Tensor, Tensor]:
        """One step of every head on a batch.

        Args:
            tokens, patch_mean: features (B, L, C) and (B, C).
            labels: int64 (B,).
            rate_factor: share of each head's peak learning rate.

        Returns:
            mean loss and number of hits of each head before the step, both (heads,).
        """
        self._heads.train()
        for group, rate in zip(self._optimizer.param_groups, self._rates, strict=True):
            group["lr"] = rate * rate_factor
        outputs = self._outputs(tokens, patch_mean)
        losses = torch.stack([F.cross_entropy(logits, labels) for logits in outputs])
        self._optimizer.zero_grad()
        losses.sum().backward()  # type: ignore[no-untyped-call]
        self._optimizer.step()
        hits = torch.stack([(logits.argmax(dim=1) == labels).sum() for logits in outputs])
        return losses.detach(), hits

    @torch.no_grad()
    def ranked(self, tokens: Tensor, patch_mean: Tensor, count: int) -> Tensor:
        """(heads, B, count) classes with the highest logits, best first."""
        self._heads.eval()
        outputs = self._outputs(tokens, patch_mean)
        return torch.stack([logits.argsort(dim=1, descending=True, stable=True)[:, :count] for logits in outputs])

    def tensors(self) -> dict[str, Tensor]:
        """Everything that training changes, by name."""
        found = {f"heads.{name}": tensor for name, tensor in self._heads.state_dict().items()}
        for name, parameter in self._heads.named_parameters():
            if _BUFFER in self._optimizer.state[parameter]:
                found[f"momentum.{name}"] = self._optimizer.state[parameter][_BUFFER]
        return {name: tensor.contiguous() for name, tensor in found.items()}

    def load(self, tensors: dict[str, Tensor]) -> None:
        """Take over what ``tensors()`` gave. Raises RuntimeError or KeyError where names or shapes do not fit."""
        heads = {name.removeprefix("heads."): tensor for name, tensor in tensors.items() if name.startswith("heads.")}
        self._heads.load_state_dict(heads)
        for name, parameter in self._heads.named_parameters():
            self._optimizer.state[parameter][_BUFFER] = tensors[f"momentum.{name}"].to(self.device)

    def _outputs(self, tokens: Tensor, patch_mean: Tensor) -> list[Tensor]:
        features = {kind: kind.of(tokens, patch_mean) for kind in dict.fromkeys(spec.kind for spec in self.specs)}
        return [head(features[spec.kind]) for head, spec in zip(self._heads, self.specs, strict=True)]


def _make_head(kind: FeatureKind, channels: int, classes: int, batch_norm: bool, seed: int) -> nn.Module:
    width = kind.width(channels)
    generator = torch.Generator().manual_seed(seed_of(f"linear head {kind}", seed))
    linear = nn.utils.skip_init(nn.Linear, width, classes)
    with torch.no_grad():
        nn.init.normal_(linear.weight, std=0.01, generator=generator)
        nn.init.zeros_(linear.bias)
    return nn.Sequential(nn.BatchNorm1d(width, affine=False, eps=1e-6), linear) if batch_norm else linear
