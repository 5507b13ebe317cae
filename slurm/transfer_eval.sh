#!/usr/bin/env bash
# Evaluate a finished run on the transfer suite, one task after the other, on the GPUs of one node or more.
#   sbatch slurm/transfer_eval.sh runs/NAME                                      the suite below, as far as data are there
#   sbatch slurm/transfer_eval.sh runs/NAME "knn" "ade20k head=upernet batch=16" only these: TASK [--data ROOT] [key=value ...]
#   sbatch --dependency=afterok:JOBID slurm/transfer_eval.sh runs/NAME           once a training job has finished the run
#   bash slurm/transfer_eval.sh --dry-run runs/NAME                              print what would be run; needs no cluster
# Data are found below $SAR_DIST_DATA or data/. Results are in runs/NAME/transfer; what is done is not done again, so the
# same command, or Slurm's requeue, goes on where it was.
#
#SBATCH --job-name=sar_transfer
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=8
#SBATCH --gpus-per-node=8
#SBATCH --mem=0
#SBATCH --exclusive
#SBATCH --time=24:00:00
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=slurm-%x-%j.out
# To this script alone: an evaluation needs no warning, what it has stored so far is all that it can save.
#SBATCH --signal=B:USR2@120

set -uo pipefail # not -e: handling failures is what this script is for

SUITE=(
    "imagenet_val" "knn" "imagenet_linear" "logreg" "imagenet_real" "imagenet_v2" "imagenet_a" "imagenet_r"
    "imagenet_sketch" "imagenet_c" "ade20k head=linear" "voc_seg" "voc_attention"
)

# sbatch runs a copy of this script from a spool folder, so the checkout is found through the job's own record.
script=${BASH_SOURCE[0]:-} record=""
[[ -z ${SLURM_JOB_ID:-} ]] || record=$(scontrol show job -o "$SLURM_JOB_ID" | grep "^JobId=$SLURM_JOB_ID ")
[[ -z $record ]] || script=$(sed -n 's/.* Command=\([^ ]*\).*/\1/p' <<<"$record")
[[ -f $script ]] || script=${SLURM_SUBMIT_DIR:-$PWD}/slurm/transfer_eval.sh
REPOSITORY=${SAR_REPOSITORY:-$(dirname "$(dirname "$(readlink -f "$script")")")}
# shellcheck source=slurm/common.sh
source "$REPOSITORY/slurm/common.sh" || exit 1

: "${SAR_RETRIES:=1}"                      # further tries of a task that crashed; it goes on where it was
: "${SAR_PROGRAM:=tools/transfer_eval.py}" # what every rank runs

evaluation_command() { rank_command "$1" --model "$run" --task "${@:2}"; } # LOGS TASK [ARGUMENT...]

results() { find "$run/transfer" -name result.json 2>/dev/null | wc -l; }

# A life that brought no new result has a limit; one that did starts the count again.
check_progress() {
    local now before=-1 fruitless=0
    now=$(results)
    [[ ! -f $job_folder/progress ]] || read -r before fruitless <"$job_folder/progress"
    if ((now > before)); then fruitless=0; else fruitless=$((fruitless + 1)); fi
    if ((fruitless > SAR_REQUEUES)); then
        say "giving up: $fruitless lives in a row brought no new result (SAR_REQUEUES=$SAR_REQUEUES)"
        exit 1
    fi
    echo "$now $fruitless" >"$job_folder/progress"
}

# In the background and waited for, so that a signal is answered at once.
evaluate() { # NUMBER TASK [ARGUMENT...]; sets status, logs
    local number=$1 try process
    shift
    for ((try = 0; try <= SAR_RETRIES; try++)); do
        logs=$job_folder/life$life.task$number.$1.try$try
        mkdir -p "$logs"
        MASTER_PORT=$(port_of_try $((number * 3 + try)))
        export MASTER_PORT
        evaluation_command "$logs" "$@"
        "${command[@]}" 2> >(tee "$logs/srun.log" >&2) &
        process=$!
        wait "$process"
        status=$?
        ((!requeue)) || { kill "$process" 2>/dev/null; wait "$process"; say "requeueing job $job: the time limit is near"; scontrol requeue "$job"; exit 0; }
        ((status)) || break
        wait_for_ranks
        if was_bad_input "$logs"; then status=2; break; fi
        "$SAR_PYTHON" slurm/summarize_logs.py "$logs"
    done
}

main() {
    local dry=0 number=0 failed=0 finished=0 explicit=1 evaluation words
    [[ ${1:-} != --dry-run ]] || { dry=1; shift; }
    [[ $# -gt 0 ]] || { echo "error: say which run: slurm/transfer_eval.sh runs/NAME [\"TASK key=value ...\" ...]" >&2; exit 2; }
    run=$(readlink -m "$1")
    shift
    suite=("$@")
    [[ $# -gt 0 ]] || { suite=("${SUITE[@]}"); explicit=0; }
    read -ra srun_args <<<"$SAR_SRUN_ARGS"
    read -ra program <<<"$SAR_PROGRAM"
    requeue=0
    cd "$REPOSITORY" || exit 1
    ((dry)) || [[ -n ${SLURM_JOB_ID:-} ]] || { echo "error: start me with sbatch, or with --dry-run" >&2; exit 2; }
    [[ -f $run/config.json || -f $run/model.safetensors ]] || { echo "error: $run is neither a run nor an export" >&2; exit 2; }
    job_folder=$SAR_LOG_DIR/${SLURM_JOB_ID:-JOBID}
    if ((!dry)); then
        mkdir -p "$job_folder" || exit 1
        trap 'requeue=1' USR2
        MASTER_ADDR=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
        export MASTER_ADDR
        check_progress
    fi
    for evaluation in "${suite[@]}"; do
        read -ra words <<<"$evaluation"
        if ((dry)); then
            evaluation_command "$job_folder/life0.task$number.${words[0]}.try0" "${words[@]}"
            printf '%q ' "${command[@]}" && echo
        else
            evaluate "$number" "${words[@]}"
            case $status in
            0) say "done: $evaluation"; finished=$((finished + 1)) ;;
            2)
                say "not run: $evaluation: $(grep -h "^error:" "$logs"/rank*.log | head -n 1)"
                ((!explicit)) || failed=1 # the suite takes what data there are; what was asked for must be there
                ;;
            *) say "failed: $evaluation, status $status; logs: $logs"; failed=1 ;;
            esac
        fi
        number=$((number + 1))
    done
    ((!dry)) || exit 0
    say "$finished of ${#suite[@]} evaluations are done: $run/transfer"
    ((finished > 0 && !failed)) || exit 1
}

main "$@"
