"""Each process's flat float32 shard of weights and optimizer state, under every ZeRO stage.

ZeRO flattens the parameters of an optimizer group and gives each process a slice of the float32 master copy and of the
optimizer's moments. DeepSpeed has no public face for those slices that works at every stage and right after loading; this
module is the only one that knows where they are. Checkpoints and the moving average are built on it.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from sar_dist.checkpoint import Fragment
from sar_dist.engine.optimizer import Optimizer
from sar_dist.engine.protocol import Engine


def flat_shards(engine: Engine) -> list[Tensor]:
    """This process's float32 master slices, one per optimizer group (per sub-group under ZeRO-3)."""
    optimizer = engine.optimizer
    for name in ("fp32_partitioned_groups_flat", "single_partition_of_fp32_groups", "fp32_groups_flat_partition"):
        shards = getattr(optimizer, name, None)
        if shards is not None:
            return list(shards)
    raise RuntimeError(f"{type(optimizer).__name__} keeps its float32 weights where this version does not know")


def fragments(engine: Engine) -> list[Fragment]:
    """Where each parameter's elements lie in this process's shards; padding belongs to no fragment."""
    names = {id(parameter): name for name, parameter in engine.module.vit.named_parameters()}
    optimizer = engine.optimizer
    found: list[Fragment] = []
    if hasattr(optimizer, "fp32_partitioned_groups_flat"):
        for shard, group in enumerate(optimizer.fp16_groups):
            offset = 0
            for parameter in group:
                partition = parameter.partition_numel()
                start = engine.global_rank * partition
                numel = min(partition, parameter.ds_numel - start)
                if numel > 0:
                    name = names[id(parameter)]
                    found.append(Fragment(name=name, start=start, numel=numel, shard=shard, offset=offset))
                offset += partition
        return found
    for shard, group in enumerate(
        optimizer.bit16_groups if hasattr(optimizer, "bit16_groups") else optimizer.bf16_groups
    ):
        for parameter in group:
            mapping = getattr(parameter, "_hp_mapping", None)
            if mapping is not None:  # else none of it lies in this process's slice
                name, start = names[id(parameter)], mapping.lp_fragment_address.start
                numel, offset = mapping.lp_fragment_address.numel, mapping.hp_fragment_address.start
                found.append(Fragment(name=name, start=start, numel=numel, shard=shard, offset=offset))
    return found


def optimizer_settings(engine: Engine) -> Optimizer:
    """What the engine's optimizer was built from; ``build_engine`` leaves it on the optimizer inside ZeRO's."""
    settings: Optimizer = engine.optimizer.optimizer.settings
    return settings


def shard_groups(engine: Engine) -> list[dict[str, Any]]:
    """The optimizer's parameter group that each flat shard is of."""
    groups: list[dict[str, Any]] = engine.optimizer.optimizer.param_groups
    if hasattr(engine.optimizer, "fp32_partitioned_groups_flat"):
        return [groups[group] for _, group in sorted(engine.optimizer.sub_group_to_group_id.items())]
    return groups


def optimizer_states(engine: Engine) -> list[dict[str, Tensor]]:
    """The optimizer's state of each flat shard, created where the optimizer has not made it yet.

    Returns:
        One dictionary per shard: those of the optimizer's ``moments`` that it keeps of this shard, shaped like it, and the
        scalar ``step`` where it counts. They are the optimizer's own tensors: writing into them changes the optimizer.
    """
    states, settings = engine.optimizer.optimizer.state, optimizer_settings(engine)
    for shard, group in zip(flat_shards(engine), shard_groups(engine), strict=True):
        if not states[shard]:
            states[shard].update(settings.new_state(shard, group))
    return [states[shard] for shard in flat_shards(engine)]


def publish_shards(engine: Engine) -> None:
    """Make the model's parameters equal to the master slices on all processes, as an optimizer step does at its end."""
    optimizer = engine.optimizer
    if not hasattr(optimizer, "fp32_partitioned_groups_flat"):
        optimizer.update_lp_params()
        return
    optimizer._partition_all_parameters()  # else whole parameters gathered by an earlier forward would be used again
    for group in range(len(optimizer.fp32_partitioned_groups_flat)):
        optimizer._reassign_or_swap_out_partitioned_parameters(group)
    if optimizer.persistent_parameters:  # small parameters that ZeRO-3 keeps whole on every process
        optimizer.persistent_parameters[0].all_gather(optimizer.persistent_parameters)
