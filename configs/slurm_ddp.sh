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
# A rank that dies ends the job, instead of leaving the others to wait. srun does not take the cores of
# a task from sbatch by itself. What stands behind "$@" holds whatever the configuration file says.
srun --kill-on-bad-exit=1 --cpus-per-task="$SLURM_CPUS_PER_TASK" ptycho-torch fit \
  --trainer.accelerator gpu \
  --trainer.strategy ddp \
  "$@" \
  --trainer.devices "$SLURM_NTASKS_PER_NODE" \
  --trainer.num_nodes "$SLURM_NNODES" \
  --data.prepare_data_per_node false
