#!/bin/bash
# ray.sh: four machines of eight GPUs
#SBATCH --job-name=gpupeak-ray
#SBATCH --nodes=4
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=128
#SBATCH --exclusive
#SBATCH --time=04:00:00
set -euo pipefail
source /shared/gpupeak/.venv/bin/activate
export RAY_USAGE_STATS_ENABLED=0 RAY_AUTH_MODE=token
ray get-auth-token --generate >/dev/null  # in ~/.ray, which all machines see here
head=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | sed -n 1p)
others=$((SLURM_NNODES - 1))
srun --nodes=1 --ntasks=1 --nodelist="$head" \
    ray start --head --port=6379 --num-cpus="$SLURM_CPUS_PER_TASK" --num-gpus=8 --block &
until ray status --address "$head:6379" >/dev/null 2>&1; do sleep 2; done
if [ "$others" -gt 0 ]; then
    srun --nodes="$others" --ntasks="$others" --exclude="$head" \
        ray start --address="$head:6379" --num-cpus="$SLURM_CPUS_PER_TASK" --num-gpus=8 --block &
fi
there='import os, sys, ray; ray.init("auto"); sys.exit(len(ray.nodes()) < int(os.environ["SLURM_NNODES"]))'
until python -c "$there" >/dev/null 2>&1; do sleep 5; done
gpupeak extract --quiet --engine ray --address auto --dataset-root /data/MER --mer-factory-output /data/AU \
    --output-root /shared/features --weights /shared/clip-vit-large-patch14
