# shellcheck shell=bash
# What multinode.sh and transfer_eval.sh share. They source it once REPOSITORY is known, and set
# srun_args, program and life before they call a function.
# shellcheck disable=SC2034,SC2154

# shellcheck source=/dev/null
[[ ! -f $REPOSITORY/slurm/site.env ]] || source "$REPOSITORY/slurm/site.env"

: "${SAR_PYTHON:=$([[ -x $REPOSITORY/.venv/bin/python ]] && echo "$REPOSITORY/.venv/bin/python" || echo python3)}"
: "${SAR_SRUN_ARGS:=}"                     # for example --container-image=/images/torch.sqsh --container-mounts=/data
: "${SAR_LOG_DIR:=$REPOSITORY/runs/slurm}" # one folder per job; must be on a file system that all nodes share
: "${SAR_REQUEUES:=5}"                     # lives of the job in a row that brought nothing new

export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1} # the loader's processes use the cores
export NCCL_DEBUG=${NCCL_DEBUG:-WARN}

say() { echo "[$(date +%H:%M:%S)] $*"; }

# 20000-29999, and another one for every life and try: a port that a dead process still holds is not met again.
port_of_try() { echo $((20000 + (${SLURM_JOB_ID:-0} * 97 + life * 13 + $1) % 10000)); }

rank_command() { # FOLDER [ARGUMENT...]; sets command: $program on every rank, a log for each
    # --cpus-per-task again: since 22.05 srun no longer inherits it. Nothing between srun and python: under cgroups
    # Slurm signals only the task's own process.
    command=(srun "${srun_args[@]}" --kill-on-bad-exit=1 --wait=60 ${SLURM_CPUS_PER_TASK:+"--cpus-per-task=$SLURM_CPUS_PER_TASK"}
        --output="$1/rank%4t.log" "$SAR_PYTHON" -u "${program[@]}" "${@:2}")
}

# Exit status 2 is bad input and nothing else: docs/clusters.md, "What an exit status means". srun's own status can be another:
# that of a rank which it killed because of the first. What it says of each task is reliable.
was_bad_input() { grep -q "Exited with exit code 2$" "$1/srun.log"; } # FOLDER
