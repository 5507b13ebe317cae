"""How much arithmetic a model takes, counted by fvcore from a trace, and in closed form for a plain ViT.

Counted are the multiply-accumulates (MACs; 1 MAC = 2 FLOPs) of matrix products: linear layers, convolutions, attention
and the tap's query-key product, as papers and ``torch.utils.flop_counter`` count them; norms, activations, softmax and
additions are not, apart from the arithmetic of the spatial entropy itself, so that its share can be seen. The backward
pass is taken as twice the forward pass, recomputation under activation checkpointing is left out (Kaplan et al., 2020,
https://arxiv.org/abs/2001.08361, section 2.1).
"""

from __future__ import annotations

import copy
import math
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import flop_registry

from sar_dist.config import ImageSize, height_and_width
from sar_dist.terms import Term

with warnings.catch_warnings():
    # Importing fvcore compiles a loss with torch.jit.script, which PyTorch reports as deprecated to every user.
    warnings.simplefilter("ignore", FutureWarning)
    from fvcore.nn import FlopCountAnalysis
    from fvcore.nn.jit_handles import get_shape

Handle = Callable[[list[Any], list[Any]], Counter[str]]

BACKWARD_PER_FORWARD = 2

# The public operator, and the kernels that it becomes when a trace is taken below it.
_ATTENTION_OPERATORS = (
    "aten::scaled_dot_product_attention",
    "aten::_scaled_dot_product_attention_math",
    "aten::_scaled_dot_product_flash_attention",
    "aten::_scaled_dot_product_flash_attention_for_cpu",
    "aten::_scaled_dot_product_efficient_attention",
    "aten::_scaled_dot_product_cudnn_attention",
)
# fvcore would count these by rough factors per element.
_UNCOUNTED_NORMS = ("aten::batch_norm", "aten::group_norm", "aten::layer_norm", "aten::instance_norm")


@dataclass(frozen=True)
class FlopReport:
    """Parameters and forward arithmetic of a model, all counts per image.

    Attributes:
        parameters: scalars in the model's parameters.
        macs: forward multiply-accumulates.
        macs_by_module: for every module by its dotted name, itself and all below it.
        parameters_by_module: likewise.
        macs_by_operator: "linear", "conv", "matmul", "attention", "spatial_entropy_from_query_key", ...
        uncounted_operators: calls of each operator that was not counted.
        skipped_macs: those of ``macs`` that training leaves out on average (``model.skip_dropped``).
    """

    parameters: int
    macs: float
    macs_by_module: dict[str, float]
    parameters_by_module: dict[str, int]
    macs_by_operator: dict[str, float]
    uncounted_operators: dict[str, int]
    skipped_macs: float = 0.0

    @property
    def forward_flops(self) -> float:
        """FLOPs of the forward pass on one image."""
        return 2 * self.macs

    @property
    def training_flops(self) -> float:
        """FLOPs of forward and backward on one image, without recomputation: what model FLOPs utilisation counts."""
        return (1 + BACKWARD_PER_FORWARD) * 2 * (self.macs - self.skipped_macs)

    def share(self, module: str) -> float:
        """Share of the forward arithmetic that a module takes, 0 to 1."""
        return self.macs_by_module[module] / self.macs if self.macs else 0.0

    def summary(self) -> str:
        """One line for the start of a run."""
        return (
            f"{self.parameters / 1e6:.2f} M parameters, {self.macs / 1e9:.2f} GMACs forward, "
            f"{self.training_flops / 1e9:.1f} GFLOPs per image in training"
        )

    def as_dict(self) -> dict[str, Any]:
        """Everything as JSON types, in full precision."""
        return asdict(self) | {"forward_flops": self.forward_flops, "training_flops": self.training_flops}


class _TensorOutputs(nn.Module):
    """A model whose outputs, in whatever dicts and lists, come as one flat tuple of tensors, as a trace needs them."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, *inputs: Any) -> tuple[Tensor, ...]:
        return tuple(_tensors(self.model(*inputs)))


def _tensors(output: Any) -> Iterator[Tensor]:
    if isinstance(output, Tensor):
        yield output
    elif isinstance(output, dict):
        yield from _tensors(list(output.values()))
    elif isinstance(output, list | tuple):
        for item in output:
            yield from _tensors(item)


def _count_attention(inputs: list[Any], outputs: list[Any]) -> Counter[str]:
    """query . key^T and weights . value, on (..., queries, d), (..., keys, d) and (..., keys, dv)."""
    query, key, value = (get_shape(tensor) for tensor in inputs[:3])
    products = math.prod(query[:-1]) * key[-2]
    return Counter(attention=products * (query[-1] + value[-1]))


def _count_nothing(inputs: list[Any], outputs: list[Any]) -> Counter[str]:
    return Counter()


def _registered_formula(operator: Any) -> Handle:
    """The formula that the regularizer registered with ``torch.utils.flop_counter`` for one of its operators."""
    name = operator._qualified_op_name.rpartition("::")[2]

    def handle(inputs: list[Any], outputs: list[Any]) -> Counter[str]:
        return Counter({name: flop_registry[operator](*(get_shape(value) for value in inputs)) / 2})

    return handle


@contextmanager
def _evaluation_mode(model: nn.Module) -> Iterator[None]:
    """Without dropout, activation checkpointing and gradients, which do not belong into the count."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module, training in modes.items():
            module.training = training


def count_flops(model: nn.Module, inputs: tuple[Any, ...]) -> FlopReport:
    """Trace one forward pass of ``model(*inputs)`` and count its matrix products.

    Args:
        model: any module whose outputs are tensors, or dicts, lists and tuples of them. A model on the "meta" device
            (the way to count one whose weights are sharded, or too many to hold) is run on memory that is never
            written, which the operating system does not have to provide.
        inputs: positional arguments; the first is a tensor whose first dimension is the batch.
    """
    if any(parameter.is_meta for parameter in model.parameters()):
        # Tracing on meta itself fails in PyTorch 2.15: its Python shape rules reject the sizes that a trace records.
        model = copy.deepcopy(model).to_empty(device="cpu")
        inputs = tuple(torch.zeros_like(item, device="cpu") if isinstance(item, Tensor) else item for item in inputs)
    analysis = FlopCountAnalysis(_TensorOutputs(model), inputs)
    analysis.unsupported_ops_warnings(False).uncalled_modules_warnings(False)
    analysis.set_op_handle(**dict.fromkeys(_ATTENTION_OPERATORS, _count_attention))
    for operator in (torch.ops.sar_dist.spatial_entropy, torch.ops.sar_dist.spatial_entropy_from_query_key):
        analysis.set_op_handle(operator._qualified_op_name, _registered_formula(operator))
    analysis.set_op_handle(**dict.fromkeys(_UNCOUNTED_NORMS, _count_nothing))
    batch = inputs[0].shape[0]
    with _evaluation_mode(model):
        macs_by_module = {
            name.removeprefix("model").removeprefix("."): macs / batch
            for name, macs in analysis.by_module().items()
            if name
        }
    return FlopReport(
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        macs=macs_by_module[""],
        macs_by_module=macs_by_module,
        parameters_by_module={
            name: sum(parameter.numel() for parameter in module.parameters()) for name, module in model.named_modules()
        },
        macs_by_operator={name: macs / batch for name, macs in analysis.by_operator().items() if macs},
        uncounted_operators=dict(analysis.unsupported_ops()),
    )


class _TermModule(nn.Module):
    """A term's arithmetic as a module, so that it has a line of its own in the report."""

    def __init__(self, term: Term) -> None:
        super().__init__()
        self.term = term

    def forward(self, output: dict[str, Any]) -> list[Tensor]:
        scores = self.term(output)
        return [scores.loss, *scores.per_sample.values()]


class _TermModules(nn.ModuleDict):
    """All terms, side by side."""

    def forward(self, output: dict[str, Any]) -> list[list[Tensor]]:
        return [module(output) for module in self.values()]


class _RegularizedModel(nn.Module):
    def __init__(self, model: nn.Module, terms: Sequence[Term]) -> None:
        super().__init__()
        self.model = model
        self.regularizer = _TermModules({term.name: _TermModule(term) for term in terms})

    def forward(self, images: Tensor) -> list[Any]:
        outputs = self.model(images)
        return [outputs["logits"], self.regularizer({**outputs, "images": images})]


def count_regularized_flops(model: nn.Module, images: Tensor, terms: Sequence[Term]) -> FlopReport:
    """Count a model with the terms of its loss, which appear as the module "regularizer" next to "model".

    Args:
        model: returns {"logits", "queries", "keys"}, as ``TappedVisionTransformer``.
        images: (B, 3, S, S).
        terms: built for the CPU.
    """
    return count_flops(_RegularizedModel(model, terms), (images,))


def vit_forward_macs(
    *,
    image_size: ImageSize,
    patch_size: int,
    embed_dim: int,
    depth: int,
    num_classes: int = 1000,
    mlp_ratio: float = 4.0,
    prefix_tokens: int = 1,
    channels: int = 3,
) -> int:
    """Forward MACs per image of a plain ViT in closed form.

    With N patches, T = N + prefix tokens, width D and hidden width M::

        N c p^2 D  +  L (4 T D^2 + 2 T D M + 2 T^2 D)  +  D classes

    for the patch embedding, in each block the projections, the MLP and the two attention products, and the head on one
    token. ViT-B/16 at 224 pixels: 17.56e9, ViT-L/16: 61.55e9.
    """
    patches = math.prod(side // patch_size for side in height_and_width(image_size))
    tokens = patches + prefix_tokens
    hidden = int(embed_dim * mlp_ratio)
    embedding = patches * channels * patch_size**2 * embed_dim
    block = 4 * tokens * embed_dim**2 + 2 * tokens * embed_dim * hidden + 2 * tokens**2 * embed_dim
    return embedding + depth * block + embed_dim * num_classes
