"""Using trained models: a model SPEC becomes a backbone, a task measures it, a result file says what was measured.

Reading order: ``task`` (what a task is), ``registry`` (which there are), ``runner`` (one task on one model), ``backbone``,
``samples``, ``features`` and ``resumable_training`` (what tasks are made of). See docs/evaluation.md.
"""

from typing import TYPE_CHECKING

from sar_dist.faces import lazy_face

if TYPE_CHECKING:
    from sar_dist.models import LoadedModel, load_model
    from sar_dist.transfer.backbone import MAX_PIXELS, Backbone, Transform, export_fingerprint
    from sar_dist.transfer.class_matching import MatchedSamples, match_classes, numbers_by_name
    from sar_dist.transfer.class_scores import TOP, ClassificationScores
    from sar_dist.transfer.features import Compute, Features, last_block_tokens, logits_of, similarity_of
    from sar_dist.transfer.file_states import digest_of_files
    from sar_dist.transfer.imagenet_words import WORDNET_ID, imagenet_synsets, places_of_words
    from sar_dist.transfer.orientation import (
        UPRIGHT,
        DrawnOn,
        OrientationSettings,
        exif_orientation,
        shown_size,
        turn_to_box,
        turn_to_map,
        turned,
        turned_back,
    )
    from sar_dist.transfer.registry import TASKS, described, find_task
    from sar_dist.transfer.relabelled import RelabelledSamples, any_label
    from sar_dist.transfer.result import RESULT_FILE, Result, read_result
    from sar_dist.transfer.resumable_training import ResumableTraining, train_resumably
    from sar_dist.transfer.runner import Request, evaluate, print_result
    from sar_dist.transfer.samples import (
        LabelledImages,
        SampleSet,
        SelectedSamples,
        ShardSamples,
        SourceSamples,
        image_of,
        limited,
        open_both_splits,
        open_labelled_samples,
        open_shard_samples,
    )
    from sar_dist.transfer.task import Outcome, Prepared, PreparedSplit, TransferJob, TransferSettings, TransferTask
else:
    __getattr__ = lazy_face(
        __name__,
        {
            "..models": "LoadedModel load_model",
            ".backbone": "MAX_PIXELS Backbone Transform export_fingerprint",
            ".class_matching": "MatchedSamples match_classes numbers_by_name",
            ".class_scores": "TOP ClassificationScores",
            ".features": "Compute Features last_block_tokens logits_of similarity_of",
            ".file_states": "digest_of_files",
            ".imagenet_words": "WORDNET_ID imagenet_synsets places_of_words",
            ".orientation": "UPRIGHT DrawnOn OrientationSettings exif_orientation shown_size turn_to_box turn_to_map turned turned_back",
            ".registry": "TASKS described find_task",
            ".relabelled": "RelabelledSamples any_label",
            ".result": "RESULT_FILE Result read_result",
            ".resumable_training": "ResumableTraining train_resumably",
            ".runner": "Request evaluate print_result",
            ".samples": "LabelledImages SampleSet SelectedSamples ShardSamples SourceSamples image_of limited open_both_splits open_labelled_samples open_shard_samples",
            ".task": "Outcome Prepared PreparedSplit TransferJob TransferSettings TransferTask",
        },
    )

__all__ = [
    "MAX_PIXELS",
    "RESULT_FILE",
    "TASKS",
    "TOP",
    "UPRIGHT",
    "WORDNET_ID",
    "Backbone",
    "ClassificationScores",
    "Compute",
    "DrawnOn",
    "Features",
    "LabelledImages",
    "LoadedModel",
    "MatchedSamples",
    "OrientationSettings",
    "Outcome",
    "Prepared",
    "PreparedSplit",
    "RelabelledSamples",
    "Request",
    "Result",
    "ResumableTraining",
    "SampleSet",
    "SelectedSamples",
    "ShardSamples",
    "SourceSamples",
    "TransferJob",
    "TransferSettings",
    "TransferTask",
    "Transform",
    "any_label",
    "described",
    "digest_of_files",
    "evaluate",
    "exif_orientation",
    "export_fingerprint",
    "find_task",
    "image_of",
    "imagenet_synsets",
    "last_block_tokens",
    "limited",
    "load_model",
    "logits_of",
    "match_classes",
    "numbers_by_name",
    "open_both_splits",
    "open_labelled_samples",
    "open_shard_samples",
    "places_of_words",
    "print_result",
    "read_result",
    "shown_size",
    "similarity_of",
    "train_resumably",
    "turn_to_box",
    "turn_to_map",
    "turned",
    "turned_back",
]
