"""Semantic segmentation with a trained backbone: ADE20K (or any set in its layout) and Pascal VOC.

Reading order: ``tasks`` (what happens), ``settings`` (the protocol's numbers), ``samples`` and ``transforms`` (what the
model is fed), ``model`` and ``heads``, ``training``, then ``sliding_window``, ``metrics`` and ``evaluation``. See
docs/evaluation_segmentation.md.
"""

from sar_dist.transfer.tasks.segmentation.samples import (
    VOID,
    check_class_count,
    check_labels,
    decode_labels,
    has_voc_labels,
)

__all__ = ["VOID", "check_class_count", "check_labels", "decode_labels", "has_voc_labels"]
