"""What a shard's members may show that its author did not have in mind, though nothing of it is damage."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from sar_dist.data.layout import IMAGE_EXTENSIONS, format_of_image, is_image_name, is_unread_image
from sar_dist.data.shards.tar_index import IndexedShard
from sar_dist.errors import shortened

_SHOWN_EXTENSIONS = 8
_SIGNATURE_BYTES = 32


def odd_members(shards: Sequence[IndexedShard]) -> Iterator[str]:
    """One line for each kind of it, with how often it is there and the first place."""
    passed_over = [(shard.passed_over, shard.name) for shard in shards if shard.passed_over[0]]
    if passed_over:
        count, name = sum(number for (number, _), _ in passed_over), passed_over[0][0][1]
        yield f"left out {count} members that belong to no sample, such as {name!r} in {passed_over[0][1]}"
    joined = [(shard.joined, shard.name) for shard in shards if shard.joined[0]]
    if joined:
        count, name = sum(number for (number, _), _ in joined), joined[0][0][1]
        yield (
            f"{count} images such as {name!r} in {joined[0][1]} belong to a sample that has another image "
            "already, and are not used: a key ends at the first dot of a name"
        )
    if second := _second_images(shards):
        yield second
    scattered = [shard.name for shard in shards if shard.scattered]
    if scattered:
        yield (
            f"in {len(scattered)} shards such as {scattered[0]} the members of a sample do not follow each "
            "other; they were put together by key"
        )


def held_instead(members: Mapping[str, bytes]) -> str:
    """What a sample without an image holds, by the members' extensions, and what to do about it."""
    for extension, data in members.items():
        found = format_of_image(data[:_SIGNATURE_BYTES])
        if is_unread_image(f".{extension}") or (found is not None and found not in IMAGE_EXTENSIONS):
            return f"an image as .{extension}, which is not read: convert such images to JPEG or PNG"
        if not data and is_image_name(f".{extension}"):
            return f"an image of 0 bytes as .{extension}: restore it, or take it out"
        if found is not None and extension not in IMAGE_EXTENSIONS:
            return f"an image as .{extension}: give such members the ending of their format, .{found}"
    return f"only {shortened(', '.join(f'.{extension}' for extension in members), 60)}"


def _second_images(shards: Sequence[IndexedShard]) -> str | None:
    found = [shard for shard in shards if shard.second.images]
    if not found:
        return None
    first, alone = found[0], [shard.second for shard in found if shard.second.alone]
    line = (
        f"{sum(shard.second.images for shard in found)} images such as {first.second.unused!r} in {first.name} are not used, for "
        f"their sample has another, {first.second.used!r}: the first of {', '.join(IMAGE_EXTENSIONS[:_SHOWN_EXTENSIONS])} and so "
        "on is a sample's image; rename what is a map to KEY.mask.png, and what is another image to a key of its own"
    )
    if alone:
        count = sum(second.alone for second in alone)
        line += f"; in {count} other samples of these shards such a file is the image, such as {alone[0].first_alone!r}"
    return line
