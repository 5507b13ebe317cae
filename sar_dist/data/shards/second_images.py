"""Images in a tar that are not used because their sample has another one: how many, and which to name.

Under a name of its own (``a.mask.png``) an image is a companion and no fault where most samples have one; ``a.2.jpg`` is a
photograph that a dot in its name has put into another's sample. Under the plain name of another format (``a.png`` beside
``a.jpg``) it may be a map, or another photograph of that name, which only the author of the shards can tell.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from sar_dist.data.layout import IMAGE_EXTENSIONS, image_member, is_image_name


class SecondImages(NamedTuple):
    """Images of a shard with the plain name of a sample that has another image.

    ``images`` of them are not used; the first is ``unused``, for whose sample ``used`` is taken. The image of ``alone``
    samples is of a kind that others have and do not use; ``first_alone`` is the first of these.
    """

    images: int = 0
    used: str = ""
    unused: str = ""
    alone: int = 0
    first_alone: str = ""


def second_images(samples: Mapping[str, Sequence[str]]) -> SecondImages:
    """What to say of the images besides the one of each sample; ``samples`` are the extensions of each key's members."""
    chosen: dict[str, str] = {}
    unused: list[tuple[str, str]] = []
    for key, extensions in samples.items():
        image = image_member(extensions)
        if image is not None:
            chosen[key] = image
            unused += [(key, name) for name in extensions if name in IMAGE_EXTENSIONS and name != image]
    if not unused:
        return SecondImages()
    key, extension = unused[0]
    kinds = {name for _, name in unused}
    alone = [f"{other}.{name}" for other, name in chosen.items() if name in kinds]
    first_alone = alone[0] if alone else ""
    return SecondImages(len(unused), f"{key}.{chosen[key]}", f"{key}.{extension}", len(alone), first_alone)


def joined_images(samples: Mapping[str, Sequence[str]]) -> tuple[int, str]:
    """How many images a dot in their name has put into another's sample, such as a.2.jpg beside a.jpg; and the first.

    Their names are no other sample's, or begin with a number.
    """
    count = Counter(name for extensions in samples.values() for name in extensions if "." in name)
    found = [
        f"{key}.{name}"
        for key, extensions in samples.items()
        for name in extensions
        if "." in name and is_image_name(name) and (name[0].isdigit() or (count[name] == 1 and len(samples) > 1))
    ]
    return len(found), found[0] if found else ""
