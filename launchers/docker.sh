#!/usr/bin/env bash
# Trains in a container on this machine; every argument is a flag of main.py:
#
#   docker build -t dlrm .
#   DATA=/data/criteo launchers/docker.sh --flagfile=configs/sok-amp-epoch.flags
#
# DATA    dataset folder, seen read-only as /data (--data_dir=/data is passed)
# RUNS    folder that takes the run's files, seen as /runs (default: ./runs)
# IMAGE   image (default: dlrm), of Dockerfile or Dockerfile.merlin
# RANKS   ranks (default: the number of GPUs and MIG instances, or 1)
# DOCKER  docker, or a program that takes its options, such as podman (default: docker)
set -euo pipefail

: "${DATA:?set DATA to the dataset folder: DATA=/data/criteo launchers/docker.sh --flagfile=...}"
[[ -d $DATA ]] || { echo "docker.sh: DATA=$DATA: no such folder" >&2; exit 2; }
image=${IMAGE:-dlrm}
runs=${RUNS:-runs}
# An instance of a divided GPU (MIG) counts as a device, and the GPU itself does not.
gpus=0
if command -v nvidia-smi >/dev/null; then
  gpus=$(nvidia-smi --list-gpus 2>/dev/null \
    | awk '/^GPU /{n++; whole=1} /^ +MIG /{n+=!whole; whole=0} END{print n+0}' || true)
fi
ranks=${RANKS:-$((gpus > 0 ? gpus : 1))}
[[ $runs != *://* ]] || { echo "docker.sh: only local paths are supported, found $runs (RUNS)" >&2; exit 2; }
mkdir -p "$runs"

# Shared memory and pinned memory for NCCL; /dev/shm of 64 MB is too small for it.
options=(--rm --ipc=host --ulimit memlock=-1 --ulimit stack=67108864)
((gpus > 0)) && options+=(--gpus=all)
[[ -t 0 && -t 1 ]] && options+=(-it)

exec "${DOCKER:-docker}" run "${options[@]}" \
  -v "$(realpath "$DATA"):/data:ro" -v "$(realpath "$runs"):/runs" "$image" \
  horovodrun -np "$ranks" ./hvd_wrapper.sh python3 main.py --data_dir=/data --run_dir=/runs "$@"
