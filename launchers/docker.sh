#!/usr/bin/env bash
# Trains in a container on this machine; every argument is a flag of main.py:
#
#   docker build -t dlrm .
#   DATA=/data/criteo launchers/docker.sh --flagfile=configs/sok-amp-epoch.flags
#
# DATA    dataset folder, mounted read-only as /data (the script passes --data_dir=/data)
# RUNS    folder for the run's files, mounted as /runs (default: ./runs)
# IMAGE   image of Dockerfile or Dockerfile.merlin (default: dlrm)
# RANKS   number of ranks (default: one per GPU or MIG instance, or 1)
# DOCKER  docker or a compatible program, such as podman (default: docker)
set -euo pipefail

: "${DATA:?set DATA to the dataset folder: DATA=/data/criteo launchers/docker.sh --flagfile=...}"
[[ -d $DATA ]] || { echo "docker.sh: DATA=$DATA: no such folder" >&2; exit 2; }
image=${IMAGE:-dlrm}
runs=${RUNS:-runs}
# The instances of a partitioned GPU (MIG) are devices; the GPU itself is not.
gpus=0
if command -v nvidia-smi >/dev/null; then
  gpus=$(nvidia-smi --list-gpus 2>/dev/null \
    | awk '/^GPU /{n++; gpu=1} /^ +MIG /{n+=!gpu; gpu=0} END{print n+0}' || true)
fi
ranks=${RANKS:-$((gpus > 0 ? gpus : 1))}
[[ $runs != *://* ]] || { echo "docker.sh: RUNS=$runs: expected a local path" >&2; exit 2; }
mkdir -p "$runs"

# NCCL needs pinned memory, and more shared memory than the default /dev/shm of 64 MB.
options=(--rm --ipc=host --ulimit memlock=-1 --ulimit stack=67108864)
((gpus > 0)) && options+=(--gpus=all)
[[ -t 0 && -t 1 ]] && options+=(-it)

exec "${DOCKER:-docker}" run "${options[@]}" \
  -v "$(realpath "$DATA"):/data:ro" -v "$(realpath "$runs"):/runs" "$image" \
  horovodrun -np "$ranks" ./hvd_wrapper.sh python3 main.py --data_dir=/data --run_dir=/runs "$@"
