"""What shards are: tars with a manifest and an index; finding, checking, staging and reading them."""

from sar_dist.data.shards.checks import (
    check_shards,
    counted,
    labels_in,
    load_manifest,
    manifests_at,
    open_index,
    say_what_is_odd,
    shared_shards,
)
from sar_dist.data.shards.checksums import RECORD
from sar_dist.data.shards.copied import copied_shards
from sar_dist.data.shards.file_identity import identity_of_file
from sar_dist.data.shards.label_source import LABEL_EXTENSION, LABEL_MAX_BYTES, LabelSource
from sar_dist.data.shards.manifest import (
    MANIFEST_FORMAT,
    MANIFEST_NAME,
    TIMM_INFO_NAME,
    WRITING_STATE_NAME,
    Manifest,
    ShardEntry,
    Split,
    parse_manifest,
)
from sar_dist.data.shards.odd_members import held_instead
from sar_dist.data.shards.reading import LocalShards, ShardReader, Shards
from sar_dist.data.shards.remote import is_url
from sar_dist.data.shards.resizing import Resizing, describe, resizing_content
from sar_dist.data.shards.shard_index import IndexedRecords, ShardIndex, index_and_check, index_new_shards
from sar_dist.data.shards.shared_images import SharedImages, shared_images, some_of
from sar_dist.data.shards.staging import check_stage, check_stage_room, open_shards
from sar_dist.data.shards.tar_index import NO_IMAGE, NO_LABEL, IndexedShard, index_shard, parse_label
from sar_dist.data.shards.tar_members import BLOCK, DamagedShard, Member, key_of_member, split_key, walk_members
from sar_dist.data.shards.two_labels import LabelledSet, images_of_two_labels

__all__ = [
    "BLOCK",
    "LABEL_EXTENSION",
    "LABEL_MAX_BYTES",
    "MANIFEST_FORMAT",
    "MANIFEST_NAME",
    "NO_IMAGE",
    "NO_LABEL",
    "RECORD",
    "TIMM_INFO_NAME",
    "WRITING_STATE_NAME",
    "DamagedShard",
    "IndexedRecords",
    "IndexedShard",
    "LabelSource",
    "LabelledSet",
    "LocalShards",
    "Manifest",
    "Member",
    "Resizing",
    "ShardEntry",
    "ShardIndex",
    "ShardReader",
    "Shards",
    "SharedImages",
    "Split",
    "check_shards",
    "check_stage",
    "check_stage_room",
    "copied_shards",
    "counted",
    "describe",
    "held_instead",
    "identity_of_file",
    "images_of_two_labels",
    "index_and_check",
    "index_new_shards",
    "index_shard",
    "is_url",
    "key_of_member",
    "labels_in",
    "load_manifest",
    "manifests_at",
    "open_index",
    "open_shards",
    "parse_label",
    "parse_manifest",
    "resizing_content",
    "say_what_is_odd",
    "shared_images",
    "shared_shards",
    "some_of",
    "split_key",
    "walk_members",
]
