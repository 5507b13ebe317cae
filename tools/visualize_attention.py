"""Pictures of what each head of a model attends to on given images: PNG files and one self-contained HTML page.

python tools/visualize_attention.py --model runs/demo --images cat.jpg dog.png --out attention/
"""

from __future__ import annotations

import argparse
import io
import os
from pathlib import Path
from typing import TYPE_CHECKING

from sar_dist.command_help import TerminalHelp, given_path
from sar_dist.data.layout import is_image_name
from sar_dist.errors import UserError
from sar_dist.files import read_regular
from sar_dist.model_specs import SPEC_HELP
from sar_dist.program import run_tool

if TYPE_CHECKING:
    from sar_dist.reports import PictureSection
    from sar_dist.transfer import LoadedModel


def picture(loaded: LoadedModel, path: Path) -> PictureSection:
    """Run the model on one image file and draw the attention of its last tapped block."""
    import torch

    from sar_dist.data.images import DeviceTransform, UndecodableImage, build_eval_transform
    from sar_dist.observe import attention_detail_figure
    from sar_dist.regularizer import class_similarity, component_labels, spatial_entropy_from_query_key
    from sar_dist.reports import PictureSection, png_or_note
    from sar_dist.transfer import MAX_PIXELS

    try:
        pixels = build_eval_transform(loaded.augment, loaded.image_size, MAX_PIXELS)(read_regular(path))  # 3 S S uint8
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from error
    except UndecodableImage as error:
        raise UserError(f"{path} is not an image that can be used: {error.reason}") from error
    images = DeviceTransform(loaded.augment, num_classes=2, seed=0).evaluate(pixels[None])
    with torch.no_grad():
        output = loaded.model(images)
        query, key, grid = output["queries"][-1], output["keys"][-1], loaded.model.grid
        entropies, counts = spatial_entropy_from_query_key(query, key, grid, return_components=True)
        similarity = class_similarity(query, key, grid)  # 1 H gh gw
    name = os.fsencode(path.name).decode(
        errors="backslashreplace"
    )  # what is not UTF-8 can be neither drawn nor written

    def png() -> bytes:
        maps = similarity[0], entropies[0], component_labels(similarity)[0]
        out = io.BytesIO()
        attention_detail_figure(pixels / 255, *maps, name).savefig(out, format="png")
        return out.getvalue()

    return PictureSection(name, png_or_note(name, png), entropies[0].tolist(), counts[0].tolist())


def images_at(path: Path) -> list[Path]:
    """A file as it is; the images in a folder, sorted by name."""
    if not path.is_dir():
        return [path]
    try:
        found = sorted(file for file in path.iterdir() if is_image_name(file.name) and not file.is_dir())
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from error
    if not found:
        raise UserError(f"{path} holds no images; folders in it are not looked into")
    return found


def refuse_their_folder(out: Path, images: list[Path]) -> None:
    """Raise UserError where pictures in ``out`` could take the place of the images that they are of."""
    for image in images:
        if image.resolve().parent == out.resolve():
            raise UserError(f"--out {out} holds {image.name}, one of the images; give another folder for the pictures")


def write(path: Path, content: bytes) -> None:
    """Write a file and the folders above it."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror}") from error


def main() -> None:
    """Parse, load, draw, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=TerminalHelp)
    parser.add_argument("--model", required=True, metavar="SPEC", help=SPEC_HELP)
    parser.add_argument(
        "--images", required=True, nargs="+", type=given_path, metavar="PATH", help="image files, or folders of them"
    )
    parser.add_argument(
        "--out", required=True, type=given_path, metavar="DIR", help="folder for the pictures and index.html"
    )
    arguments = parser.parse_args()

    images = [image for path in arguments.images for image in images_at(path)]
    refuse_their_folder(arguments.out, images)
    from sar_dist.reports import attention_page, check_place  # with PyTorch, which takes seconds
    from sar_dist.transfer import load_model

    page = arguments.out / "index.html"
    names = [f"{number:02d}_{path.stem}.png" for number, path in enumerate(images)]
    check_place(page, names)
    loaded = load_model(arguments.model)
    title, sections = f"Attention of {loaded.description}", []
    for name, path in zip(names, images, strict=True):
        section = picture(loaded, path)
        sections.append(section)
        if len(sections) == 1:
            write(page, attention_page(title, sections).encode())  # before the pictures, see check_place
        target = arguments.out / name
        write(target, section.png)
        print(f"{target}: mean entropy {sum(section.entropies) / len(section.entropies):.3f} nats", flush=True)
    write(page, attention_page(title, sections).encode())
    print(page)


if __name__ == "__main__":
    run_tool(main, alone=True)
