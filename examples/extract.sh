#!/bin/bash
# extract.sh: sixteen shards, a GPU each
#SBATCH --job-name=gpupeak
#SBATCH --array=0-15
#SBATCH --gres=gpu:1
#SBATCH --cpus-per-task=16
#SBATCH --mem=48G
#SBATCH --time=04:00:00
#SBATCH --requeue
set -euo pipefail
source /shared/gpupeak/.venv/bin/activate
srun gpupeak extract --quiet --dataset-root /data/MER --mer-factory-output /data/AU \
    --output-root /shared/features --weights /shared/clip-vit-large-patch14
