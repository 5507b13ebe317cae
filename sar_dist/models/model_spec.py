"""What ``--model SPEC`` stands for: a run, one of its checkpoints, an export, ``timm:NAME`` or ``random:NAME``."""

from __future__ import annotations

import contextlib
import functools
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import timm
import torch
from pydantic import ValidationError
from timm.data import ImageNetInfo, resolve_model_data_config

from sar_dist.checkpoint import DamagedCheckpoint
from sar_dist.config import AugmentSettings, ImageSize, ModelSettings, RegularizerSettings, as_image_size
from sar_dist.errors import UserError, in_brief
from sar_dist.model_specs import SPEC_HELP
from sar_dist.models.attention_tap import TappedVisionTransformer
from sar_dist.models.build import build_model, model_on_meta
from sar_dist.models.export import hub_architecture
from sar_dist.models.families import TimmViT
from sar_dist.models.hub_access import hub_asked_once
from sar_dist.models.initialize import load_exactly
from sar_dist.models.origins import heads_of, remark_on_normalisation
from sar_dist.models.weights import (
    CONFIG_FILE,
    LABEL_NAMES_KEY,
    PROVENANCE_KEY,
    WEIGHTS_FILE,
    class_names,
    is_weight_file,
    open_run,
    open_weights,
    read_export_config,
    timm_defaults,
)
from sar_dist.output import warn

_WHICH_NAME = (
    ", with the name of the model in timm, by whose mean and standard deviation images are normalised: vit_base_patch16_224 by .5, "
    "deit_base_patch16_224 by ImageNet's, as weights of MAE, DINO, MoCo and DeiT want it"
)


@dataclass(frozen=True)
class LoadedModel:
    """A model ready for evaluation, on the CPU.

    Attributes:
        model: in evaluation mode.
        image_size: of its input.
        augment: how validation images are resized, cropped and normalised for it.
        description: one line that says where the weights come from.
        build_untrained: makes the same architecture with timm's random initialisation.
        settings: the architecture, as a training run configures it.
        weights: what a training run's ``model.init_from`` takes for these weights; None for random ones.
        classes: names of the classes that the classifier tells apart, by label; None where they are not known.
    """

    model: TappedVisionTransformer
    image_size: ImageSize
    augment: AugmentSettings
    description: str
    build_untrained: Callable[[], TappedVisionTransformer]
    settings: ModelSettings
    weights: str | None
    classes: tuple[str, ...] | None = None


def load_model(spec: str) -> LoadedModel:
    """Build the model that ``spec`` names and load its weights, every one of them.

    A run's newest intact checkpoint counts, with the moving average of the weights where the run kept one. Random
    weights are the same at every call.

    Raises:
        UserError: no such run, checkpoint or timm model, its weights cannot be had, or they do not fit.
    """
    kind, separator, name = spec.partition(":")
    if separator and kind == "random":
        return _load_random(name)
    if separator and kind == "timm":
        name, _, file = name.partition(":")
        return _load_timm_file(name, file) if file else _load_timm(name, pretrained=True)
    path = Path(spec)
    if not path.exists():
        raise UserError(f"--model {spec}: there is no such folder; give a {SPEC_HELP}")
    if is_weight_file(path):
        how = f"its folder, {path.parent}" if (path.parent / CONFIG_FILE).is_file() else f"timm:NAME:{spec}"
        raise UserError(
            f"--model {spec} is a file of weights, which does not say of which model; give {how}"
            f"{_WHICH_NAME if how.startswith('timm:') else ''}"
        )
    return _load_export(path) if (path / WEIGHTS_FILE).is_file() else _load_run(path)


def _load_random(name: str) -> LoadedModel:
    """A timm model, or the architecture of a trained one, with the random weights of seed 0."""
    if not Path(name).exists():
        return _load_timm(name, pretrained=False)
    trained = load_model(name)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = trained.build_untrained()
    return replace(
        trained,
        model=model.eval(),
        weights=None,
        description=f"{trained.description}: its architecture, random weights",
    )


def _load_run(path: Path) -> LoadedModel:
    config, reader = open_run(path)
    settings = _at_its_own_size(config.model)
    build = functools.partial(build_model, settings, config.regularizer)
    _refuse_misfit(settings, config.regularizer, reader.shapes, "the checkpoint")
    model = build()
    try:
        reader.check_shapes({name: tuple(parameter.shape) for name, parameter in model.vit.named_parameters()})
        model.vit.load_state_dict(reader.state_dict(ema=reader.has_ema))
    except DamagedCheckpoint as error:
        raise UserError(f"the checkpoint does not fit the config.json of its run: {error}") from error
    description = f"{config.run.name} ({config.model.name}), {_kind(has_ema=reader.has_ema)} after step {reader.step}"
    return LoadedModel(
        model.eval(),
        settings.image_size,
        config.augment,
        description,
        build,
        settings,
        str(path),
        reader.manifest.classes,
    )


def _kind(*, has_ema: bool) -> str:
    return "moving average of the weights" if has_ema else "weights"


def _at_its_own_size(settings: ModelSettings) -> ModelSettings:
    """The settings of a model that is evaluated, whatever sizes it was trained with; what is trained anew has its own."""
    return settings.model_copy(update={"train_sizes": None})


def _load_export(path: Path) -> LoadedModel:
    config = read_export_config(path)
    try:
        provenance = config[PROVENANCE_KEY]
        settings = _at_its_own_size(ModelSettings.model_validate(provenance["model"]))
        regularizer = RegularizerSettings.model_validate(provenance["regularizer"])
        augment = _augment_of(config["pretrained_cfg"])
        kind = _kind(has_ema=bool(provenance["ema"])) if "ema" in provenance else "weights"
        description = f"{path} ({settings.name}), run {provenance['run']}, {kind} after step {provenance['step']}"
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path / 'config.json'} was not written by tools/export.py: {error}") from error
    weights = open_weights(str(path))
    _refuse_misfit(settings, regularizer, weights.shapes, f"{path}")
    build = functools.partial(build_model, settings, regularizer)
    model = build()
    load_exactly(model.vit, weights, f"its {path / 'config.json'}")
    _refuse_contradictions(config, settings, model.vit, path / CONFIG_FILE)
    names = _label_names(config, settings.num_classes, path / CONFIG_FILE)
    return LoadedModel(model.eval(), settings.image_size, augment, description, build, settings, str(path), names)


def _refuse_contradictions(config: Mapping[str, Any], settings: ModelSettings, vit: TimmViT, file: Path) -> None:
    """Raise UserError where what timm reads in an export's config.json is another model than what is read here."""
    expected = json.loads(json.dumps(hub_architecture(settings, vit)))  # tuples become lists
    for outer, found in ((config, expected), (config["pretrained_cfg"], expected.pop("pretrained_cfg"))):
        for name, value in found.items():
            if outer.get(name, value) != value:
                raise UserError(
                    f"{file} contradicts itself: {name} is {outer[name]} for timm, and {value} by {PROVENANCE_KEY}.model; export the run "
                    "again rather than edit it"
                )


def _label_names(config: Mapping[str, Any], num_classes: int, file: Path) -> tuple[str, ...] | None:
    """The class names in an export's config.json; None where it has none. Raises UserError if they are not one for each class."""
    recorded = config.get(LABEL_NAMES_KEY)
    names = class_names(recorded)
    if recorded and (names is None or len(names) != num_classes):
        has = "is no list of words" if names is None else f"names {len(names)} classes"
        raise UserError(
            f"{file}: {LABEL_NAMES_KEY} {has}, and the model tells {num_classes} apart; give a list of one name for each "
            "label, or leave it out"
        )
    return names


def _refuse_misfit(
    settings: ModelSettings, regularizer: RegularizerSettings, shapes: Mapping[str, tuple[int, ...]], weights: str
) -> None:
    """Before a model is built: a size that its weights do not have could cost memory and time without end."""
    depth = settings.options.get("depth")
    blocks = {name.split(".")[1] for name in shapes if name.startswith("blocks.")}
    if isinstance(depth, int) and depth > len(blocks):
        raise UserError(f"its config.json says depth {depth}, but {weights} has the weights of {len(blocks)} blocks")
    built = {
        name: tuple(tensor.shape) for name, tensor in model_on_meta(settings, regularizer).vit.state_dict().items()
    }
    for name, shape in built.items():
        if shapes.get(name, shape) != shape:
            found = list(shapes[name])
            raise UserError(f"{weights} does not fit its config.json: {name} is {found}, not {list(shape)}")


def _load_timm_file(name: str, file: str) -> LoadedModel:
    """A timm architecture with the weights of a file, whose classifier, or lack of one, decides the classes."""
    opened = open_weights(file)
    heads = heads_of(opened.project, opened.shapes.get("cls_token", (0,))[-1])
    options = {} if heads is None else {"num_heads": heads}
    with torch.device("meta"):
        architecture = model_on_meta(_timm_settings(name, options), RegularizerSettings(query="mean")).vit
    weights = opened.fitted(architecture)
    classes = weights.shapes.get("head.weight", (0,))[0]
    untrained = _load_timm(name, pretrained=False, num_classes=classes, options=options)
    report = load_exactly(untrained.model.vit, weights, f"timm's {name}")
    parts = [f"resampled {', '.join(report.resampled)}"] * bool(report.resampled)
    parts += [f"{heads} heads, as {opened.project} has"] * bool(options)
    mean, std = untrained.augment.mean, untrained.augment.std
    parts.append(f"images normalised by mean {_numbers(mean)}, std {_numbers(std)}")
    description = "; ".join([f"{name}, weights of {weights.description}{weights.left_out}", *parts])
    remark = remark_on_normalisation(opened.project, name, mean)
    if remark:
        warn(remark)
    return replace(untrained, description=description, weights=file)


def _numbers(values: Iterable[float]) -> str:
    return ", ".join(f"{value:g}" for value in values)


def _timm_settings(name: str, options: Mapping[str, Any]) -> ModelSettings:
    defaults = timm_defaults(name)
    size = as_image_size(*defaults.input_size[1:]) if defaults is not None else 224
    return ModelSettings(name=name, image_size=size, options=dict(options))


def _load_timm(
    name: str, *, pretrained: bool, num_classes: int | None = None, options: Mapping[str, Any] | None = None
) -> LoadedModel:
    settings = _timm_settings(name, options or {})
    model_on_meta(settings, RegularizerSettings(query="mean"))
    arguments = settings.options | ({} if num_classes is None else {"num_classes": num_classes})

    def build(pretrained: bool = False) -> TappedVisionTransformer:
        vit: Any = timm.create_model(name, pretrained=pretrained, **arguments)
        return TappedVisionTransformer(vit, query="mean" if vit.cls_token is None else "cls")

    try:
        with torch.random.fork_rng(devices=[]), hub_asked_once() if pretrained else contextlib.nullcontext():
            torch.manual_seed(0)
            model = build(pretrained)
    except (OSError, RuntimeError, ValueError) as error:
        # timm, its hub client and the sockets below raise these three for whatever keeps weights from being had.
        reason = in_brief(error)
        raise UserError(f"timm cannot provide the weights of {name}: {reason}") from error
    data = resolve_model_data_config(model.vit)
    description = f"{name}, {'pretrained' if pretrained else 'random'} weights"
    weights = f"timm:{name}" if pretrained else None
    # Weights with 1000 classes that timm names are ImageNet-1k's, in the order of their WordNet ids.
    names = tuple(ImageNetInfo("imagenet-1k").label_names()) if pretrained and model.vit.num_classes == 1000 else None
    return LoadedModel(
        model.eval(),
        as_image_size(*data["input_size"][1:]),
        _augment_of(data),
        description,
        build,
        settings,
        weights,
        names,
    )


def _augment_of(data: Mapping[str, Any]) -> AugmentSettings:
    """How timm's data configuration, or an export's, says that images are resized and normalised.

    Raises:
        UserError: in a way that is not known here; another one would give other accuracies without a word.
    """
    try:
        return AugmentSettings(
            mean=data["mean"],
            std=data["std"],
            crop_fraction=data["crop_pct"],
            crop_mode=data.get("crop_mode") or "center",
            interpolation=data["interpolation"],
        )
    except ValidationError as error:
        first = error.errors()[0]
        raise UserError(
            f"its pretrained_cfg prepares images in a way that is not supported: {first['loc'][0]} = "
            f"{first['input']!r} ({first['msg']})"
        ) from error
