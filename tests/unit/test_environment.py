"""What is recorded about where a program was started."""

from __future__ import annotations

import json
import sys

import torch

from sar_dist.environment import PACKAGES, describe_environment


def test_environment_names_what_ran_and_on_what() -> None:
    record = json.loads(json.dumps(describe_environment(4, torch.device("cpu"))))
    assert record["world_size"] == 4
    assert record["command"] == sys.argv
    assert record["device"].startswith("CPU ")
    assert record["packages"].keys() == set(PACKAGES)
    assert torch.__version__.startswith(record["packages"]["torch"])
