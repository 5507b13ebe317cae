"""How a data set's layout is recognised, in one place for all readers: splits, classes, image formats, left-over files."""

from sar_dist.data.layout.classes import CLASSES_NAME, ClassFolder, ClassTable, class_folders, class_table_content, named_classes, order_remark, parse_label_words, read_class_table, read_label_words, sort_classes
from sar_dist.data.layout.formats import (
    IMAGE_EXTENSIONS,
    PILLOW_FORMATS,
    compression,
    how_to_unpack,
    is_compressed_tar,
    image_member,
    is_image_name,
    is_left_over,
    is_sample_member,
    member_extension,
)
from sar_dist.data.layout.splits import (
    SPLIT_NAMES,
    Split,
    SplitChoice,
    parse_split_choice,
    split_folders,
    split_of_word,
    splits_by_name,
)

__all__ = ["CLASSES_NAME", "IMAGE_EXTENSIONS", "PILLOW_FORMATS", "SPLIT_NAMES", "ClassFolder", "ClassTable", "Split", "SplitChoice", "class_folders", "class_table_content", "compression", "how_to_unpack", "image_member", "is_compressed_tar", "is_image_name", "is_left_over", "is_sample_member", "member_extension", "named_classes", "order_remark", "parse_label_words", "parse_split_choice", "read_class_table", "read_label_words", "sort_classes", "split_folders", "split_of_word", "splits_by_name"]
