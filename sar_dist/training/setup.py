"""Puts a run together: checks, process group, model, engine, data, logger, trainer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch

from sar_dist import distributed
from sar_dist.checkpoint import CheckpointStore
from sar_dist.config import DataSettings, ImageSize, RunConfig, height_and_width
from sar_dist.data import (
    Manifest,
    SizedTransforms,
    TrainingSet,
    TrainLoader,
    TrainSizes,
    ValidationLoader,
    decoder_problem,
    device_batches,
    with_workers,
)
from sar_dist.data.images import (
    EncodedTrainTransform,
    FastTrainTransform,
    build_eval_transform,
    build_operation_draw,
    build_train_transform,
    canvas_of,
)
from sar_dist.devices import find_device, use_deterministic_kernels
from sar_dist.engine import ExponentialMovingAverage, build_engine, compile_problem, total_steps
from sar_dist.errors import UserError
from sar_dist.models import TappedVisionTransformer, build_model, load_initial_weights, model_on_meta
from sar_dist.observe import DevicePeak, FlopReport, RunLogger, Throughput, count_flops, find_peak, set_quantities
from sar_dist.output import warn
from sar_dist.regularizer import find_backend_problem
from sar_dist.terms import term_costs
from sar_dist.training.averages import RunningAverages
from sar_dist.training.branching import starting_point
from sar_dist.training.checkpointing import Checkpointing
from sar_dist.training.checks import CheckedRun, check_run
from sar_dist.training.images_by_set import ImagesBySet, describe_sets
from sar_dist.training.length import RunLength
from sar_dist.training.loader_stages import measure_stages
from sar_dist.training.records import continue_records
from sar_dist.training.reporting import DataAdvice
from sar_dist.training.run_directory import RunDirectory
from sar_dist.training.task import ClassificationTask
from sar_dist.training.trainer import Trainer


def build_trainer(config: RunConfig) -> Trainer:
    """Check everything, join the process group and build this process's trainer.

    Raises:
        UserError: something the user gave is wrong; found before any process waits for another.
    """
    rank, local_rank, world_size = distributed.read_environment()
    device, checked = distributed.together(lambda: check_here(config, local_rank, world_size))
    config = checked.config
    distributed.initialize(device, stall_minutes=config.guard.stall_minutes)
    try_out(config, device)
    distributed.main_first(lambda: checked.directory.open(config))

    data = divide_cores(config, device)
    train_loader, val_loader = build_loaders(config, data, checked, rank, world_size)
    length = RunLength(config, train_loader.steps_per_epoch)
    store = open_store(config, checked.directory, length)
    classes = checked.train[0].manifest.classes or checked.val.classes
    saved, state = starting_point(config, store, length, train_loader, val_loader, classes)
    distributed.main_first(lambda: checked.directory.create(config, world_size, device))
    # Workers are forked here, before the model takes memory of which each write would leave them an old copy.
    first = state.step if state.settled else state.step - 1  # pictures that are still due show samples of that step
    batches = device_batches(train_loader, first, length.last_step, device)
    val_loader.start()

    model = build_run_model(config)
    report = load_initial_weights(model.vit, config.model) if saved is None else None
    grid, flops, by_side = model.grid, count_flops_of(config), flops_by_side(config)
    engine = build_engine(config, model, world_size=world_size, steps_per_epoch=length.steps_per_epoch)
    ema = ExponentialMovingAverage(engine, config.optim.ema) if config.optim.ema else None

    task = ClassificationTask(config, grid, engine.device)
    task.prepare(engine.module)
    logger = open_logger(checked, length, task, rank)
    recorded = config.model_dump(mode="json")
    distributed.main_first(lambda: continue_records(checked.directory, logger, recorded, saved, state, length))
    announce(checked, logger, flops, data.workers or 0, report)
    peak = find_peak(device) if rank == 0 else None
    log_hardware(logger, state.step, mean_flops(config, by_side), peak)
    averages = RunningAverages(engine.device)
    checkpointing = Checkpointing(store, engine, ema, train_loader, averages, logger.message, recorded, classes)
    if saved is not None:
        checkpointing.resume(saved)
    return Trainer(
        config,
        engine=engine,
        task=task,
        batches=batches,
        advice=DataAdvice(lambda: measure_stages(config, train_loader, device, batch=state.step)),
        accumulation=train_loader.accumulation,
        val_loader=val_loader,
        length=length,
        state=state,
        averages=averages,
        ema=ema,
        checkpointing=checkpointing,
        directory=checked.directory,
        logger=logger,
        images_by_set=ImagesBySet([each.name for each in checked.train], engine.device),
        throughput=open_throughput(config, by_side, device, peak, world_size),
    )


def check_here(config: RunConfig, local_rank: int, world_size: int) -> tuple[torch.device, CheckedRun]:
    """This process's device, on which nothing is started yet, and what the checks found.

    Raises:
        UserError: something is wrong on this process's node.
    """
    device = find_device(local_rank)
    if config.run.deterministic:
        use_deterministic_kernels()
    return device, check_run(RunDirectory(config).settled(config, device), device, world_size)


def try_out(config: RunConfig, device: torch.device) -> None:
    """Run what may not work on this machine once, in small. Call on every process. Raises UserError."""
    check_kernels(config.regularizer.backend, device)
    if config.engine.compile:
        check_compiler(device)
    if config.data.decoder == "gpu":
        check_hardware_decoder(device)


def check_kernels(backend: str, device: torch.device) -> None:
    """Launch the regularizer's kernels once where they would be used. Call on every process.

    Raises:
        UserError: ``backend`` does not run on some process; with "auto", which takes a slower one, this is a warning.
    """
    problems = enumerate(distributed.gather_objects(find_backend_problem(backend, device)))
    found = [f"{problem} (rank {rank})" for rank, problem in problems if problem is not None]
    if not found:
        return
    remedy = "Triton needs a C compiler and Python's headers (Debian: gcc, python3-dev)"
    if backend != "auto":
        needs = f"{remedy}, or set" if device.type == "cuda" and backend == "triton" else "set"
        raise UserError(f"regularizer.backend={backend} does not run: {found[0]}; {needs} regularizer.backend=auto")
    if distributed.is_main():
        warn(f"warning: the spatial entropy takes the slower torch backend: {found[0]}; {remedy}")


def check_compiler(device: torch.device) -> None:
    """Compile one operation where the model's blocks would be. Call on every process.

    Raises:
        UserError: it does not work on some process.
    """
    for rank, problem in enumerate(distributed.gather_objects(compile_problem(device))):
        if problem is not None:
            needs = "Triton, a C compiler and Python's headers" if device.type == "cuda" else "a C++ compiler"
            raise UserError(
                f"engine.compile=true does not work on rank {rank}: {problem}; it needs {needs} (Debian: g++, "
                "python3-dev); or set engine.compile=false"
            )


def check_hardware_decoder(device: torch.device) -> None:
    """Decode a small image on the device. Call on every process.

    Raises:
        UserError: it does not work on some process.
    """
    for rank, problem in enumerate(distributed.gather_objects(decoder_problem(device))):
        if problem is not None:
            raise UserError(
                f"data.decoder=gpu does not work on rank {rank}: {problem}; it needs a torchvision that is built with nvJPEG; "
                "or set data.decoder=cpu"
            )


def divide_cores(config: RunConfig, device: torch.device) -> DataSettings:
    """The data settings with a number of workers. Call on every process.

    An offloaded optimizer computes on the host, while the workers' batches wait: it may use every core of this process,
    of which a launcher leaves PyTorch one.
    """
    if config.engine.offload != "none" and device.type == "cuda":
        torch.set_num_threads(distributed.own_cores())
    return with_workers(config.data)


def describe_processes(workers: int) -> str:
    """How many processes train, and with how many data workers each. Call on every process."""
    counts = sorted(set(distributed.gather_objects(workers)))
    world_size = distributed.world_size()
    numbers = "-".join(dict.fromkeys((str(counts[0]), str(counts[-1]))))
    plural, each = ("es", " each") if world_size > 1 else ("", "")
    return f"{world_size} process{plural}, {numbers} data worker{'' if counts == [1] else 's'}{each}"


def announce(checked: CheckedRun, logger: RunLogger, flops: FlopReport, workers: int, report: object | None) -> None:
    """Say what is trained, on how many processes, from which weights and data. Call on every process."""
    logger.message(f"{checked.config.run.name}: {flops.summary()}; {describe_processes(workers)}")
    if report is not None:
        logger.message(str(report))
    for line in describe_sets(checked.train, checked.config.data.epoch_samples):
        logger.message(line)


def open_logger(checked: CheckedRun, length: RunLength, task: ClassificationTask, rank: int) -> RunLogger:
    """The run's logger, which writes on the main process alone."""
    config = checked.config
    return RunLogger(
        checked.directory.path,
        enabled=rank == 0,
        total_steps=length.last_step,
        description=config.run.name,
        quantities=(*task.quantities, *set_quantities([each.name for each in checked.train])),
        to=config.log.to,
        project=config.log.project,
    )


def build_run_model(config: RunConfig) -> TappedVisionTransformer:
    """The run's model with its random weights, the same on every process."""
    torch.manual_seed(config.run.seed)
    return build_model(
        config.model,
        config.regularizer,
        activation_checkpointing=config.engine.activation_checkpointing,
        seed=config.run.seed,
    )


def open_store(config: RunConfig, directory: RunDirectory, length: RunLength) -> CheckpointStore:
    """The run's checkpoints, cleared of what a crash left half written. Call on every process."""
    keep_every = config.checkpoint.keep_every
    store = CheckpointStore(
        directory.checkpoints,
        keep_last=config.checkpoint.keep_last,
        keep_every=None if keep_every is None else length.steps(keep_every),
        before=directory.sync_records,
        mark=directory.path,
    )
    store.prepare()
    return store


def count_flops_of(config: RunConfig) -> FlopReport:
    """Count the model's operations on one image, without its weights, which ZeRO may have sharded away."""
    model = model_on_meta(config.model, config.regularizer)
    images = torch.empty(1, 3, *height_and_width(config.model.image_size), device="meta")
    report = count_flops(model, (images,))
    shares = model.computed_shares(config.engine.micro_batch)
    skipped = sum(
        (1 - share) * report.macs_by_module[f"vit.blocks.{block}"] for block, share in enumerate(shares) if share < 1
    )
    return replace(report, skipped_macs=skipped)


def training_flops_of(config: RunConfig, model: FlopReport) -> float:
    """FLOPs that training needs for one image: forward and backward of the model and of its terms."""
    return model.training_flops + term_costs(config, model_on_meta(config.model, config.regularizer)).total_flops


def at_each_size(config: RunConfig) -> dict[int, RunConfig]:
    """For each width of training images the run as it would be at that size alone."""
    sizes: set[ImageSize] = set(config.model.train_sizes or (config.model.image_size,))
    return {
        height_and_width(size)[1]: config.vary({"model.image_size": size, "model.train_sizes": None}) for size in sizes
    }


def flops_by_side(config: RunConfig) -> dict[int, float]:
    """FLOPs that training needs for one image, by the width of the images that it sees."""
    variants = at_each_size(config).items()
    return {side: training_flops_of(variant, count_flops_of(variant)) for side, variant in variants}


def mean_flops(config: RunConfig, by_side: Mapping[int, float]) -> float:
    """FLOPs for one image on average over training, whatever the order of the sizes."""
    sides = config.model.train_sizes or tuple(by_side)
    return sum(by_side[side] for side in sides) / len(sides)


def open_throughput(
    config: RunConfig, by_side: Mapping[int, float], device: torch.device, peak: DevicePeak | None, world_size: int
) -> Throughput:
    """Counts images and, for each size of them, operations."""
    flops = by_side if config.model.train_sizes else mean_flops(config, by_side)
    return Throughput(config.optim.global_batch, flops, device, peak=peak, world_size=world_size)


def log_hardware(logger: RunLogger, step: int, training_flops: float, peak: DevicePeak | None) -> None:
    """Record what the utilisation is computed from, so that it can be checked from the log alone."""
    if peak is None:
        return
    logger.message(str(peak))
    values = {"training_gflops_per_image": training_flops / 1e9}
    if peak.flops is not None:
        values["peak_tflops"] = peak.flops / 1e12
    logger.metrics(step, values, prefix="hardware")


def build_loaders(
    config: RunConfig, data: DataSettings, checked: CheckedRun, rank: int, world_size: int
) -> tuple[TrainLoader, ValidationLoader]:
    """The training stream and the validation set of this process; ``data`` holds the number of workers here."""
    size, max_pixels = config.model.image_size, config.data.max_pixels
    val_loader = ValidationLoader(
        checked.val,
        data=data,
        transform=build_eval_transform(config.augment, size, max_pixels),
        micro_batch=validation_batch(config, checked.val.total, world_size),
        rank=rank,
        world_size=world_size,
        num_classes=config.model.num_classes,
    )
    return build_train_loader(config, data, checked.train, rank, world_size), val_loader


def validation_batch(config: RunConfig, total: int, world_size: int) -> int:
    """Images of a validation batch: no more than a process has of the ``total``, as the rest of a batch is padding.

    A batch as large as those of training stays, since a compiled model is compiled for that size already.
    """
    wanted = config.validation.micro_batch or config.engine.micro_batch
    return min(wanted, max(config.engine.micro_batch, -(-total // world_size)))


def build_train_loader(
    config: RunConfig, data: DataSettings, sets: Manifest | Sequence[TrainingSet], rank: int, world_size: int
) -> TrainLoader:
    """The training stream of this process."""
    size, augment = config.model.image_size, config.augment
    on_device, decoder = augment.where == "device", config.data.decoder
    sizes, schedule = config.model.train_sizes, config.model.train_size_schedule
    samples = sets.total if isinstance(sets, Manifest) else sum(each.manifest.total for each in sets)
    transform = build_train_transform(augment, size, config.data.max_pixels)
    encoded = None
    if decoder == "gpu":
        assert isinstance(transform, FastTrainTransform)
        encoded = EncodedTrainTransform(transform)
    return TrainLoader(
        sets,
        data=data,
        transform=encoded or transform,
        global_batch=config.optim.global_batch,
        micro_batch=config.engine.micro_batch,
        rank=rank,
        world_size=world_size,
        seed=config.run.seed,
        num_classes=config.model.num_classes,
        # crop_mode is of validation alone; runs from before it, and from before the device augmented, have none.
        fingerprint_extra={
            "image_size": size if isinstance(size, int) else list(size),
            "augment": augment.model_dump(mode="json", exclude={"crop_mode"} if on_device else {"crop_mode", "where"}),
            **({} if sizes is None else {"train_sizes": list(sizes), "train_size_schedule": schedule}),
            # A GPU's decoder gives other pixels than libjpeg.
            **({} if decoder == "cpu" else {"decoder": decoder}),
        },
        later=(build_operation_draw(augment, size), canvas_of(augment)) if on_device else None,
        sized=sized_transforms(config, samples),
    )


def sized_transforms(config: RunConfig, samples: int) -> SizedTransforms | None:
    """What the loader makes of images where their size depends on the step; None where all have one size.

    Args:
        config: the run.
        samples: of all training sets.
    """
    model, augment = config.model, config.augment
    if model.train_sizes is None:
        return None
    steps = total_steps(config.optim, (config.data.epoch_samples or samples) // config.optim.global_batch)
    views = {
        side: (
            build_train_transform(augment, side, config.data.max_pixels),
            build_operation_draw(augment, side) if augment.where == "device" else None,
        )
        for side in model.train_sizes
    }
    return SizedTransforms(TrainSizes(model.train_sizes, model.train_size_schedule, config.run.seed, steps), views)
