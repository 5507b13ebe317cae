"""What a model SPEC may be, in words. Apart from what loads one, so that ``--help`` need not import torch."""

from __future__ import annotations

SPEC_HELP = (
    "run directory, checkpoint folder, export directory, timm:NAME (pretrained, downloaded by timm), "
    "timm:NAME:FILE (weights of a .safetensors or .pth file; FILE#PART for a part of it) or random:NAME (also of a run or export directory)"
)
