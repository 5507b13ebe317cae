"""A ``TrainingPlan`` as tables for people."""

from __future__ import annotations

from collections.abc import Iterator

from rich.table import Table

from sar_dist.machine import FRAGMENTATION, GIB, RESERVED_BYTES
from sar_dist.planning.cost import RESIZED_TO
from sar_dist.planning.memory import PARTS
from sar_dist.planning.plan import Setting, TrainingPlan

# Narrow headers, so that the table fits into a terminal.
_HEADERS = {
    "gradients": "gradi-\nents",
    "optimizer": "opti-\nmizer",
    "average": "aver-\nage",
    "buckets": "buck-\nets",
    "activations": "activ-\nations",
    "temporary": "tempo-\nrary",
}
TABLE_WIDTH = 118


def plan_tables(plan: TrainingPlan) -> Iterator[Table | str]:
    """Batch and time, memory of every setting, communication, and the conclusions, in the order of reading."""
    yield _summary(plan)
    yield _memory(plan)
    yield _communication(plan)
    yield from _conclusions(plan)


def _summary(plan: TrainingPlan) -> Table:
    machine, cost, batch, loader = plan.machine, plan.cost, plan.batch, plan.loader
    table = Table(title=f"{plan.config.run.name}: {plan.config.model.name}", title_justify="left", show_header=False)
    table.add_column(no_wrap=True)
    table.add_column()
    table.add_row("model", f"{plan.shape.parameters / 1e6:.1f} M parameters, {plan.shape.forward_macs / 1e9:.2f} GMACs")
    for name, flops in plan.shape.terms.flops.items():
        share = flops / (plan.shape.training_flops - plan.shape.terms.total_flops)
        table.add_row(name.replace("_", " "), f"{flops / 1e9:.3g} GFLOPs an image, {share:.2%} of the model's")
    table.add_row(
        "batch",
        f"{batch.global_batch} = {batch.micro_batch} images x {batch.accumulation} accumulated x {batch.world_size} GPUs",
    )
    table.add_row(
        "training set",
        f"{plan.train_images:,} images, {cost.steps_per_epoch} steps an epoch, {cost.total_steps:,} in all",
    )
    table.add_row(
        "speed",
        f"{cost.images_per_second:,.0f} img/s, {cost.step_seconds:.3f} s a step at {machine.mfu:.0%} of "
        f"{machine.peak_tflops:g} TFLOP/s a GPU",
    )
    price = "" if cost.price is None else f", price {cost.price:,.0f}"
    table.add_row("time", f"{cost.hours / 24:.2f} days ({cost.hours:.1f} h), {cost.gpu_hours:,.0f} GPU hours{price}")
    table.add_row(
        "loader",
        f"{loader.cores_per_gpu:.1f} cores a GPU, {loader.cores_per_node:.1f} a node, for "
        f"{loader.images_per_second_per_gpu:,.0f} img/s a GPU at {loader.images_per_core:.0f} img/s a core "
        f"({loader.augmentation}); {loader.cores_per_node_resized:.1f} a node on images resized to {RESIZED_TO} px",
    )
    return table


def _memory(plan: TrainingPlan) -> Table:
    table = Table(
        title=f"GiB on one of {plan.machine.world_size} GPUs at the peak of a step (* configured)", title_justify="left"
    )
    for name in ("ZeRO", "offload", "check-\npoints"):
        table.add_column(name, no_wrap=True)
    for name in (*(_HEADERS.get(part, part) for part in PARTS), "peak", "host"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("fits", no_wrap=True)
    for setting in plan.settings:
        memory = setting.memory
        parts = memory.moments[memory.peak_moment]
        cells = [*(parts[part] for part in PARTS), memory.peak, memory.host_total]
        table.add_row(*_name(setting), *map(_gib, cells), "yes" if setting.fits else "no")
    return table


def _communication(plan: TrainingPlan) -> Table:
    table = Table(title="sent by each GPU in a step, if nothing is hidden behind computation", title_justify="left")
    table.add_column("ZeRO", no_wrap=True)
    exchanges = any(setting.communication.matrices for setting in plan.settings)
    for name in ("gradients GB", "weights GB", *(["matrices GB"] if exchanges else []), "ms", "share of a step %"):
        table.add_column(name, justify="right", no_wrap=True)
    for setting in plan.settings:
        if setting.offload != "none" or setting.checkpointing:
            continue  # neither changes what the processes send to each other
        sent = setting.communication
        share = 100 * sent.seconds / plan.cost.step_seconds
        matrices = [sent.matrices / 1e9] if exchanges else []
        figures = (sent.gradients / 1e9, sent.weights / 1e9, *matrices, 1e3 * sent.seconds, share)
        table.add_row(str(setting.zero_stage), *(f"{figure:.2f}" for figure in figures))
    return table


def _conclusions(plan: TrainingPlan) -> Iterator[str]:
    usable, chosen = plan.machine.usable_memory, plan.chosen
    yield (
        f"usable: {_gib(usable)} of {plan.machine.gpu_memory:g} GiB ({_gib(RESERVED_BYTES)} GiB for the driver and "
        f"communication and {FRAGMENTATION:.0%} for fragmentation are assumed)"
    )
    verdict = "fits" if chosen.fits else "does NOT fit"
    yield f"the configured setting {verdict}: {_gib(chosen.memory.peak)} GiB when {chosen.memory.peak_moment}"
    fastest = plan.fastest
    if fastest is None:
        yield "no setting fits; use a smaller engine.micro_batch, or more GPUs with engine.zero_stage=2 or 3"
    elif fastest.configured:
        yield "no setting with this micro-batch that fits should be faster"
    else:
        time = f" (steps {fastest.slowdown:.2f} times as long)" if fastest.slowdown != 1 else ""
        yield (
            f"{'faster and fits' if chosen.fits else 'use'}: engine.zero_stage={fastest.zero_stage} "
            f"engine.offload={fastest.offload} engine.activation_checkpointing={str(fastest.checkpointing).lower()}{time}"
        )
    largest = plan.largest_micro_batch
    if largest is not None:
        yield f"largest micro-batch that fits the configured setting: {largest} (configured: {plan.batch.micro_batch})"


def _name(setting: Setting) -> tuple[str, str, str]:
    mark = "*" if setting.configured else ""
    return f"{setting.zero_stage}{mark}", setting.offload, "yes" if setting.checkpointing else "no"


def _gib(size: float) -> str:
    return f"{size / GIB:.2f}"
