"""Run on every rank: 20 steps with each optimizer under each ZeRO stage, against a plain loop on whole tensors.

optimizer_steps.py CONFIG FOLDER first    10 steps, a checkpoint below FOLDER, 10 more in a new engine of the next stage
optimizer_steps.py CONFIG FOLDER again    the last 10 steps from the checkpoints that another number of processes wrote
"""

import sys
from pathlib import Path

import torch
from torch.nn import functional

from sar_dist import distributed
from sar_dist.checkpoint import CheckpointReader, CheckpointStore, SharedState, complete_checkpoints
from sar_dist.config import OptimSettings, RunConfig, load_config
from sar_dist.devices import select_device
from sar_dist.engine import Engine, build_engine, learning_rate_factor, optimizer_of
from sar_dist.engine.engine_state import restore, shared_state, snapshot
from sar_dist.models import TappedVisionTransformer, build_model, parameter_groups

STEPS, HALF, BATCH, PER_EPOCH = 20, 10, 8, 6
OPTIMIZERS = ("adamw", "nadamw", "lion", "adan", "adopt", "muon")


def batch(step: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The global batch of a step."""
    generator = torch.Generator().manual_seed(step)
    return torch.randn(BATCH, 3, 32, 32, generator=generator), torch.randint(4, (BATCH,), generator=generator)


def settings(name: str, stage: int, world_size: int) -> RunConfig:
    overrides = [f"optim.name={name}", f"engine.zero_stage={stage}", f"optim.global_batch={BATCH}", "optim.clip=1"]
    if name == "lion":  # whose steps are signs: rounding turns that of a momentum near 0, the more the larger the rate
        overrides.append("optim.lr=1e-4")
    if name == "muon":  # whose iteration is in bfloat16, where rounding turns a last bit
        overrides.append("optim.lr=3e-4")
    if stage == 3:
        overrides.append("engine.deepspeed.zero_optimization.stage3_param_persistence_threshold=0")
    return load_config(sys.argv[1], [*overrides, f"engine.micro_batch={BATCH // world_size}"])


def torchs_muon(model: TappedVisionTransformer, optim: OptimSettings) -> list[torch.optim.Optimizer]:
    """torch's own Muon for the matrices of the blocks, chosen here by name, and its AdamW for the rest."""
    matrices, others = [], []
    for name, parameter in model.vit.named_parameters():
        (matrices if name.startswith("blocks.") and parameter.ndim == 2 else others).append(parameter)
    unregularized = [parameter for parameter in others if parameter.ndim == 1 or parameter.shape[0] == 1]
    decayed = [parameter for parameter in others if not any(parameter is other for other in unregularized)]
    decay = optim.weight_decay
    muon = torch.optim.Muon(matrices, weight_decay=decay, adjust_lr_fn="match_rms_adamw")
    groups = [{"params": decayed, "weight_decay": decay}, {"params": unregularized, "weight_decay": 0.0}]
    return [muon, torch.optim.AdamW(groups)]


def plain_losses(config: RunConfig) -> list[float]:
    """Of one process that knows no ZeRO: whole tensors, and timm's or torch's optimizer as it is built for them."""
    torch.manual_seed(0)
    model = build_model(config.model, config.regularizer).train()
    optim = config.optim
    groups = parameter_groups(model.vit, lr=optim.peak_lr, weight_decay=optim.weight_decay)
    optimizers = (
        torchs_muon(model, optim) if optim.name == "muon" else [optimizer_of(optim).build(groups, optim.peak_lr)]
    )
    losses = []
    for step in range(STEPS):
        for group in (group for optimizer in optimizers for group in optimizer.param_groups):
            group["lr"] = optim.peak_lr * learning_rate_factor(step, optim, steps_per_epoch=PER_EPOCH)
        images, labels = batch(step)
        loss = functional.cross_entropy(model(images)["logits"], labels)
        model.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer in optimizers:
            optimizer.step()
        losses.append(loss.item())
    return losses


def new_engine(config: RunConfig, world_size: int) -> Engine:
    torch.manual_seed(0)
    model = build_model(config.model, config.regularizer)
    return build_engine(config, model, world_size=world_size, steps_per_epoch=PER_EPOCH)


def train(engine: Engine, steps: range) -> list[float]:
    losses = []
    for step in steps:
        images, labels = (whole.chunk(distributed.world_size())[distributed.rank()] for whole in batch(step))
        loss = functional.cross_entropy(engine(images)["logits"], labels)
        engine.backward(loss)
        engine.step()
        losses.append(distributed.all_reduce_sum(loss.detach().clone()).item() / distributed.world_size())
    return losses


def save(engine: Engine, folder: Path) -> None:
    store = CheckpointStore(folder, keep_last=1, keep_every=None)
    store.prepare()
    store.save(HALF, *snapshot(engine, None), SharedState(engine=shared_state(engine, None)))
    store.wait()
    distributed.barrier()


def check(name: str, stage: int, world_size: int, folder: Path, first: bool) -> None:
    config = settings(name, stage, world_size)
    expected, losses = plain_losses(config), []
    if first:
        engine = new_engine(config, world_size)
        losses += train(engine, range(HALF))
        save(engine, folder)
        engine.destroy()
    other = new_engine(settings(name, stage % 3 + 1, world_size), world_size)
    restore(other, None, CheckpointReader(complete_checkpoints(folder)[0]))
    losses += train(other, range(HALF, STEPS))
    other.destroy()
    for step, (ours, theirs) in enumerate(zip(losses, expected[STEPS - len(losses) :], strict=True)):
        assert abs(ours / theirs - 1) < 1e-5, f"{name}, ZeRO-{stage}, entry {step}: {ours} and not {theirs}"
    assert len(set(losses)) == len(losses)


def main() -> None:
    torch.set_num_threads(1)
    _, local_rank, world_size = distributed.read_environment()
    distributed.initialize(select_device(local_rank))
    for name in OPTIMIZERS:
        for stage in (1, 2, 3):
            check(name, stage, world_size, Path(sys.argv[2]) / f"{name}{stage}", sys.argv[3] == "first")
    print("equal")
    distributed.shutdown()


main()
