#!/bin/bash
# The pipeline on several nodes with a shared disk: sbatch deploy/slurm-nodes.sh (docs/imagenet.md)
#SBATCH --job-name=gear
#SBATCH --nodes=4
#SBATCH --ntasks-per-node=8
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=8
#SBATCH --time=3-00:00:00
#SBATCH --requeue

# srun starts one process a GPU; they share a stage's work, and DVC records what they made.
set -euo pipefail
cd "${SLURM_SUBMIT_DIR:?}"
source .venv/bin/activate
MASTER_ADDR=$(scontrol show hostnames "${SLURM_JOB_NODELIST:?}" | head -n 1)
export MASTER_ADDR MASTER_PORT="${MASTER_PORT:-29500}"
export SRUN_CPUS_PER_TASK="${SLURM_CPUS_PER_TASK:-1}" # srun does not take it from sbatch

dvc repro validate
for stage in features reference tokenizer joint generator sample reconstruction evaluate codebook; do
    if ! dvc status --quiet "$stage"; then
        srun --kill-on-bad-exit=1 python -m gear "$stage"
        dvc commit --force "$stage"
    fi
done
dvc repro
