"""Helpers that every kind of test shares: programs, processes, small images and shards, a small configuration."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import tarfile
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from forked import ForkedProcess, can_fork
from PIL import Image

ROOT = Path(__file__).parent.parent
REAL_DATA = ROOT.parent / "shared" / "data"

Process = subprocess.Popen[str] | ForkedProcess

torch.set_num_threads(1)
cv2.setNumThreads(1)  # some tests fork, which the threads of OpenCV's pool do not survive


@dataclass
class Finished:
    """A program that has run: exit status and what it printed."""

    status: int
    stdout: str
    stderr: str


def tool(*arguments: str, timeout: float = 300, **environment: str) -> Finished:
    """Run ``python ARGUMENTS`` from the repository's root, as a user would."""
    process = start(*arguments, environment=program_environment(**environment), stderr=subprocess.PIPE)
    try:
        stdout, stderr = process.communicate(timeout=timeout)
    finally:
        process.kill()
    assert process.returncode is not None
    return Finished(process.returncode, stdout, stderr)


def start(*arguments: str, environment: dict[str, str], stderr: int) -> Process:
    """Start ``python ARGUMENTS`` from the repository's root, with the libraries loaded already where that makes no difference."""
    if can_fork(arguments, environment, program_environment()):
        return ForkedProcess(arguments, environment, ROOT, stderr=stderr == subprocess.PIPE)
    command = [sys.executable, *arguments]
    return subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=stderr, text=True)


def program_environment(**extra: str) -> dict[str, str]:
    """The environment of a started program: the tests' virtual environment first on PATH, one thread."""
    not_ours = ("SLURM_", "SAR_", "TRITON_CACHE_DIR", "TORCHINDUCTOR_CACHE_DIR")  # Inductor sets the last by itself
    environment = {key: value for key, value in os.environ.items() if not key.startswith(not_ours)}
    path = f"{Path(sys.executable).parent}{os.pathsep}{environment.get('PATH', '')}"
    return {**environment, "PATH": path, "OMP_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu", **extra}


def start_processes(world_size: int, *arguments: str, **environment: str) -> list[Process]:
    """Start one Python process per rank, joined the way every launcher does it: through RANK and its kin."""
    port = free_port()
    processes = []
    for rank in range(world_size):
        ranks = {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(world_size)}
        meeting = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
        variables = program_environment(**ranks, **meeting, **environment)
        processes.append(start(*arguments, environment=variables, stderr=subprocess.STDOUT))
    return processes


def run_processes(world_size: int, *arguments: str, timeout: float = 300, **environment: str) -> str:
    """Run a program on several ranks; their output if all of them succeed, a failed test otherwise."""
    processes = start_processes(world_size, *arguments, **environment)
    try:
        outputs = [process.communicate(timeout=timeout)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert all(process.returncode == 0 for process in processes), "\n---\n".join(outputs)[-6000:]
    return "\n".join(outputs)


def free_port() -> int:
    """A TCP port that nobody listens on."""
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def read_metrics(run: Path, prefix: str = "train") -> dict[int, dict[str, float]]:
    """The entries of a run's metrics.jsonl by step."""
    entries = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
    return {entry["step"]: entry for entry in entries if entry["prefix"] == prefix}


def jpeg(seed: int, size: int = 40) -> bytes:
    """A small JPEG of smooth random colours."""
    generator = np.random.default_rng(seed)
    coarse = generator.integers(0, 256, (5, 5, 3), dtype=np.uint8)
    out = io.BytesIO()
    Image.fromarray(coarse).resize((size, size), Image.Resampling.BICUBIC).save(out, "JPEG", quality=90)
    return out.getvalue()


def write_tar(path: Path, members: dict[str, bytes]) -> None:
    """Write a tar with the given members."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))


SMALL_CONFIG = '''"""A model that trains in milliseconds."""

from sar_dist.config import RunConfig


def config() -> RunConfig:
    return RunConfig(
        run={{"name": "small", "dir": {runs!r}}},
        model={{
            "name": "vit_tiny_patch16_224",
            "image_size": 32,
            "patch_size": 8,
            "num_classes": 4,
            "no_skip_last_block": True,
            "options": {{"embed_dim": 32, "depth": 2, "num_heads": 2}},
        }},
        regularizer={{"weight": 0.1, "ramp_epochs": 1, "unit": "step"}},
        data={{"train": {data!r}, "val": {data!r}, "workers": 0}},
        optim={{
            "global_batch": 16,
            "lr": 1e-3,
            "lr_reference_batch": None,
            "epochs": 4,
            "warmup_epochs": 1,
            "clip": 1.0,
        }},
        engine={{"precision": "fp32", "micro_batch": 8}},
        validation={{"every": "1ep"}},
        checkpoint={{"every": 2}},
        log={{"every": 1, "figure_images": 0}},
    )
'''
