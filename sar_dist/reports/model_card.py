"""The card of an exported model: what it is, how it was trained, what it reaches, and how to repeat that."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from sar_dist.config import load_config
from sar_dist.errors import UserError
from sar_dist.files import read_regular, remove_leftovers, write_durably
from sar_dist.observe import read_metrics
from sar_dist.output import warn
from sar_dist.reports.runs import read_json, read_starts
from sar_dist.transfer import RESULT_FILE, Result, export_fingerprint, read_result

CARD_FILE = "README.md"
TRAINING_FILE = "training_config.json"
_ORIGIN = "trained with sar_dist"  # in every card, by which one is known as ours
_STARTING_POINTS = (("model", "init_from"), ("run", "branch_from"))


def write_card(run: Path, export: Path, *, plain_timm: bool, licence: str) -> None:
    """Write README.md and training_config.json into an export, from what the run directory holds now, and evaluations of the export.

    Both say nothing of where things lay on this machine: of an absolute path its last two parts are kept.

    Args:
        run: the run directory.
        export: folder written by ``sar_dist.models.export_run``.
        plain_timm: whether timm knows the architecture without this package.
        licence: identifier for the hub, such as "apache-2.0".

    Raises:
        UserError: a file of the run cannot be read, or the export cannot be written.
    """
    config = load_config(run / "config.json").model_dump(mode="json")  # whole, also where the file lacks something
    hub = read_json(export / "config.json", dict[str, Any])
    environments = read_starts(run)
    files = [file for folder in (run, export) for file in sorted((folder / "transfer").glob(f"*/{RESULT_FILE}"))]
    results = [read_result(file) for file in files]
    public = without_folders(config)
    public["run"]["dir"] = "runs"
    public.get("log", {}).pop("to", None)  # somebody else has another account
    asked = _paths_to_give(config, public)
    records = list(read_metrics(run / "metrics.jsonl"))
    sections = [
        _front_matter(hub, licence),
        *_model_section(public["run"]["name"], hub, plain_timm),
        *_training_section(public, environments),
        *_results_section(hub["sar_dist"], records, results, export_fingerprint(export)),
        *_repeat_section(config["data"]["train"], environments, asked),
    ]
    try:
        for file in (export / TRAINING_FILE, export / CARD_FILE):
            remove_leftovers(file)
        write_durably(export / TRAINING_FILE, json.dumps(public, indent=2) + "\n")
        # As on every page: names of files need not be UTF-8.
        card = "\n".join([*sections, ""]).encode(errors="backslashreplace").decode()
        if _is_ours(export / CARD_FILE):
            write_durably(export / CARD_FILE, card)
        else:
            warn(f"warning: {export / CARD_FILE} is another text than a card of this program's; it stays as it is")
    except OSError as error:
        raise UserError(f"cannot write {export}: {error}") from error


def _is_ours(card: Path) -> bool:
    """Whether a card may be written anew: there is none, or it is an earlier one."""
    return not card.exists() or _ORIGIN.encode() in read_regular(card)


def without_folders(value: Any) -> Any:
    """Nested settings with absolute paths cut to their last two parts."""
    if isinstance(value, dict):
        return {name: without_folders(item) for name, item in value.items()}
    if isinstance(value, list):
        return [without_folders(item) for item in value]
    return "/".join(Path(value).parts[-2:]) if isinstance(value, str) and value.startswith(("/", "~")) else value


def _front_matter(hub: Mapping[str, Any], licence: str) -> str:
    tags = "\n".join(f"- {tag}" for tag in ("image-classification", "timm", "vision-transformer"))
    return f"---\nlibrary_name: timm\nlicense: {licence}\npipeline_tag: image-classification\ntags:\n{tags}\n---\n"


def _model_section(name: str, hub: Mapping[str, Any], plain_timm: bool) -> list[str]:
    origin, needs = hub["sar_dist"], "" if plain_timm else "import sar_dist.models  # registers the architecture\n"
    kind = "moving average of the weights" if origin["ema"] else "weights"
    height, width = hub["pretrained_cfg"]["input_size"][1:]
    return [
        f"# {name}\n",
        f"`{hub['architecture']}`, {height} x {width} pixels, {hub['num_classes']} classes, {_ORIGIN} "
        f"{origin['version']}: the {kind} after optimizer step {origin['step']}, in {origin['dtype']}.\n",
        f'```python\n{needs}import timm\n\nmodel = timm.create_model("local-dir:FOLDER", pretrained=True).eval()\n'
        "data = timm.data.resolve_model_data_config(model)\n"
        "transform = timm.data.create_transform(**data, is_training=False)\n```\n",
        f"```python\n{needs}from transformers import AutoImageProcessor, AutoModelForImageClassification\n\n"
        'model = AutoModelForImageClassification.from_pretrained("FOLDER").eval()\n'
        'processor = AutoImageProcessor.from_pretrained("FOLDER")\n```\n',
        "FOLDER is the folder that holds this file; on the hub, `hf-hub:NAME` stands for `local-dir:FOLDER`, and NAME for FOLDER.\n",
    ]


def _training_section(config: Mapping[str, Any], environments: list[dict[str, Any]]) -> list[str]:
    optim, data, engine = config["optim"], config["data"], config["engine"]
    terms = [(term["name"], term.get("weight")) for term in config.get("terms", ())]
    reference = optim.get("lr_reference_batch")
    initial = config["model"].get("init_from") or "random"
    rows = [
        ("training data", _training_data(data["train"])),
        ("validation data", data["val"]),
        ("initial weights", initial),
        ("epochs", _figure(optim["epochs"])),
        ("global batch", optim["global_batch"]),
        ("learning rate", f"{optim['lr']}{f' for a batch of {reference}' if reference else ''}"),
        ("weight decay", optim["weight_decay"]),
        ("weight of the spatial entropy", config["regularizer"]["weight"]),
        *((f"weight of {name}", weight) for name, weight in terms),
        ("precision", engine["precision"]),
        ("seed", config["run"]["seed"]),
    ]
    last = environments[-1] if environments else {}
    if last:
        packages = ", ".join(f"{name} {version}" for name, version in last.get("packages", {}).items())
        changed = " with local changes" if last.get("git_changes") else ""
        commit = f"{last.get('git_commit') or 'not recorded'}{changed}"
        rows += [
            ("starts of the run", len(environments)),
            (
                "processes and device of the last",
                f"{last.get('world_size', 'unknown')} x {last.get('device', 'unknown')}",
            ),
            ("commit", commit),
            ("packages", f"Python {last.get('python', 'unknown')}, {packages or 'unknown'}"),
        ]
    return ["## Training\n", _table(("", ""), rows), f"\nEvery setting is in `{TRAINING_FILE}`.\n"]


def _training_data(train: Any) -> str:
    """One data set, or several with their weights, as ``config.json`` has them."""
    if not isinstance(train, list):
        return str(train)
    return ", ".join(f"{each['shards']} (weight {each['weight']:g})" for each in train)


def _results_section(
    origin: Mapping[str, Any], records: Iterable[Mapping[str, Any]], results: list[Result], fingerprint: str
) -> list[str]:
    prefix, step = "val_ema" if origin["ema"] else "val", origin["step"]
    validations = [record for record in records if record.get("prefix") == prefix and record["step"] == step]
    lines = ["## Results\n"]
    if validations:
        shown = ("top1", "top5", "loss_cls", "images", "bad_images")
        rows = [(name, _figure(validations[-1][name])) for name in shown if name in validations[-1]]
        lines += [
            "On the validation data, these weights (top-1 and top-5 in percent):\n",
            _table(("", "value"), rows),
            "",
        ]
    else:
        lines.append("These weights were not validated during training.\n")
    of_these = [result for result in results if result.model.fingerprint == fingerprint]
    if of_these:
        figures = [
            (
                f"{result.label}{' (part of the samples)' if result.partial else ''}",
                result.data.name,
                metric,
                _figure(value),
            )
            for result in of_these
            for metric, value in result.metrics.items()
        ]
        lines += ["Transfer:\n", _table(("task", "data", "metric", "value"), figures), ""]
    else:
        lines.append("No transfer results were measured of these weights.\n")
    if others := len(results) - len(of_these):
        rounded = "" if origin["dtype"] == "float32" else f", such as those that {origin['dtype']} was rounded from,"
        lines.append(f"{others} transfer results of the run are of other weights{rounded} and not shown.\n")
    return lines


def _figure(value: float) -> str:
    """Four digits, of whole numbers all."""
    return f"{value:.0f}" if float(value).is_integer() else f"{value:.4g}"


def _paths_to_give(config: dict[str, Any], public: dict[str, Any]) -> list[str]:
    """The settings that name something else that a repetition needs, besides the data."""
    cut = {key for key in config if key not in ("data", "run", "log", "model") and config[key] != public[key]}
    named = {f"{group}.{key}" for group, key in _STARTING_POINTS if config[group].get(key)}
    return sorted(named | cut)


def _repeat_section(train: Any, environments: list[dict[str, Any]], asked: list[str]) -> list[str]:
    processes = environments[-1].get("world_size", 1) if environments else 1
    shards = "data.train=FOLDER_OF_TRAINING_SHARDS"
    if isinstance(train, list):
        sets = (f"{{shards: FOLDER_{i}, weight: {each['weight']:g}}}" for i, each in enumerate(train, 1))
        shards = f"'data.train=[{', '.join(sets)}]'"
    command = (
        f"deepspeed --num_accelerators {processes} tools/train.py --config {TRAINING_FILE} \\\n"
        f"    {shards} data.val=FOLDER_OF_VALIDATION_SHARDS run.dir=runs"
    )
    again = f" It needs what these settings name too: {', '.join(asked)}." if asked else ""
    return ["## Repeat it\n", f"```\n{command}\n```\n", f"In a checkout of sar_dist at the commit above.{again}"]


def _table(header: Iterable[str], rows: Iterable[Iterable[Any]]) -> str:
    cells = [list(header), *([str(cell).replace("|", "\\|") for cell in row] for row in rows)]
    lines = ["| " + " | ".join(row) + " |" for row in cells]
    return "\n".join([lines[0], "|" + "---|" * len(cells[0]), *lines[1:]])
