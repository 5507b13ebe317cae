"""What a run says about itself: the progress line, the line after a validation, the last words."""

from __future__ import annotations

from collections.abc import Mapping

from sar_dist.training.profiling import time_shares
from sar_dist.training.run_directory import RunDirectory
from sar_dist.training.state import TrainState


def progress_values(metrics: Mapping[str, float], step_seconds: Mapping[str, float]) -> dict[str, str | float]:
    """The few of an interval's metrics, and of the parts of a step's time, that belong into the progress line."""
    shown: dict[str, str | float] = {
        "loss": metrics["loss"],
        "img/s": metrics["images_per_second"],
        "data wait": f"{metrics['data_wait_share']:.0%}",
    }
    if "loss_entropy" in metrics:
        shown["entropy"] = metrics["loss_entropy"]
    if "mfu" in metrics:
        shown["MFU"] = f"{metrics['mfu']:.1%}"
    if "mfu_of_matmul" in metrics:
        shown["MFU (of matmul)"] = f"{metrics['mfu_of_matmul']:.1%}"
    if step_seconds:
        shown["time:"] = time_shares(step_seconds)
    return shown


def validation_line(step: int, live: Mapping[str, float], average: Mapping[str, float] | None) -> str:
    """One line for a validation of the live weights and, where there is one, of their moving average."""
    averaged = "" if average is None else f" (average {average['top1']:.2f} %)"
    bad = f", {live['bad_images']:.0f} of them unreadable and counted as wrong" if live["bad_images"] else ""
    return (
        f"step {step}: validation top-1 {live['top1']:.2f} %{averaged}, entropy {live['entropy']:.4f}, "
        f"{live['images']:.0f} images{bad}"
    )


def closing_lines(state: TrainState, skipped_steps: int, directory: RunDirectory) -> list[str]:
    """The end of a finished run: its result, what was skipped, and where everything is."""
    bad_list = f" (listed in {directory.bad_images})" if state.bad_images else ""
    return [
        f"finished {state.step} steps, {state.images} images; best top-1 {state.best_top1:.2f} % after step {state.best_step}",
        f"  replaced images   {state.bad_images}{bad_list}",
        f"  skipped steps     {skipped_steps}",
        f"  metrics           {directory.metrics}",
        f"  TensorBoard       tensorboard --logdir {directory.tensorboard}",
        f"  checkpoints       {directory.checkpoints}",
        f"  attention figures {directory.figures}",
    ]
