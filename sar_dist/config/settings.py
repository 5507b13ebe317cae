"""The typed run configuration: one frozen pydantic model per concern, gathered in ``RunConfig``.

Every field has a default unless a run cannot mean anything without it, and one line of description, which is what
``tools/train.py --help`` prints.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    ValidationInfo,
    field_validator,
    model_validator,
)

from sar_dist.config.duration import Duration
from sar_dist.config.image_size import Side
from sar_dist.config.several_sets import refuse_other_forms, refuse_several
from sar_dist.config.values import PathText, checked, is_number
from sar_dist.setting_trees import set_leaf

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


class Settings(BaseModel):
    """Base of all settings: immutable, an unknown key is an error, and every number is finite."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True, allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _no_truth_value_for_a_number(cls, value: Any, info: ValidationInfo) -> Any:
        if isinstance(value, bool) and is_number(cls.model_fields[info.field_name or ""].annotation):
            raise ValueError("should be a number")
        return value

    @field_validator("*")
    @classmethod
    def _can_be_written(cls, value: Any) -> Any:
        """What is written to ``config.json`` is read back equal."""
        return value if isinstance(value, BaseModel) else checked(value)


class RunSettings(Settings):
    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", description="name of the run; its directory is dir/name")
    dir: PathText = Field("runs", description="folder that holds the run directories")
    seed: int = Field(0, ge=0, description="seed of weights, sample order and augmentation")
    max_steps: int | None = Field(
        None, ge=1, le=10**12, description="stop after this many optimizer steps (schedules keep their length)"
    )
    max_hours: float | None = Field(
        None, gt=0, le=1e6, description="save and stop after this many hours of wall-clock time"
    )
    branch_from: PathText | None = Field(
        None,
        description="begin where another run was: its checkpoint folder, or its directory for the newest one, with weights, "
        "optimizer and place in the data, such as for a cooldown; the other run is left alone",
    )
    resume: Literal["auto", "never"] = Field(
        "auto", description="auto: go on from the run's newest checkpoint; never: refuse an existing run"
    )
    deterministic: bool = Field(
        False, description="GPUs: only kernels that give the same bits every time, which may be slower; CPUs do anyway"
    )


class ModelSettings(Settings):
    name: str = Field(
        "vit_small_patch16_224",
        description="name of a timm ViT: VisionTransformer, DeiT, or Eva (DINOv3, RoPE ViT, EVA-02, Perception Encoder)",
    )
    image_size: Side | tuple[Side, Side] = Field(
        224, description="input image, pixels: the side of a square, or [height, width]"
    )
    train_sizes: tuple[Side, ...] | None = Field(
        None,
        min_length=1,
        max_length=64,
        description="sides of square training images, pixels, one for each step; none: all have image_size",
    )
    train_size_schedule: Literal["random", "in_order"] = Field(
        "random",
        description="which of train_sizes a step has: one that is drawn; or one after the other, for equal parts of training",
    )
    patch_size: int | None = Field(None, ge=1, le=16384, description="side of a patch, pixels; none: the model's own")
    patch_projection: Literal["convolution", "linear"] = Field(
        "convolution",
        description="how the patch embedding is computed: as timm does, or as a matrix product with the same weights",
    )
    num_classes: int = Field(1000, ge=2, le=10**7, description="classes of the training set")
    drop_path: float = Field(0.0, ge=0, lt=1, description="stochastic depth rate of the last block (linear from 0)")
    skip_dropped: bool = Field(
        False,
        description="stochastic depth does not compute what it drops: faster, but every block keeps a fixed number of "
        "each micro-batch's samples",
    )
    no_skip_last_block: bool = Field(
        False, description="drop the last block's attention skip and second LayerNorm, as the method does"
    )
    init_from: PathText | None = Field(
        None,
        description="start from these weights: an export or run directory, a .safetensors or .pth file (of DINO, "
        "MoCo v3, MAE, DeiT, DINOv2/3, CLIP too; FILE#PART chooses a part), or timm:NAME for pretrained weights; none: "
        "random ones",
    )
    new_classifier: bool = Field(
        False, description="with init_from, begin with a random classifier even where the number of classes is the same"
    )
    options: dict[str, Any] = Field(
        default_factory=dict,
        description="further timm constructor arguments, such as embed_dim, depth, num_heads, reg_tokens",
    )

    @field_validator("image_size", mode="before")
    @classmethod
    def _one_way_to_say_a_size(cls, value: Any) -> Any:
        if isinstance(value, list | tuple) and len(value) == 2 and value[0] == value[1]:
            return value[0]
        if isinstance(value, list | tuple) and len(value) == 2 and all(type(side) is int for side in value):
            return value
        if type(value) is not int:
            raise ValueError("should be a whole number of pixels, or two: [height, width]")
        return value

    @model_validator(mode="after")
    def _train_sizes_are_of_squares(self) -> ModelSettings:
        if self.train_sizes is not None and not isinstance(self.image_size, int):
            raise ValueError("train_sizes are sides of squares and need a square image_size")
        return self


class TermSettings(Settings):
    """What every term of the loss has; the settings of one term inherit from it."""

    weight: float = Field(
        ge=0, le=1e6, description="largest weight of the term in the loss; 0: only measured in validation"
    )
    ramp_epochs: float = Field(0, ge=0, le=1e6, description="epochs over which the weight rises linearly from 0")
    unit: Literal["epoch", "step"] = Field("epoch", description="how often the weight changes")
    decay: Literal["cosine", "none"] = Field(
        "cosine", description="what the weight does after its ramp: a cosine to zero at the end, or none"
    )


class RegularizerSettings(TermSettings):
    weight: float = Field(
        0.01, ge=0, le=1e6, description="lambda, weight of the spatial entropy in the loss; 0 turns it off"
    )
    ramp_epochs: float = Field(10, ge=0, le=1e6, description="epochs over which the weight rises linearly from 0")
    backend: Literal["auto", "cpu", "torch", "triton"] = Field("auto", description="implementation of the entropy")
    blocks: tuple[int, ...] = Field(
        (-1,), min_length=1, description="blocks whose attention is regularized; -1 is the last"
    )
    query: Literal["cls", "mean"] = Field(
        "cls", description="query of the similarity map: the [CLS] token, or the mean of the patch queries"
    )


class TrainingSetSettings(Settings):
    """One of several data sets of ``data.train``."""

    shards: PathText = Field(description="shards, as data.train names them")
    weight: float = Field(gt=0, le=1e12, description="share of the samples, relative to the other sets' weights")
    label: str | None = Field(
        None, min_length=1, description="where its shards have the label; none: as data.label says"
    )
    classes: dict[str, str] = Field(
        default_factory=dict, description="name in the first set of a class that has another name in this one"
    )


def _one_or_several(value: Any) -> str:
    return "(sets)" if isinstance(value, list | tuple) else "(shards)"


class DataSettings(Settings):
    train: (
        Annotated[
            Annotated[PathText, Tag("(shards)")] | Annotated[tuple[TrainingSetSettings, ...], Tag("(sets)")],
            Discriminator(_one_or_several),
        ]
        | None
    ) = Field(
        None,
        description="training shards: a URL, or a folder as given, below $SAR_DIST_DATA or below data/; or several sets of "
        "them, as [{shards: A, weight: 3}, {shards: B, weight: 1}]",
    )
    epoch_samples: int | None = Field(
        None,
        ge=1,
        le=10**12,
        description="samples that make up an epoch, in which durations are counted; none: those of all training sets",
    )
    val: PathText | None = Field(None, description="validation shards, found in the same way")
    label: str = Field(
        "cls", min_length=1, description="where shards have the label: cls, or a field of a JSON member, as json.label"
    )
    workers: int | None = Field(
        None,
        ge=0,
        le=4096,
        description="data-loader processes per rank; none: the process's share of the machine's cores, less one; 0 decodes "
        "in the training process",
    )
    decoder: Literal["cpu", "gpu"] = Field(
        "cpu",
        description="cpu: the data workers decode training images; gpu: they send JPEGs, which the training device decodes, crops "
        "and resizes; it needs augment.where=device. Validation images are decoded by the workers",
    )
    prefetch: int = Field(4, ge=1, le=4096, description="batches each worker prepares ahead")
    streams: int | None = Field(
        None,
        ge=1,
        le=2**24,
        description="logical sample streams; the world size must divide it, it must divide the global batch; none: chosen from the global batch alone",
    )
    repeated_augmentation: int = Field(
        1,
        ge=1,
        le=1024,
        description="copies of each sample in a global batch, augmented differently; an epoch has fewer samples",
    )
    window_shards: float = Field(
        4.0, gt=0, le=1e6, description="shuffle window inside a stream, in shards' worth of samples"
    )
    allow_changed: bool = Field(
        False, description="resume although shards, seed, batch or augmentation changed, at the start of a new epoch"
    )
    stage: PathText | None = Field(
        None, description="local folder to which remote shards are copied; none: $SAR_DIST_CACHE/stage"
    )
    stage_gigabytes: float = Field(
        200.0, gt=0, le=1e9, description="size limit of data.stage; the shards used longest ago make room"
    )
    stall_seconds: float = Field(
        60.0, gt=0, le=1e6, description="give up and repeat a download that brings nothing for so long"
    )
    max_bad_fraction: float = Field(
        0.001, ge=0, le=1, description="abort when more than this share of samples cannot be decoded"
    )
    max_pixels: int = Field(
        67_108_864,
        ge=1,
        le=2**40,
        description="refuse images with more pixels than this, such as 8192 x 8192, before decoding them",
    )

    @field_validator("train", mode="before")
    @classmethod
    def _several_sets_have_weights(cls, value: Any) -> Any:
        return refuse_other_forms(value)

    @field_validator("val", mode="before")
    @classmethod
    def _validation_is_one_set(cls, value: Any) -> Any:
        return refuse_several(value)

    @field_validator("train")
    @classmethod
    def _first_set_is_the_reference(cls, value: str | tuple[TrainingSetSettings, ...] | None) -> Any:
        if isinstance(value, tuple):
            if not value:
                raise ValueError("names no data set; write [{shards: A, weight: 3}, {shards: B, weight: 1}]")
            if value[0].classes:
                raise ValueError(
                    "gives the first set other class names, but they are the run's; give the others theirs"
                )
        return value

    @property
    def training_sets(self) -> tuple[TrainingSetSettings, ...]:
        """The data sets of ``train``; one without a weight is the only one."""
        if isinstance(self.train, tuple):
            return self.train
        return () if self.train is None else (TrainingSetSettings(shards=self.train, weight=1),)

    @model_validator(mode="before")
    @classmethod
    def _benchmark_is_a_tool(cls, values: Any) -> Any:
        """``data.benchmark`` was a key; ``config.json`` files of that time hold it as false."""
        if isinstance(values, dict) and "benchmark" in values:
            if values["benchmark"] not in (False, None):
                raise ValueError(
                    f"data.benchmark={values['benchmark']!s} is no setting of a run; measure the loader with tools/benchmark_loader.py"
                )
            return {key: value for key, value in values.items() if key != "benchmark"}
        return values


class AugmentSettings(Settings):
    backend: Literal["fast", "pil"] = Field(
        "fast", description="fast: torchvision on uint8 tensors; pil: timm's PIL transforms, the reference"
    )
    where: Literal["worker", "device"] | None = Field(
        None,
        description="where flip, RandAugment, 3-Augment and jitter are done: in the data workers, or batched on the training "
        "device; none: on a GPU where there is one, and a resumed run keeps its place",
    )
    scale: tuple[float, float] = Field(
        (0.08, 1.0), description="RandomResizedCrop: range of the crop's share of the area"
    )
    ratio: tuple[float, float] = Field(
        (3 / 4, 4 / 3), description="RandomResizedCrop: range of the crop's aspect ratio"
    )
    interpolation: Literal["bicubic", "bilinear"] = Field(
        "bicubic", description="interpolation of training and validation resizing"
    )
    horizontal_flip: float = Field(0.5, ge=0, le=1, description="probability of a horizontal flip")
    rand_augment: str | None = Field(None, description="RandAugment in timm's notation, such as rand-m9-mstd0.5-inc1")
    three_augment: bool = Field(
        False, description="DeiT-III's 3-Augment: one of solarize, grey, blur; with color_jitter=0.3 in its recipe"
    )
    color_jitter: float | None = Field(
        None, ge=0, le=100, description="strength of brightness, contrast and saturation jitter"
    )
    mixup: float = Field(0.0, ge=0, le=1000, description="mixup alpha; 0 turns it off")
    cutmix: float = Field(0.0, ge=0, le=1000, description="cutmix alpha; 0 turns it off")
    mixup_probability: float = Field(1.0, ge=0, le=1, description="probability that mixup or cutmix is applied")
    cutmix_probability: float = Field(
        0.5, ge=0, le=1, description="probability of cutmix rather than mixup when both are on"
    )
    label_smoothing: float = Field(0.0, ge=0, lt=1, description="label smoothing of the cross-entropy")
    random_erasing: float = Field(0.0, ge=0, le=1, description="probability of erasing a rectangle with noise")
    mean: tuple[float, float, float] = Field(IMAGENET_MEAN, description="channel means of the normalisation")
    std: tuple[float, float, float] = Field(
        IMAGENET_STD, description="channel standard deviations of the normalisation"
    )
    crop_fraction: float = Field(
        0.875, ge=0.1, le=1, description="validation: centre crop's share of the resized image's side"
    )
    crop_mode: Literal["center", "squash", "border"] = Field(
        "center",
        description="validation, as in timm; center: the short side is resized and the long one cropped; squash: both "
        "sides are resized, whatever the shape; border: the long side is resized and the short one padded with the mean",
    )

    @field_validator("scale", "ratio")
    @classmethod
    def _ordered(cls, value: tuple[float, float]) -> tuple[float, float]:
        if not 0 < value[0] <= value[1]:
            raise ValueError(f"{value} is not a range 0 < low <= high")
        return value

    @field_validator("scale")
    @classmethod
    def _share(cls, value: tuple[float, float]) -> tuple[float, float]:
        if value[1] > 1:
            raise ValueError(f"{value} reaches beyond the whole image, which is 1")
        return value

    @field_validator("std")
    @classmethod
    def _positive(cls, value: tuple[float, float, float]) -> tuple[float, float, float]:
        if min(value) <= 0:
            raise ValueError(f"{value} holds a standard deviation that is not above 0")
        return value

    @field_validator("mean", "std")
    @classmethod
    def _of_pixels(cls, value: tuple[float, float, float]) -> tuple[float, float, float]:
        if not all(0 <= channel <= 1 for channel in value):
            raise ValueError(f"{value} is not of pixels from 0 to 1; divide values for pixels from 0 to 255 by 255")
        return value

    @model_validator(mode="after")
    def _one_policy(self) -> AugmentSettings:
        if self.rand_augment is not None and self.three_augment:
            raise ValueError("augment.rand_augment and augment.three_augment exclude each other; leave one of them out")
        if self.backend == "pil" and self.where == "device":
            raise ValueError(
                "augment.backend=pil runs in the data workers alone; set augment.where=worker or augment.backend=fast"
            )
        return self


class OptimSettings(Settings):
    name: str = Field(
        "adamw",
        description="optimizer: adamw, nadamw, lion, adan, adopt, muon, or one of your own as my_module:MyOptimizer",
    )
    options: dict[str, Any] = Field(default_factory=dict, description="settings of an optimizer other than adamw")
    global_batch: int = Field(1024, ge=1, le=2**24, description="images per optimizer step over all processes")
    loss: Literal["cross_entropy", "binary_cross_entropy"] = Field(
        "cross_entropy",
        description="cross-entropy of the softmax, or mean binary cross-entropy of every class by itself, both of mixed targets",
    )
    target_threshold: float | None = Field(
        None,
        ge=0,
        lt=1,
        description="binary cross-entropy: targets above this become 1, the others 0 (DeiT III: 0); none: as they are mixed",
    )
    lr: float = Field(5e-4, gt=0, le=1e6, description="peak learning rate, at lr_reference_batch images per step")
    lr_reference_batch: int | None = Field(
        512, ge=1, le=2**24, description="the learning rate is lr * global_batch / this; none: lr as it is"
    )
    weight_decay: float = Field(
        0.05, ge=0, le=1e6, description="AdamW weight decay; never on biases, norms, tokens and position embedding"
    )
    betas: tuple[float, float] = Field((0.9, 0.999), description="AdamW moment decays")
    eps: float = Field(1e-8, gt=0, le=1, description="AdamW epsilon")
    epochs: float = Field(300, gt=0, le=1e6, description="passes over the training set")
    warmup_epochs: float = Field(5, ge=0, le=1e6, description="epochs of linear learning-rate warm-up")
    warmup_lr: float = Field(1e-6, ge=0, le=1e6, description="learning rate at step 0 of the warm-up")
    min_lr: float = Field(1e-5, ge=0, le=1e6, description="learning rate at the end")
    schedule: Literal["cosine", "linear", "constant", "warmup_stable_decay"] = Field(
        "cosine",
        description="course of the learning rate after the warm-up: down to min_lr along half a cosine or a line; constant; "
        "or constant and then down in the last cooldown_epochs",
    )
    cooldown_epochs: float | None = Field(
        None,
        gt=0,
        le=1e6,
        description="warmup_stable_decay: length of the descent at the end; none: a fifth of optim.epochs",
    )
    cooldown: Literal["1-sqrt", "linear", "cosine"] = Field(
        "1-sqrt", description="warmup_stable_decay: course of the descent"
    )
    layer_decay: float = Field(
        1.0, gt=0, le=1, description="learning rate of block i is multiplied by this ** (blocks + 1 - i)"
    )
    clip: float | None = Field(None, gt=0, le=1e12, description="clip the global gradient norm to this")
    fused: bool = Field(True, description="update all parameters of a shard in one kernel, on GPU and CPU")
    ema: float | None = Field(
        None, gt=0, lt=1, description="decay of the exponential moving average of the weights; none: no average"
    )

    @field_validator("betas")
    @classmethod
    def _decays(cls, value: tuple[float, float]) -> tuple[float, float]:
        if not all(0 <= beta < 1 for beta in value):
            raise ValueError(f"{value} are no decays: 0 <= beta < 1")
        return value

    @model_validator(mode="after")
    def _threshold_fits(self) -> OptimSettings:
        if self.target_threshold is not None and self.loss != "binary_cross_entropy":
            raise ValueError("optim.target_threshold is of optim.loss=binary_cross_entropy; set both or neither")
        return self

    @model_validator(mode="after")
    def _rates_fit(self) -> OptimSettings:
        """A schedule falls and a warm-up rises."""
        for key, rate in (("min_lr", self.min_lr), ("warmup_lr", self.warmup_lr)):
            if rate > self.peak_lr:
                raise ValueError(
                    f"optim.{key}={rate:g} is above the peak learning rate of {self.peak_lr:g} (optim.lr * "
                    f"optim.global_batch / optim.lr_reference_batch); lower it or raise optim.lr"
                )
        return self

    @model_validator(mode="after")
    def _warmup_fits(self) -> OptimSettings:
        if self.warmup_epochs >= self.epochs:
            raise ValueError(
                f"optim.warmup_epochs={self.warmup_epochs:g} is not less than optim.epochs={self.epochs:g}"
            )
        return self

    @model_validator(mode="after")
    def _cooldown_fits(self) -> OptimSettings:
        if self.schedule != "warmup_stable_decay":
            if self.cooldown_epochs is not None:
                raise ValueError("optim.cooldown_epochs is of optim.schedule=warmup_stable_decay; set both or neither")
        elif self.warmup_epochs + self.descent_epochs > self.epochs:
            raise ValueError(
                f"optim.warmup_epochs={self.warmup_epochs:g} and the cooldown of {self.descent_epochs:g} epochs are longer than "
                f"optim.epochs={self.epochs:g}; set optim.cooldown_epochs to {self.epochs - self.warmup_epochs:g} or less"
            )
        return self

    @property
    def descent_epochs(self) -> float:
        """Epochs of a warmup_stable_decay's descent."""
        return self.epochs / 5 if self.cooldown_epochs is None else self.cooldown_epochs

    @property
    def peak_lr(self) -> float:
        """Learning rate at the end of the warm-up, scaled linearly with the global batch."""
        return self.lr if self.lr_reference_batch is None else self.lr * self.global_batch / self.lr_reference_batch


class EngineSettings(Settings):
    zero_stage: Literal[1, 2, 3] = Field(1, description="DeepSpeed ZeRO stage")
    precision: Literal["bf16", "bf16_parameters", "fp16", "fp32"] = Field(
        "bf16",
        description="bf16: autocast with float32 parameters; bf16_parameters: bfloat16 parameters with a float32 master, "
        "gradients added up in float32; fp16: GPU only",
    )
    reduce_dtype: Literal["fp32", "bf16"] = Field(
        "fp32", description="type in which gradients are averaged over processes; bf16 halves what is sent"
    )
    micro_batch: int = Field(
        64, ge=1, le=2**20, description="images per process and forward pass; accumulation follows from it"
    )
    activation_checkpointing: bool = Field(False, description="recompute block activations in the backward pass")
    compile: bool = Field(False, description="torch.compile each block")
    offload: Literal["none", "optimizer", "all"] = Field(
        "none", description="keep optimizer states (all: parameters too, ZeRO-3 only) in host memory"
    )
    deepspeed: dict[str, Any] = Field(
        default_factory=dict, description="merged over the generated DeepSpeed config, for what is not modelled here"
    )

    @field_validator("zero_stage", mode="before")
    @classmethod
    def _stage_is_sharded(cls, stage: Any) -> Any:
        if str(stage) == "0":  # which earlier versions took, and ran as stage 1
            raise ValueError("stage 0 always ran as stage 1; set it to 1, in the config.json of an old run too")
        return stage

    @model_validator(mode="after")
    def _offload_fits(self) -> EngineSettings:
        if self.offload == "all" and self.zero_stage != 3:
            raise ValueError("engine.offload=all keeps parameters in host memory, which needs engine.zero_stage=3")
        return self

    @model_validator(mode="after")
    def _gradients_can_be_reduced(self) -> EngineSettings:
        if self.reduce_dtype == "bf16" and self.precision not in ("bf16", "bf16_parameters"):
            raise ValueError(
                f"engine.reduce_dtype=bf16 does not go with engine.precision={self.precision}; leave it out"
            )
        return self


class ValidationSettings(Settings):
    every: Duration = Field("1ep", description="how often the validation set is scored; the end of training always is")
    micro_batch: int | None = Field(
        None,
        ge=1,
        le=2**20,
        description="images per process and forward pass, cut to the size of the set; none: engine.micro_batch",
    )


class CheckpointSettings(Settings):
    every: Duration = Field("1ep", description="how often a checkpoint is written; the end of training always is")
    keep_last: int = Field(2, ge=1, le=10**6, description="newest checkpoints that are kept")
    keep_every: Duration | None = Field(None, description="checkpoints at multiples of this are kept for good")


class GuardSettings(Settings):
    non_finite: Literal["skip", "rollback", "stop"] = Field(
        "skip",
        description="on a step with a non-finite loss or gradient: skip it; or go back to the weights of the newest "
        "checkpoint that was due and on with fresh data; or stop",
    )
    max_skipped: int = Field(20, ge=1, le=10**9, description="stop after this many skipped steps in a row")
    spike_factor: float | None = Field(
        None,
        gt=1,
        le=1e9,
        description="roll back when an interval's mean loss exceeds the median of the last ones by this factor",
    )
    max_rollbacks: int = Field(
        3, ge=0, le=10**9, description="stop when one more rollback is needed, over all starts of the run"
    )
    stall_minutes: float = Field(
        30, gt=0, le=1e6, description="dump every process's stacks and exit when nothing has moved for so long"
    )


class LogSettings(Settings):
    to: tuple[str, ...] = Field(
        ("tensorboard",),
        description="where metrics go besides metrics.jsonl, such as [tensorboard, wandb]; or my_module:MyDestination",
    )
    project: str = Field("sar_dist", min_length=1, description="what wandb gathers runs under")
    every: Duration = Field("50st", description="how often metrics are averaged and written")
    figures_every: Duration | None = Field(
        None, description="how often attention and training samples are drawn; none: at the end only"
    )
    figure_images: int = Field(
        6, ge=0, le=64, description="validation images in an attention figure; 0: nothing is drawn"
    )

    @field_validator("to", mode="before")
    @classmethod
    def _one_is_a_list(cls, value: Any) -> Any:
        return (value,) if isinstance(value, str) else value


class ProfileSettings(Settings):
    sample_every: Duration | None = Field(
        "10st", description="how often a step is timed part by part (forward, backward, ...); none: never"
    )
    trace: bool = Field(False, description="write a PyTorch profiler trace of a few steps, for Perfetto or TensorBoard")
    trace_after: int = Field(
        10, ge=1, le=10**12, description="steps of this start of the run that come before the traced ones"
    )
    trace_steps: int = Field(3, ge=1, le=100, description="steps that are traced")


class RunConfig(Settings):
    """Everything that defines a training run. See ``configs/demo.py`` for an example."""

    run: RunSettings
    model: ModelSettings = Field(default_factory=ModelSettings)
    regularizer: RegularizerSettings = Field(default_factory=RegularizerSettings)
    terms: tuple[dict[str, Any], ...] = Field(
        (),
        description="further terms of the loss, such as [{name: total_variation, weight: 0.1}]; a registered name, or "
        "my_module:MyTerm of a file of yours, with its settings",
    )
    data: DataSettings = Field(default_factory=DataSettings)
    augment: AugmentSettings = Field(default_factory=AugmentSettings)
    optim: OptimSettings = Field(default_factory=OptimSettings)
    engine: EngineSettings = Field(default_factory=EngineSettings)
    validation: ValidationSettings = Field(default_factory=ValidationSettings)
    checkpoint: CheckpointSettings = Field(default_factory=CheckpointSettings)
    guard: GuardSettings = Field(default_factory=GuardSettings)
    log: LogSettings = Field(default_factory=LogSettings)
    profile: ProfileSettings = Field(default_factory=ProfileSettings)

    @field_validator("terms")
    @classmethod
    def _named(cls, value: tuple[dict[str, Any], ...]) -> tuple[dict[str, Any], ...]:
        for number, term in enumerate(value):
            if not isinstance(term.get("name"), str):
                raise ValueError(f"terms[{number}] has no name; write {{name: total_variation, weight: 0.1}}")
        return value

    @model_validator(mode="after")
    def _targets_survive(self) -> RunConfig:
        """Smoothing gives every class a share, and a threshold below that would make each of them a target."""
        threshold, floor = self.optim.target_threshold, self.augment.label_smoothing / self.model.num_classes
        if threshold is not None and floor > 0 and threshold <= floor:
            raise ValueError(
                f"optim.target_threshold={threshold:g} is not above the {floor:g} that augment.label_smoothing="
                f"{self.augment.label_smoothing:g} gives every class; set augment.label_smoothing=0"
            )
        return self

    def vary(self, changes: Mapping[str, Any]) -> RunConfig:
        """A copy with dotted keys changed and everything validated again: ``config.vary({"optim.lr": 1e-3})``.

        Raises:
            KeyError: no such key. pydantic.ValidationError: a value does not fit.
        """
        values = self.model_dump()
        for key, value in changes.items():
            group, _, name = key.partition(".")
            held = values.get(group)
            # Below a free mapping, such as model.options, any key may be new.
            known = name.partition(".")[0] in held if isinstance(held, dict) else group in values and not name
            if not known:
                raise KeyError(key)
            set_leaf(values, key, value)
        return RunConfig.model_validate(values)
