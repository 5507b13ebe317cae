"""The launchers above a process, whose end it must notice; shells, terminals and init are none.

Signals do not tell: `deepspeed` dies of a SIGTERM without a word to its children, and nobody can forward a SIGKILL.
The kernel's own notice (PR_SET_PDEATHSIG) knows the parent only, and comes when the parent's *thread* ends. A shell is
left alone, because a run started with nohup, disown or setsid outlives it on purpose.
"""

from __future__ import annotations

import itertools
import os
from pathlib import Path

from sar_dist.processes import ProcessIdentity, ancestors, command_of, identify, name_of, variables_of
from sar_dist.step_launcher import StepLauncher, find_step_launcher

# As the kernel names the process ...
_DAEMONS = {"slurmstepd", "mpirun", "mpiexec", "mpiexec.hydra", "hydra_pmi_proxy", "prterun", "prted", "orted"}
# ... and as Python programs appear in their command lines: `python /path/deepspeed ...`, `python -m module ...`.
_PROGRAMS = {"deepspeed", "ds", "torchrun", "accelerate"}
_MODULES = {
    "deepspeed.launcher.launch",
    "deepspeed.launcher.runner",
    "torch.distributed.run",
    "torch.distributed.launch",
}
_SHELLS = {"sh", "bash", "dash", "zsh", "ksh", "fish", "tcsh", "csh", "busybox", "tmux", "screen", "sshd", "login"}
STARTER_VARIABLE = "SAR_DIST_STARTED_BY"
"""Process id of a program of this package that started another one, and waits for it."""
Launcher = ProcessIdentity | StepLauncher
_INTERPRETER_OPTIONS = 4  # how far behind `python -u -m` a program's name may stand


def launchers_to_watch() -> list[Launcher]:
    """The launchers that this process was started under, `srun` on whatever machine included."""
    step = find_step_launcher()
    return [*find_launchers(), *([] if step is None else [step])]


def find_launchers() -> list[ProcessIdentity]:
    """The launchers above this process; [] for a run started by a shell or by init."""
    found = []
    for distance, pid in enumerate(ancestors()):
        is_starter = os.environ.get(STARTER_VARIABLE) == str(pid)
        if is_starter or is_launcher(name_of(pid), command_of(pid)) or (distance == 0 and _gave_rank(pid)):
            identity = identify(pid)
            if identity is not None:
                found.append(identity)
    return found


def is_launcher(name: str, command: list[str]) -> bool:
    """Whether a process, by its kernel name and its command line, starts the processes of a run."""
    if name in _DAEMONS:
        return True
    head = command[:_INTERPRETER_OPTIONS]
    modules = {after for option, after in itertools.pairwise(head) if option == "-m"}
    return bool(modules & _MODULES) or any(Path(word).name in _PROGRAMS for word in head[:3])


def _gave_rank(parent: int) -> bool:
    """Whether the parent set RANK for this process, as a launcher of one's own does, and is not a shell."""
    variables = variables_of(parent)
    return "RANK" in os.environ and variables is not None and "RANK" not in variables and name_of(parent) not in _SHELLS
