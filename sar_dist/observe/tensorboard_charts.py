"""The charts of TensorBoard's "Custom Scalars" tab: the story of a run on one page, from what it learns to how fast.

Each chart is a title and the tags that it draws together, as regular expressions.
"""

from __future__ import annotations

from sar_dist.observe.step_timer import MEASURED

CHARTS: dict[str, dict[str, list[str]]] = {
    "Learning": {
        "loss": [r"^train/loss$", r"^train/loss_cls$", r"^val/loss_cls$"],
        "top-1 (%)": [r"^val/top1$", r"^val_ema/top1$"],
    },
    "Spatial entropy (nats)": {
        "mean": [r"^train/loss_entropy$", r"^val/entropy$", r"^val_ema/entropy$"],
        "validation, by head": [r"^val/entropy_block\d+_head\d+$"],
        "components of a map": [r"^train/components$", r"^val/components$"],
        "components, by head": [r"^val/components_block\d+_head\d+$"],
    },
    "Optimization": {
        "learning rate": [r"^train/learning_rate$"],
        "weight of the entropy": [r"^train/entropy_weight$"],
        "gradient norm": [r"^train/gradient_norm$"],
        "skipped steps": [r"^train/skipped_steps$"],
    },
    "Speed": {
        "images per second": [r"^train/images_per_second$", r"^train/images_per_second_per_process$"],
        "shares of the time": [r"^train/data_wait_share$", r"^train/mfu$", r"^train/mfu_of_matmul$"],
        "seconds per step": [r"^train/step_seconds$"],
        "where the seconds of a step go": [rf"^step_seconds/{part}$" for part in MEASURED],
        "peak memory (GiB)": [r"^train/peak_memory_gib$"],
    },
}


def custom_scalars_layout() -> dict[str, dict[str, list[object]]]:
    """``CHARTS`` as ``SummaryWriter.add_custom_scalars`` wants it."""
    return {
        category: {title: ["Multiline", tags] for title, tags in charts.items()} for category, charts in CHARTS.items()
    }
