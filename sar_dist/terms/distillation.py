"""Distillation: the predictions of a trained model, the teacher, as further targets."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode

from sar_dist.config import Settings, TermSettings, height_and_width
from sar_dist.errors import UserError
from sar_dist.model_specs import SPEC_HELP
from sar_dist.terms.term import TermScores, TermSetup, WeightedTerm

_TYPES = {"bf16_parameters": torch.bfloat16, "fp16": torch.float16}


class DistillationSettings(TermSettings):
    """The weight is constant by default, as in DeiT."""

    decay: Literal["cosine", "none"] = Field(
        "none", description="what the weight does after its ramp: a cosine to zero at the end, or none"
    )
    teacher: str = Field(min_length=1, description=f"the teacher: {SPEC_HELP}")
    kind: Literal["soft", "hard"] = Field(
        "hard", description="learn the teacher's probabilities (soft) or its decision (hard)"
    )
    temperature: float = Field(3.0, gt=0, le=1e3, description="of soft distillation: both logits are divided by it")
    student: Literal["logits", "token"] = Field(
        "logits",
        description="what learns: the logits, or the distillation token of a model that has one (deit_*_distilled_*)",
    )


class Distillation(WeightedTerm):
    """DeiT's distillation (Touvron et al., https://arxiv.org/abs/2012.12877, section 4, equations 2 and 3).

    ``hard`` is the cross-entropy with the teacher's decision. ``soft`` is the Kullback-Leibler divergence of the student's
    from the teacher's distribution (Hinton et al., https://arxiv.org/abs/1503.02531) at a temperature, times its square.
    DeiT weighs (1 - w) cross-entropy and w distillation; here that is the weight w / (1 - w): 1 for its hard one with w =
    1/2, and 1/9 for its soft one with w = .1.

    The teacher is frozen, in evaluation mode and in the precision of training. It sees the very images of the student,
    mixed and erased, resized and normalised as it was trained. In validation too it is run on every batch.
    """

    name: ClassVar[str] = "distillation"
    unit: ClassVar[str] = "nats"
    settings_class: ClassVar[type[Settings]] = DistillationSettings
    settings: DistillationSettings

    def __init__(self, settings: DistillationSettings, setup: TermSetup) -> None:
        super().__init__(settings, setup)
        from sar_dist.models import load_model  # imported here: whoever only reads logs needs no timm

        loaded = load_model(settings.teacher)
        classes = loaded.model.vit.num_classes
        if classes != setup.num_classes:
            raise UserError(
                f"the teacher {settings.teacher} has {classes} classes and model.num_classes is {setup.num_classes}; "
                "choose a teacher that was trained on the same classes"
            )
        self.dtype = _TYPES.get(setup.precision, torch.float32)
        self.teacher = loaded.model.vit.requires_grad_(False).eval().to(setup.device, self.dtype)
        self.image_size = height_and_width(loaded.image_size)
        # (x std + mean - teacher's mean) / teacher's std, in one multiplication and addition
        std, mean, teachers_std, teachers_mean = (
            torch.tensor(values)[:, None, None]
            for values in (setup.std, setup.mean, loaded.augment.std, loaded.augment.mean)
        )
        self.scale = (std / teachers_std).to(setup.device)
        self.shift = ((mean - teachers_mean) / teachers_std).to(setup.device)

    def __call__(self, output: Mapping[str, Any]) -> TermScores:
        """Loss of every image, (B,)."""
        student = output["logits" if self.settings.student == "logits" else "distillation_logits"]
        teacher = self.teacher_logits(output["images"])
        if self.settings.kind == "hard":
            losses = hard_distillation(student.float(), teacher)
        else:
            losses = soft_distillation(student.float(), teacher, self.settings.temperature)
        return TermScores(losses.mean(), {self.name: losses})

    @torch.no_grad()
    def teacher_logits(self, images: Tensor) -> Tensor:
        """The teacher's float32 logits (B, classes) of the student's normalised images (B, 3, H, W)."""
        images = images.float() * self.scale + self.shift
        if images.shape[2:] != self.image_size:
            images = functional.interpolate(images, size=self.image_size, mode="bicubic", antialias=True)
        with torch.autocast(images.device.type, torch.bfloat16, enabled=self.setup.precision == "bf16"):
            logits: Tensor = self.teacher(images.to(self.dtype))
        return logits.float()

    def prepare(self, model: Any) -> None:
        """Let the model train its distillation token, if that is what learns."""
        if self.settings.student == "token":
            if not hasattr(model.vit, "set_distilled_training"):
                raise UserError(
                    "the model has no distillation token; choose model.name=deit_small_distilled_patch16_224 or the "
                    "like, or student: logits"
                )
            model.vit.set_distilled_training(True)

    def training_flops(self, output: Mapping[str, Any]) -> float:
        """The teacher's forward pass; it has no backward pass."""
        with torch.random.fork_rng(devices=[]):
            teacher = copy.deepcopy(self.teacher).to("meta")
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            teacher(torch.empty(1, 3, *self.image_size, dtype=self.dtype, device="meta"))
        return float(counter.get_total_flops())

    @property
    def held_bytes(self) -> int:
        """The teacher's weights."""
        return sum(parameter.nbytes for parameter in self.teacher.parameters())


def hard_distillation(student: Tensor, teacher: Tensor) -> Tensor:
    """Cross-entropy (B,) of the student's logits (B, C) with the class that the teacher's (B, C) decide for."""
    return functional.cross_entropy(student, teacher.argmax(dim=1), reduction="none")


def soft_distillation(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """``t^2 KL(softmax(teacher / t) || softmax(student / t))`` of each image (B,), from logits (B, C)."""
    log_student = (student / temperature).log_softmax(dim=1)
    log_teacher = (teacher / temperature).log_softmax(dim=1)
    divergences = functional.kl_div(log_student, log_teacher, reduction="none", log_target=True)  # B C
    return divergences.sum(dim=1) * temperature**2
