"""Which files and members are images, which are leftovers of other programs, and which archives are compressed.

One list of image formats serves folders, tables, tars and the decoder: what decoding can read is an image wherever it is
found, and nothing else is.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from sar_dist.errors import shortened

# Formats that Pillow may try, with the extensions under which it knows them. Not all that it knows: for EPS it would run
# Ghostscript on the bytes. The order decides which member of a sample with several images is its image.
_FORMATS: dict[str, tuple[str, ...]] = {
    "JPEG": ("jpg", "jpeg", "jpe", "jfif"),
    "PNG": ("png", "apng"),
    "WEBP": ("webp",),
    "BMP": ("bmp",),
    "GIF": ("gif",),
    "TIFF": ("tif", "tiff"),
    "PPM": ("ppm", "pgm", "pbm", "pnm", "pfm"),
    "AVIF": ("avif", "avifs"),
    "JPEG2000": ("jp2", "j2k", "jpc", "jpf", "jpx", "j2c"),
}
PILLOW_FORMATS = tuple(_FORMATS)
IMAGE_EXTENSIONS = tuple(extension for extensions in _FORMATS.values() for extension in extensions)
# Images that nothing here reads, as cameras and telephones write them: they are no images, but their owner takes them for such.
_UNREAD_EXTENSIONS = frozenset(
    {"heic", "heif", "hif", "jxl", "dng", "cr2", "cr3", "nef", "arw", "orf", "rw2", "raf", "tga", "dcm"}
)

# Folders that operating systems and storage boxes leave behind; files in them may be called like images.
_LEFT_OVER_FOLDERS = frozenset(
    {"__macosx", "@eadir", "$recycle.bin", "system volume information", "lost+found"}
    | {"#recycle", "@recycle", "#snapshot", "@recently-snapshot", "@tmp", "@sharebin"}
)
# Files of the same kind, and what people put beside data to describe them.
_LEFT_OVER_FILES = frozenset({"thumbs.db", "ehthumbs.db", "desktop.ini"})
_DOCUMENTS = frozenset({"readme", "license", "licence", "copying", "citation"})

_COMPRESSIONS: tuple[tuple[bytes, str, str], ...] = (
    (b"\x1f\x8b", "gzip", "gunzip"),
    (b"\x1f\x9d", "compress", "uncompress"),
    (b"BZh", "bzip2", "bunzip2"),
    (b"\xfd7zXZ\0", "xz", "unxz"),
    (b"\x28\xb5\x2f\xfd", "zstd", "unzstd"),
    (b"\x04\x22\x4d\x18", "lz4", "unlz4"),
    (b"]\0\0", "lzma", "unlzma"),
)
# How files of the image formats begin, with the extension that says the format.
_SIGNATURES = (
    (b"\xff\xd8", "jpg"),
    (b"\x89PNG", "png"),
    (b"GIF8", "gif"),
    (b"BM", "bmp"),
    (b"II*\0", "tif"),
    (b"MM\0*", "tif"),
    (b"\0\0\0\x0cjP  ", "jp2"),
    (b"\xff\x4f\xff\x51", "j2k"),
)
_PORTABLE = re.compile(rb"P(?:([14])|([25])|([36])|([Ff]))[\s#]")
_BRANDS = {b"avif": "avif", b"avis": "avif", b"heic": "heic", b"heix": "heic", b"mif1": "heif", b"msf1": "heif"}
LFS_POINTER = b"version https://git-lfs"
HOW_TO_FETCH = "is a pointer of Git LFS, not the file itself; fetch it with `git lfs pull`"
MOST_POINTER_BYTES = 1024  # https://github.com/git-lfs/git-lfs/blob/main/docs/spec.md
_NO_TARS: tuple[tuple[bytes, str], ...] = (
    (b"PK\x03\x04", "is a zip archive; unpack it, and make shards of the images with tools/make_shards.py"),
    (LFS_POINTER, HOW_TO_FETCH),
)
# What a file is called that a download has not finished, that is a part of a whole, or that an editor keeps.
_PART = r"(\.(part|partial|filepart|crdownload|download|opdownload|incomplete|aria2|tmp|bak|!ut|\d+|part\d+|[a-c][a-z])|[a-c][a-z]|~)"
_ARCHIVE = re.compile(
    r"\.(?P<kind>tar|tar\.?(gz|z|bz2?|xz|lzma|zst|lz4|lz|br)|tgz|taz|tbz|tbz2|tb2|txz|tlz|tzst"
    r"|zip|zipx|7z|rar|jar|arj|lha|lzh|cab|ace|egg|alz|dmg|iso|cpio|sitx?"
    rf"|[rz]\d\d)(?P<part>{_PART})?$"
)
# Files of many images, or of something else altogether.
_CONTAINERS = re.compile(
    r"\.(npz|npy|h5|hdf5|hdf|mat|parquet|arrow|feather|lmdb|mdb|tfrecords?|rec|beton|sqfs|squashfs|pkl|pickle|pt|pth"
    r"|msgpack|safetensors|zarr|sqlite3?|db|gz|bz2|xz|zst|bin)(\.(part|crdownload|\d+))?$"
)

_SEPARATOR = re.compile(r"[/\\]")


def is_image_name(name: str) -> bool:
    """Whether a file of this name (or path) is taken for an image: by its extension, capitals or not."""
    return _extension(name) in IMAGE_EXTENSIONS


def is_unread_image(name: str) -> bool:
    """Whether a file is called like an image in a format that is not read, such as HEIC or a camera's raw one."""
    return _extension(name) in _UNREAD_EXTENSIONS


def _extension(name: str) -> str:
    """In lower case; empty: there is none."""
    _, dot, extension = name.rpartition("/")[2].rpartition(".")
    return extension.lower() if dot else ""


def format_of_image(data: bytes) -> str | None:
    """The extension of an image's format by how its file begins; None: it is none of those that are known."""
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "webp"
    if data[4:8] == b"ftyp":
        return _BRANDS.get(data[8:12])
    portable = _PORTABLE.match(data)
    if portable is not None:
        return ("pbm", "pgm", "ppm", "pfm")[(portable.lastindex or 1) - 1]
    return next((extension for start, extension in _SIGNATURES if data.startswith(start)), None)


def image_member(extensions: Iterable[str]) -> str | None:
    """The extension of a sample's image among its members' ``extensions`` (lower case); None: it has none."""
    found = set(extensions)
    return next((extension for extension in IMAGE_EXTENSIONS if extension in found), None)


def member_extension(path: str) -> str:
    """The extension under which an image file becomes a member: its own in lower case, jpg for every JPEG."""
    extension = path.rpartition(".")[2].lower()
    return "jpg" if extension in _FORMATS["JPEG"] else extension


def is_left_over(name: str) -> bool:
    """Whether a file or folder (one part of a path) is hidden or left behind by another program, hence no data."""
    return name.startswith(".") or name.lower() in _LEFT_OVER_FOLDERS | _LEFT_OVER_FILES


def path_parts(name: str) -> list[str]:
    """The folders of a tar's member and its base name. Archives made on Windows may have backslashes between them."""
    return _SEPARATOR.split(name)


def is_sample_member(name: str) -> bool:
    """Whether a member of a tar belongs to a sample: called KEY.EXTENSION, and neither hidden nor a leftover.

    README, README.md and macOS's ``._image.jpg`` do not; they are passed over and counted.
    """
    *folders, base = path_parts(name.removeprefix("./"))
    if any(is_left_over(part) for part in [*folders, base] if part not in (".", "..")):
        return False
    key, dot, extension = base.partition(".")
    document = key.lower() in _DOCUMENTS and not is_image_name(base) and extension.lower() != "cls"
    return bool(key and dot and extension) and not document


def no_plain_tar(start: bytes) -> str | None:
    """What a file is that begins with ``start`` (some hundred bytes will do) if it is known to be no plain tar, and what to do."""
    for magic, name, command in _COMPRESSIONS:
        if start.startswith(magic):
            # Samples are read where they lie, which a compressed tar forbids.
            return (
                f"is compressed with {name}; shards are read in place and must be plain tars: unpack it with "
                f"`{command} < FILE > NEW.tar`"
            )
    if start.lstrip().lower().startswith((b"<!doctype html", b"<html")):
        return "is a web page, as servers send to sign in, and no tar; fetch it with credentials"
    if start.lstrip().startswith((b"<", b"{")) and start[257:262] != b"ustar":
        text = start.decode("utf-8", "replace").split("\0")[0].strip()
        return f"is a message of a server and no tar ({shortened(text, 100)}); fetch it again, with credentials if it asks for them"
    return next((what for magic, what in _NO_TARS if start.startswith(magic)), None)


def is_closed_archive(name: str) -> bool:
    """Whether a file is called like an archive that cannot be read in place: compressed, or not downloaded to its end."""
    return is_archive_name(name) and not name.lower().endswith(".tar")


def is_archive_name(name: str) -> bool:
    """Whether a file is called like an archive, a part of one or one that is not downloaded to its end; a plain tar included."""
    return _ARCHIVE.search(name.lower()) is not None


def archive_stem(name: str) -> str:
    """The name of an archive without what says that it is one."""
    found = _ARCHIVE.search(name.lower())
    return name if found is None else re.sub(r"\.part\d+$", "", name[: found.start()], flags=re.IGNORECASE)


def is_container_name(name: str) -> bool:
    """Whether a file is called like one that may hold many images in a format that is not read beside folders."""
    return not is_archive_name(name) and _CONTAINERS.search(name.lower()) is not None
