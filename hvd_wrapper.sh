#!/usr/bin/env bash
# Binds one rank to its GPU or to its share of the cores, then becomes the command:
#
#   horovodrun -np 8 ./hvd_wrapper.sh python3 main.py ...
#
# The local rank is found under Gloo horovodrun, Open MPI, Slurm, MPICH and Intel MPI. What the
# caller has set (CUDA_VISIBLE_DEVICES, OMP_NUM_THREADS, TF_NUM_*_THREADS) is left as it is.
# DLRM_BIND=none leaves the cores alone.
set -euo pipefail

(($#)) || { echo "usage: hvd_wrapper.sh COMMAND [ARGUMENT ...]" >&2; exit 2; }

first_set() {
  local name
  for name in "$@"; do
    if [[ -n ${!name:-} ]]; then
      echo "${!name}"
      return
    fi
  done
}

rank=$(first_set HOROVOD_LOCAL_RANK OMPI_COMM_WORLD_LOCAL_RANK MPI_LOCALRANKID MV2_COMM_WORLD_LOCAL_RANK SLURM_LOCALID)
# Slurm says how many tasks run on each node as "8" or "8(x2),4": the largest is a safe divisor.
# shellcheck disable=SC2034  # first_set reads it by name
slurm_ranks=$(sed -E 's/\(x[0-9]+\)//g' <<<"${SLURM_STEP_TASKS_PER_NODE:-}" | tr ',' '\n' | sort -n | tail -n 1)
ranks=$(first_set HOROVOD_LOCAL_SIZE OMPI_COMM_WORLD_LOCAL_SIZE MPI_LOCALNRANKS MV2_COMM_WORLD_LOCAL_SIZE slurm_ranks)
rank=${rank:-0}
ranks=${ranks:-1}
[[ $rank =~ ^[0-9]+$ && $ranks =~ ^[1-9][0-9]*$ ]] \
  || { echo "hvd_wrapper: local rank '$rank' of '$ranks' local ranks: expected two numbers" >&2; exit 2; }

gpus=0
if [[ -z ${CUDA_VISIBLE_DEVICES+set} ]] && command -v nvidia-smi >/dev/null; then
  gpus=$(nvidia-smi --list-gpus 2>/dev/null | grep -c '^GPU ' || true)
fi

if [[ -n ${CUDA_VISIBLE_DEVICES+set} ]]; then
  chosen="CUDA_VISIBLE_DEVICES=${CUDA_VISIBLE_DEVICES:-none} (as given)"
elif ((gpus > 0)); then
  ((rank < gpus)) || { echo "hvd_wrapper: local rank $rank has no GPU: $ranks local ranks, $gpus GPUs" >&2; exit 2; }
  export CUDA_VISIBLE_DEVICES=$rank
  chosen="GPU $rank of $gpus"
else
  chosen="no GPU"
fi

# Cores this process may use, one a line: an outer taskset, cgroup or Slurm binding is respected.
mapfile -t cores < <(
  taskset -pc $$ 2>/dev/null | sed 's/.*: //' | tr ',' '\n' | while IFS=- read -r first last; do
    [[ -n $first ]] && seq "$first" "${last:-$first}"
  done
)
((${#cores[@]})) || mapfile -t cores < <(seq 0 $(($(nproc) - 1)))

bind=()
if [[ ${DLRM_BIND:-cores} == cores ]] && ((ranks > 1)); then
  # Contiguous shares; with more ranks than cores, several ranks share one.
  begin=$((${#cores[@]} * rank / ranks))
  end=$((${#cores[@]} * (rank + 1) / ranks))
  ((end > begin)) || end=$((begin + 1))
  share=("${cores[@]:begin:end-begin}")
  list=$(IFS=,; echo "${share[*]}")
  # Slurm has bound each task by itself where its share is already smaller than the node's cores.
  if [[ -z ${SLURM_CPU_BIND_TYPE:-} || ${SLURM_CPU_BIND_TYPE:-} == none* ]] && command -v taskset >/dev/null; then
    bind=(taskset -c "$list")
  fi
else
  share=("${cores[@]}")
  list=$(IFS=,; echo "${share[*]}")
fi

threads=${#share[@]}
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-$threads}
export TF_NUM_INTRAOP_THREADS=${TF_NUM_INTRAOP_THREADS:-$threads}
# Two at least: a blocked exchange must not keep the rest of the step from running.
export TF_NUM_INTEROP_THREADS=${TF_NUM_INTEROP_THREADS:-$((threads > 2 ? threads : 2))}

# In a process of its own, which is all that a closed, full or broken standard output ends.
(echo "[hvd_wrapper] local rank $rank of $ranks: $chosen, cores $list${bind:+ (bound)}, $OMP_NUM_THREADS threads") 2>/dev/null || true
exec "${bind[@]}" "$@"
