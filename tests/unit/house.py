"""Which part of the package may use which: the table that the architecture test asserts and docs/architecture.md shows.

python tests/unit/house.py      writes the picture of docs/architecture.md anew
"""

from __future__ import annotations

import re
from pathlib import Path

PAGE = Path(__file__).resolve().parents[2] / "docs" / "architecture.md"

# Each package may import the ones after it on its line, and nothing else of sar_dist. No circle can hide in that.
# The ground floor (single files) is there for all; a file of it may use the ones that its own entry names.
GROUND: dict[str, set[str]] = {
    "output": set(),
    "legible": set(),
    "errors": set(),
    "program": {"errors", "output"},
    "extensions": {"errors"},
    "processes": set(),
    "cores": {"processes"},
    "step_launcher": {"processes"},
    "launchers": {"processes", "step_launcher"},
    "standstill": {"processes"},
    "signals": {"launchers", "output", "standstill"},
    "regions": set(),
    "quantities": set(),
    "places": set(),
    "model_specs": set(),
    "machine": {"errors"},
    "progress": {"output"},
    "randomness": set(),
    "keys": set(),
    "faces": set(),
    "command_help": {"errors"},
    "paired_statistics": set(),
    "setting_trees": set(),
    "environment": set(),
    "files": {"errors"},
    "validation": {"errors"},
    "worker_pool": {"errors", "signals"},
    "lease": {"errors", "files", "output", "processes"},
    "launch_environment": {"errors"},
    "library_defaults": {"errors"},
    "devices": {"errors", "output", "program"},
    "console": {"program"},
    "meeting": {"errors", "launch_environment", "library_defaults", "output", "program"},
    "distributed": {"cores", "devices", "errors", "launch_environment", "library_defaults", "meeting", "program"},
}
ALLOWED: dict[str, set[str]] = {
    **GROUND,
    "regularizer": set(),
    "config": {*GROUND},
    "data": {*GROUND, "config"},
    "checkpoint": {*GROUND, "config"},
    "models": {*GROUND, "config", "regularizer", "checkpoint"},
    "terms": {*GROUND, "config", "regularizer", "models"},
    "observe": {*GROUND, "config", "regularizer", "terms"},
    "engine": {*GROUND, "config", "models", "checkpoint"},
    "planning": {*GROUND, "config", "models", "engine", "data", "observe", "regularizer", "terms"},
    "training": {*GROUND, "config", "regularizer", "terms", "data", "models", "engine", "checkpoint", "observe"},
    "transfer": {*GROUND, "config", "regularizer", "data", "models", "engine", "checkpoint", "observe", "training"},
    "reports": {*GROUND, "config", "observe", "transfer"},
    "experiment": {*GROUND, "config", "observe", "terms", "transfer", "reports", "data"},
}


def picture() -> str:
    """One line a part, the top first: what it may use besides the ground floor, which all may use."""
    ground = ", ".join(sorted(GROUND))
    levels: dict[str, int] = {}
    while len(levels) < len(ALLOWED):
        for part, uses in ALLOWED.items():
            if uses <= levels.keys():
                levels.setdefault(part, 1 + max((levels[used] for used in uses - GROUND.keys()), default=0))
    parts = sorted(ALLOWED.keys() - GROUND.keys(), key=lambda part: (-levels[part], part))
    lines = ["tools          -> every package"]
    lines += [f"{part:14} -> {', '.join(sorted(ALLOWED[part] - GROUND.keys())) or 'nothing'}" for part in parts]
    return "\n".join([*lines, f"ground floor: {ground}"])


def with_picture(page: str) -> str:
    """The page with its first code block replaced by the picture."""
    return re.sub(r"```\n.*?```", lambda _: f"```\n{picture()}\n```", page, count=1, flags=re.DOTALL)


if __name__ == "__main__":
    PAGE.write_text(with_picture(PAGE.read_text()))
