#!/usr/bin/env bash
# Train on any number of nodes under Slurm, unattended. slurm/README.md says how to use and adapt it.
#   sbatch [--nodes=N ...] slurm/multinode.sh [configs/X.py] [key=value ...]
#   bash slurm/multinode.sh --dry-run [configs/X.py] [key=value ...]    print what would be launched; needs no cluster
#
# ---- Site settings: edit them, or give them to sbatch, which wins. One task per GPU; every task sees all GPUs of its
# ---- node and takes its own by local rank (with --gpus-per-task NCCL could not use NVLink between the tasks). A task's
# ---- CPUs are its share of the job's; a job that does not take whole nodes (--exclusive) must say --cpus-per-task.
#SBATCH --job-name=sar_dist
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=8
#SBATCH --gpus-per-node=8
#SBATCH --mem=0
#SBATCH --exclusive
#SBATCH --time=24:00:00
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=slurm-%x-%j.out
# Saving takes well under a minute; Slurm may signal up to a minute early. No "B:": each rank gets the signal itself.
#SBATCH --signal=USR2@300
# (partition and account: add "#SBATCH --partition=..." and "#SBATCH --account=..." here, or give them to sbatch.)

set -uo pipefail # not -e: handling failures is what this script is for

# sbatch runs a copy of this script from a spool folder, so the checkout is found through the job's own record.
script=${BASH_SOURCE[0]:-} record=""
[[ -z ${SLURM_JOB_ID:-} ]] || record=$(scontrol show job -o "$SLURM_JOB_ID" | grep "^JobId=$SLURM_JOB_ID ")
[[ -z $record ]] || script=$(sed -n 's/.* Command=\([^ ]*\).*/\1/p' <<<"$record")
[[ -f $script ]] || script=${SLURM_SUBMIT_DIR:-$PWD}/slurm/multinode.sh
REPOSITORY=${SAR_REPOSITORY:-$(dirname "$(dirname "$(readlink -f "$script")")")}
# shellcheck source=slurm/common.sh
source "$REPOSITORY/slurm/common.sh" || exit 1

: "${SAR_PROGRAM:=tools/train.py}"              # what every rank runs, with the configuration as arguments
: "${SAR_RETRIES:=3}"                           # restarts on the same nodes after crashes without a new checkpoint
: "${SAR_PREFLIGHT:=1}"                         # 0: no health check of the nodes
: "${SAR_PREFLIGHT_ARGS:=}"                     # limits, see slurm/preflight.py --help
: "${SAR_PREFLIGHT_SECONDS:=180}"               # for all of the health check
: "${SAR_GPUS_PER_NODE:=${SLURM_GPUS_ON_NODE:-0}}" # GPUs that the health check expects
: "${SAR_REQUEUE_FILE:=}"

export TORCH_NCCL_HEARTBEAT_TIMEOUT_SEC=${TORCH_NCCL_HEARTBEAT_TIMEOUT_SEC:-600}
export TORCH_FR_BUFFER_SIZE=${TORCH_FR_BUFFER_SIZE:-2000} # NCCL's last collectives, written out when one times out
export TORCH_FR_DUMP_ON_TIMEOUT=${TORCH_FR_DUMP_ON_TIMEOUT:-1}

preflight_command() { # FOLDER
    placement
    command=(srun "${placed[@]}" "${srun_args[@]}" --job-name="$STEP_NAME" --kill-on-bad-exit=0
        --output="$1/preflight-%N.log" "$SAR_PYTHON" -u slurm/preflight.py --out "$1/nodes" --run "$run_directory"
        --gpus "$SAR_GPUS_PER_NODE" "${preflight_args[@]}")
}

training_command() { rank_command "$1" --config "$config" "${overrides[@]}"; } # FOLDER

# The first use of the configuration: a bad one ends the job here, with one line, before any rank is started.
find_run_directory() {
    local outside=()
    [[ -z $SAR_SRUN_ARGS || -z ${SLURM_JOB_ID:-} ]] || outside=(srun "${srun_args[@]}" --nodes=1 --ntasks=1)
    run_directory=$("${outside[@]}" "$SAR_PYTHON" slurm/run_directory.py --config "$config" "${overrides[@]}") || exit 2
}

newest_step() { # the step of the newest committed checkpoint, 0 without one
    local newest=0 folder step
    for folder in "$run_directory"/checkpoints/step_*/; do
        step=${folder%/} step=${step##*_}
        [[ ! $step =~ ^[0-9]+$ ]] || ((10#$step <= newest)) || newest=$((10#$step))
    done
    echo "$newest"
}

# Status 0 is also that of a run which somebody stopped with SIGINT or SIGQUIT. A shared file system may show a file late.
has_finished() {
    local _
    for _ in {1..30}; do
        [[ ! -e $run_directory/summary.json ]] || return 0
        sleep 2
    done
    return 1
}

# Judged at the start of a life, so that it also counts those that Slurm itself began after losing a node.
check_progress() {
    local now before=0 fruitless=0
    now=$(newest_step)
    if ((life > 0)) && [[ -f $job_folder/progress ]]; then
        read -r before fruitless <"$job_folder/progress"
        if ((now > before)); then fruitless=0; else fruitless=$((fruitless + 1)); fi
        say "life $life of job $job: newest checkpoint is step $now, was $before"
    fi
    if ((fruitless > SAR_REQUEUES)); then
        say "giving up: $fruitless lives in a row brought no new checkpoint (SAR_REQUEUES=$SAR_REQUEUES)"
        exit 1
    fi
    echo "$now $fruitless" >"$job_folder/progress"
}

record_environment() {
    {
        echo "date: $(date -Is)"
        echo "commit: $(git rev-parse HEAD 2>/dev/null || echo "not a checkout")"
        git status --short --untracked-files=no 2>/dev/null
        echo "python: $("$SAR_PYTHON" --version 2>&1) ($SAR_PYTHON)"
        echo "arguments: $config ${overrides[*]}"
        scontrol show job "$job"
        env | grep -E '^(SAR|SLURM|NCCL|TORCH|TORCHINDUCTOR|TRITON|GLOO|OMP|CUDA|UCX|FI)_' | sort
    } >"$job_folder/environment-life$life.txt"
}

# Run in the background and wait, so that the trap below works at once; only then does the exit status count.
run_step() { # SECONDS ERRORFILE COMMAND...
    local limit=$1 errors=$2 process
    shift 2
    timeout --foreground "$limit" "$@" 2> >(tee "$errors" >&2) &
    process=$!
    status=0
    wait "$process" || status=$?
    while kill -0 "$process" 2>/dev/null; do # a signal ended the wait, not the step
        status=0
        wait "$process" || status=$?
    done
    wait_for_ranks
}

# Sets bad_nodes. Returns 0 when training can start.
preflight() { # FOLDER
    local number node verdict tasks bad=()
    bad_nodes=""
    ((SAR_PREFLIGHT)) || return 0
    mkdir -p "$1/nodes"
    preflight_command "$1"
    run_step "$SAR_PREFLIGHT_SECONDS" "$1/preflight-srun.log" "${command[@]}"
    mapfile -t tasks < <(spelled_out "${SLURM_TASKS_PER_NODE:-}")
    for number in "${!hosts[@]}"; do
        node=${hosts[number]}
        verdict=$(verdict_of "$1" "$node" "${tasks[number]:-1}")
        say "preflight: $node $verdict"
        [[ $verdict != bad* ]] || bad+=("$node")
    done
    ((!stop)) || return 1
    ((${#bad[@]})) || return "$status"
    # A fault of all nodes is one of the site or of the settings; excluding them would only hide it.
    ((${#bad[@]} == nodes && nodes > 1)) || bad_nodes=$(IFS=,; echo "${bad[*]}")
    return 1
}

requeue() { # REASON
    local excluded _
    say "requeueing job $job: $1"
    trap '' TERM # requeueing ends this script too
    scontrol requeue "$job" || { say "Slurm refused to requeue (was the job submitted with --no-requeue?)"; exit 1; }
    [[ -n $bad_nodes ]] || exit 0
    # Only a pending job's list can be changed, and the requeued one stays pending for a while.
    excluded=$(scontrol show job -o "$job" | sed -n 's/.* ExcNodeList=\([^ ]*\).*/\1/p')
    [[ $excluded != "(null)" && -n $excluded ]] && bad_nodes=$excluded,$bad_nodes
    for _ in 1 2 3 4 5; do
        scontrol update JobId="$job" ExcNodeList="$bad_nodes" && say "excluded from now on: $bad_nodes" && exit 0
        sleep 0.5
    done
    say "could not exclude $bad_nodes; the next life will find it again"
    exit 0
}

train() { # FOLDER; sets outcome
    local follower
    training_command "$1"
    touch "$1/rank0000.log"
    tail -n +1 -F "$1/rank0000.log" 2>/dev/null & # rank 0's lines in the job's log
    follower=$!
    trap 'warned=1; scancel --signal=USR2 "$job"' USR1 USR2 # to the ranks
    run_step 0 "$1/srun.log" "${command[@]}"
    trap 'warned=1' USR1 USR2
    sleep 1.2 # tail looks once a second
    kill "$follower" 2>/dev/null && wait "$follower" 2>/dev/null
    if [[ -s $SAR_REQUEUE_FILE ]]; then # a file and not an exit status: a rank that ends later may turn that into 143
        outcome=requeue
    elif ((status == 0)) && has_finished; then
        outcome="done"
    elif ((status == 0)); then
        outcome=stopped
    elif was_bad_input "$1"; then
        outcome=bad_input
    else
        outcome=crash
    fi
}

attempt() { # NUMBER; sets outcome
    local folder=$job_folder/life$life.try$1
    mkdir -p "$folder"
    rm -rf "${folder:?}"/{requeue,nodes} # of a job that had this number in an earlier life of the cluster
    export MASTER_PORT SAR_REQUEUE_FILE=$folder/requeue SAR_TRY=$life.$1 TORCH_FR_DUMP_TEMP_FILE=$folder/nccl_flight_recorder_
    MASTER_PORT=$(port_of_try "$1")
    export TORCH_NCCL_DEBUG_INFO_TEMP_FILE=$TORCH_FR_DUMP_TEMP_FILE # its older name
    say "life $life, try $1: $nodes nodes (${hosts[*]}), meeting at $MASTER_ADDR:$MASTER_PORT; logs: $folder"
    if preflight "$folder" && ((!warned)); then train "$folder"; else outcome=unfit; fi
    ((!warned)) || [[ $outcome != unfit && $outcome != crash ]] || outcome=warned
    ((!stop)) || outcome=cancelled
    case $outcome in bad_input | crash) summarize "$folder" ;; esac
}

summarize() { "$SAR_PYTHON" slurm/summarize_logs.py "$1" || tail -n 5 "$1"/rank*.log; }

# In this life until the run is done, the job is requeued or nothing is left to try.
attempts() {
    local number=0 fruitless=0 before now
    while :; do
        before=$(newest_step)
        attempt "$number"
        case $outcome in
        done) say "training is done: $run_directory"; exit 0 ;;
        bad_input) say "bad input: trying again would not help"; exit 2 ;;
        stopped) say "stopped before its end by SIGINT or SIGQUIT, which asks for no requeue: the same sbatch goes on"; exit 130 ;;
        cancelled) say "ended by scancel, by the time limit, or by Slurm to requeue it: nothing to do here"; exit 1 ;;
        requeue) requeue "$(cat "$SAR_REQUEUE_FILE")" ;;
        warned) requeue "the time limit is near" ;;
        unfit) [[ -z $bad_nodes ]] || requeue "unfit: $bad_nodes" ;;
        esac
        now=$(newest_step)
        if ((now > before)); then fruitless=0; else fruitless=$((fruitless + 1)); fi
        ((fruitless <= SAR_RETRIES)) || { say "giving up after $fruitless tries without a new checkpoint"; exit 1; }
        number=$((number + 1))
        say "trying again from step $now ($fruitless of $SAR_RETRIES tries without a new checkpoint)"
    done
}

dry_run() {
    local script=$REPOSITORY/slurm/multinode.sh folder=$SAR_LOG_DIR/JOBID/life0.try0
    nodes=$(sed -n 's/^#SBATCH --nodes=//p' "$script")
    SAR_GPUS_PER_NODE=$(sed -n 's/^#SBATCH --gpus-per-node=//p' "$script")
    : "${SLURM_CPUS_PER_TASK:=<CPUs of a node / its tasks>}"
    find_run_directory
    echo "run directory:  $run_directory (newest checkpoint: step $(newest_step))"
    echo "logs:           $folder"
    echo "job (sbatch's own options win):"
    sed -n 's/^#SBATCH /    /p' "$script"
    echo "environment of every rank:"
    env | grep -E '^(NCCL|TORCH|TORCHINDUCTOR|TRITON|GLOO|OMP)_' | sort | sed 's/^/    /'
    echo "    MASTER_ADDR=<first node of the allocation> MASTER_PORT=<20000-29999> SAR_REQUEUE_FILE=$folder/requeue"
    preflight_command "$folder"
    ((!SAR_PREFLIGHT)) || echo "health check:   $(printf '%q ' "${command[@]}")"
    training_command "$folder"
    echo "training:       $(printf '%q ' "${command[@]}")"
}

main() {
    local dry=0
    [[ ${1:-} != --dry-run ]] || { dry=1; shift; }
    config=configs/vit_l_in1k.py overrides=()
    if [[ $# -gt 0 && $1 != *=* ]]; then config=$1; shift; fi
    [[ ! -f $config ]] || config=$(readlink -f "$config") # relative to where sbatch was called, or to the checkout
    overrides=("${@//%a/${SLURM_ARRAY_TASK_ID:-%a}}")     # an array's tasks differ by %a, as in Slurm's own file names
    read -ra srun_args <<<"$SAR_SRUN_ARGS"
    read -ra preflight_args <<<"$SAR_PREFLIGHT_ARGS"
    read -ra program <<<"$SAR_PROGRAM"
    stop=0 warned=0 bad_nodes=""
    cd "$REPOSITORY" || exit 1
    ((!dry)) || { dry_run; exit 0; }
    [[ -n ${SLURM_JOB_ID:-} ]] || { echo "error: start me with sbatch, or with --dry-run" >&2; exit 2; }

    # Slurm TERMs this shell on scancel and at the end of the time limit or of a preemption's grace: never to be
    # answered by a requeue, whatever the ranks saved meanwhile.
    trap 'stop=1' TERM
    # With --signal=B:... the warning before the time limit comes to this shell alone, and would end it.
    trap 'warned=1' USR1 USR2
    mapfile -t hosts < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
    export MASTER_ADDR=${hosts[0]}
    nodes=${#hosts[@]} job_folder=$SAR_LOG_DIR/$SLURM_JOB_ID
    mkdir -p "$job_folder" || exit 1
    find_run_directory
    check_progress
    record_environment
    attempts
}

main "$@"
