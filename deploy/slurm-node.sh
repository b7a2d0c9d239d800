#!/bin/bash
# The pipeline on one node, all of its GPUs: sbatch deploy/slurm-node.sh (docs/imagenet.md)
#SBATCH --job-name=gear
#SBATCH --nodes=1
#SBATCH --ntasks=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=64
#SBATCH --time=3-00:00:00
#SBATCH --signal=B:TERM@300
#SBATCH --requeue

# Five minutes before the time limit, and when the job is preempted, the stage gets SIGTERM and
# saves its state. The job goes back to the queue and resumes from there.
set -uo pipefail
cd "${SLURM_SUBMIT_DIR:?}" || exit 2
source .venv/bin/activate
stopping=
dvc repro &
pipeline=$!
trap 'stopping=yes; pkill -TERM --parent "$pipeline"' TERM
wait "$pipeline"
code=$?
if [[ $stopping ]]; then
    wait "$pipeline" # the first wait ended with the signal
    scontrol requeue "$SLURM_JOB_ID"
fi
exit "$code"
