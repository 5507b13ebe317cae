"""The commands of an installed package: ``sar-train`` is ``python tools/train.py``, and so on."""

from __future__ import annotations

import importlib
import sys
from functools import partial

from sar_dist.program import run_tool

TOOLS = (
    "train",
    "transfer_eval",
    "make_shards",
    "plan",
    "report",
    "export",
    "experiment",
    "visualize_attention",
    "profile_flops",
    "benchmark_loader",
)
_WITH_RANKS = ("train", "transfer_eval", "benchmark_loader")


def run(tool: str) -> None:
    """Run a tool with the arguments of the command line; ends the process."""
    sys.argv[0] = f"sar-{tool.replace('_', '-')}"  # what usage lines call it
    run_tool(importlib.import_module(f"sar_dist.tools.{tool}").main, alone=tool not in _WITH_RANKS)


train, transfer_eval, make_shards, plan, report = (partial(run, tool) for tool in TOOLS[:5])
export, experiment, visualize_attention, profile_flops, benchmark_loader = (partial(run, tool) for tool in TOOLS[5:])
