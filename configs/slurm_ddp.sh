#!/bin/bash
# Fit on several nodes, one task per GPU. Prepare the scans once, before, and name a configuration file:
#   ptycho-torch prepare /scratch/scans/*.npz
#   sbatch configs/slurm_ddp.sh --config fit.yaml
# After a failure, add --ckpt_path FILE: the run goes on with the samples it has not seen.
#SBATCH --job-name=ptycho
#SBATCH --nodes=8
#SBATCH --ntasks-per-node=8
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=8
# A rank that dies ends the job, instead of leaving the others to wait.
srun --kill-on-bad-exit=1 ptycho-torch fit \
  --trainer.accelerator gpu \
  --trainer.devices "$SLURM_NTASKS_PER_NODE" \
  --trainer.num_nodes "$SLURM_NNODES" \
  --trainer.strategy ddp \
  --data.prepare_data_per_node false \
  "$@"
