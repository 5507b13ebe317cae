# shellcheck shell=bash
# What multinode.sh and transfer_eval.sh share. They source it once REPOSITORY and record (what scontrol says of the job,
# empty outside of one) are known, and set srun_args and program before they call a function.
# shellcheck disable=SC2034,SC2154

recorded() { sed -n "s|.* $1=\([^ ]*\).*|\1|p" <<<" $record"; } # FIELD

# sbatch hands on the variables of the shell that it is called in, which may be those of another job. What this one has
# is in its record.
forget_other_jobs() {
    SLURM_RESTART_COUNT=$(recorded Restarts)
    [[ -n $(recorded ArrayTaskId) ]] || unset SLURM_ARRAY_TASK_ID
    # Slurm turns another job's into 1, and a job that has no more gets 1 as its share, too.
    [[ $(recorded CPUs/Task) = "${SLURM_CPUS_PER_TASK:-}" && $SLURM_CPUS_PER_TASK != 1 ]] || unset SLURM_CPUS_PER_TASK
    # srun takes one of them at most; without, a step has the memory of the job.
    unset SLURM_MEM_PER_CPU SLURM_MEM_PER_GPU SLURM_MEM_PER_NODE
    # With sbatch --export=NONE, srun would hide from the ranks where they meet.
    export SLURM_EXPORT_ENV=ALL
}
[[ -z $record ]] || forget_other_jobs

# The name of this job for scontrol and scancel: to them, one of an array's numbers means all of its tasks.
job=${SLURM_JOB_ID:-JOBID}
[[ -z $(recorded ArrayTaskId) ]] || job=$(recorded ArrayJobId)_$(recorded ArrayTaskId)

# shellcheck source=/dev/null
[[ ! -f $REPOSITORY/slurm/site.env ]] || source "$REPOSITORY/slurm/site.env"

: "${SAR_PYTHON:=$([[ -x $REPOSITORY/.venv/bin/python ]] && echo "$REPOSITORY/.venv/bin/python" || echo python3)}"
: "${SAR_SRUN_ARGS:=}"                     # for example --container-image=/images/torch.sqsh --container-mounts=/data
: "${SAR_LOG_DIR:=$REPOSITORY/runs/slurm}" # one folder per job; must be on a file system that all nodes share
: "${SAR_REQUEUES:=5}"                     # lives of the job in a row that brought nothing new

: "${SAR_CACHE_DIR:=/tmp/sar_dist-$(id -u)}" # compiled kernels: a folder on each node's own disk

export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1} # the loader's processes use the cores
# In a home folder that nodes share, one rank dies of a file that another one renames, and the others hang.
export SAR_CACHE_DIR
export TRITON_CACHE_DIR=${TRITON_CACHE_DIR:-$SAR_CACHE_DIR/triton}
export TORCHINDUCTOR_CACHE_DIR=${TORCHINDUCTOR_CACHE_DIR:-$SAR_CACHE_DIR/inductor}
export NCCL_DEBUG=${NCCL_DEBUG:-WARN}

STEP_NAME=sar_dist_ranks

say() { echo "[$(date +%H:%M:%S)] $*"; }

# Number of this job's life: one more whenever it was requeued.
life=${SLURM_RESTART_COUNT:-0}

# 20000-29999, and another one for every life and try: a port that a dead process still holds is not met again.
port_of_try() { echo $((20000 + (${SLURM_JOB_ID:-0} * 97 + life * 13 + $1) % 10000)); }

spelled_out() { # LIST; a number for each node of Slurm's 96(x2),64
    local part number
    for part in ${1//,/ }; do
        [[ $part =~ ^([0-9]+)(\(x([0-9]+)\))?$ ]] || return 1
        for ((number = 0; number < ${BASH_REMATCH[3]:-1}; number++)); do echo "${BASH_REMATCH[1]}"; done
    done
}

# CPUs as Slurm counts them (hardware threads, where it knows of them): what the job has on the node where a task gets
# least. --cpus-per-task given to sbatch wins. A job's CPUs are not known before it runs, hence not an #SBATCH line.
cpus_per_task() {
    local cpus tasks node share least=""
    [[ -z ${SLURM_CPUS_PER_TASK:-} ]] || { echo "$SLURM_CPUS_PER_TASK"; return; }
    mapfile -t cpus < <(spelled_out "${SLURM_JOB_CPUS_PER_NODE:-}")
    mapfile -t tasks < <(spelled_out "${SLURM_TASKS_PER_NODE:-}")
    ((${#cpus[@]} && ${#cpus[@]} == ${#tasks[@]})) || return 0
    for node in "${!cpus[@]}"; do
        share=$((cpus[node] / tasks[node]))
        [[ -n $least ]] && ((least <= share)) || least=$share
    done
    ((!least)) || echo "$least"
}

# Options of every step with a task for each GPU. Neighbouring ranks sit on one node and one socket, as the GPUs of a
# node do, and each on whole cores of its own. --cpus-per-task because since 22.05 srun does not inherit it.
placement() { # sets placed
    local each
    each=$(cpus_per_task)
    placed=(--distribution=block:block --cpu-bind=cores ${each:+"--cpus-per-task=$each"})
}

rank_command() { # FOLDER [ARGUMENT...]; sets command: $program on every rank, a log for each
    placement
    # Nothing between srun and python: under cgroups Slurm signals only the task's own process.
    command=(srun "${placed[@]}" "${srun_args[@]}" --job-name="$STEP_NAME" --kill-on-bad-exit=1 --wait=60
        --output="$1/rank%4t.log" "$SAR_PYTHON" -u "${program[@]}" "${@:2}")
}

# The ranks of a killed srun notice it, save and end; what is left of them after a minute would keep the next try from starting.
wait_for_ranks() {
    local _
    for _ in {1..60}; do
        [[ -n $(left_steps) ]] || return 0
        sleep 1
    done
    say "srun has gone and its ranks have not ended: killed"
    left_steps | xargs scancel --signal=KILL
    sleep 2
}

# Steps that these scripts started and that have not ended; what somebody else runs in the job is let alone.
left_steps() { squeue --noheader --steps --jobs "$job" --format="%i %j" 2>/dev/null | sed -n "s/ $STEP_NAME *$//p"; }

# What a node's processes found, in one line; further lines are warnings.
verdict_of() { # FOLDER NODE TASKS
    local answers bad
    answers=$(cat "$1/nodes/$2".* 2>/dev/null)
    bad=$(sed -n 's/^bad: //p' <<<"$answers" | sort -u | sed ':all;N;$!ball;s/\n/; /g')
    if [[ -n $bad ]]; then
        echo "bad: $bad"
    elif (($(grep -c '^ok: ' <<<"$answers") < $3)); then
        echo "bad: gave no answer, see $1/preflight-$2.log"
    else
        grep -m 1 '^ok: ' <<<"$answers"
        grep '^warning: ' <<<"$answers" | sort -u
    fi
}

# Exit status 2 is bad input and nothing else: docs/clusters.md, "What an exit status means". srun's own status can be another:
# that of a rank which it killed because of the first. What it says of each task is reliable.
was_bad_input() { grep -q "Exited with exit code 2$" "$1/srun.log"; } # FOLDER
