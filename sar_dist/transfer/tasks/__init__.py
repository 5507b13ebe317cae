"""The transfer tasks, a module or a folder each. ``sar_dist.transfer.registry`` names them."""

from sar_dist.transfer.tasks.classification import describe_eval_transform, top_classes

__all__ = ["describe_eval_transform", "top_classes"]
