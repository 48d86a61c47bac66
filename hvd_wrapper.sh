#!/usr/bin/env bash
# Binds one rank to its GPU, or to its share of the cores, then executes the command:
#
#   horovodrun -np 8 ./hvd_wrapper.sh python3 main.py ...
#
# Supports horovodrun, Open MPI, MPICH, Intel MPI, MVAPICH2, PALS, jsrun, Flux and Slurm
# (training/runtime/launcher.py). Keeps variables that are already set (CUDA_VISIBLE_DEVICES,
# OMP_NUM_THREADS, TF_NUM_*_THREADS). DLRM_BIND=none does not bind the cores.
set -euo pipefail

(($#)) || { echo "usage: hvd_wrapper.sh COMMAND [ARGUMENT ...]" >&2; exit 2; }
[[ ${DLRM_BIND:-cores} =~ ^(cores|none)$ ]] \
  || { echo "hvd_wrapper: DLRM_BIND=$DLRM_BIND: expected cores or none" >&2; exit 2; }

# Python selects rank and device, as in main.py. Use the command's Python, or the first in PATH.
python=python3
[[ ${1##*/} =~ ^python[0-9.]*$ ]] && python=$1
command -v "$python" >/dev/null || { echo "hvd_wrapper: $python is not in PATH: activate the environment" >&2; exit 2; }
python=$(command -v "$python")
[[ $python == /* ]] || python=$PWD/$python
binding=$(cd "$(dirname "${BASH_SOURCE[0]}")" && "$python" -ES -m training.runtime.binding) || exit
{ read -r rank; read -r ranks; read -r device; read -r explanation; } <<<"$binding"
[[ -z $device ]] || export CUDA_VISIBLE_DEVICES=$device

# The cores this process may use, one per line, within an outer taskset, cgroup or Slurm binding.
mapfile -t cores < <(
  taskset -pc $$ 2>/dev/null | sed 's/.*: //' | tr ',' '\n' | while IFS=- read -r first last; do
    [[ -n $first ]] && seq "$first" "${last:-$first}"
  done
)
((${#cores[@]})) || mapfile -t cores < <(seq 0 $(($(nproc) - 1)))

bind=()
if [[ ${DLRM_BIND:-cores} == cores ]] && ((ranks > 1)); then
  # Contiguous shares. With more ranks than cores, several ranks share a core.
  begin=$((${#cores[@]} * rank / ranks))
  end=$((${#cores[@]} * (rank + 1) / ranks))
  ((end > begin)) || end=$((begin + 1))
  share=("${cores[@]:begin:end-begin}")
  list=$(IFS=,; echo "${share[*]}")
  # Do not bind if Slurm has bound the task already.
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
# At least two: a blocked exchange must not stop the rest of the step.
export TF_NUM_INTEROP_THREADS=${TF_NUM_INTEROP_THREADS:-$((threads > 2 ? threads : 2))}

# In a subshell: a closed, full or broken standard output ends only that.
(echo "[hvd_wrapper] local rank $rank of $ranks: $explanation, cores $list${bind:+ (bound)}, $OMP_NUM_THREADS threads") 2>/dev/null || true
exec "${bind[@]}" "$@"
