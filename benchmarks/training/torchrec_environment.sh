#!/usr/bin/env bash
# Creates the environment of the benchmark's TorchRec peer: torchrec_environment.sh [FOLDER]
#
# PyTorch and TensorFlow need different versions of NumPy and protobuf, hence two environments. The
# default folder is .venv-torch in this checkout. PYTHON selects the interpreter. TORCH_INDEX adds a
# package index, e.g. https://download.pytorch.org/whl/cpu for PyTorch without CUDA.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
folder=${1:-$here/../../.venv-torch}

[[ -x $folder/bin/python ]] || "${PYTHON:-python3}" -m venv "$folder"
install() {
  "$folder/bin/python" -m pip install --quiet --disable-pip-version-check \
    ${TORCH_INDEX:+--extra-index-url "$TORCH_INDEX"} -c "$here/torchrec_constraints.txt" "$@"
}
install torch fbgemm-gpu-cpu numpy iopath pyre-extensions tensordict torchmetrics tqdm
# Without dependencies: they include FBGEMM's CUDA build, which would overwrite the CPU build.
install --no-deps torchrec
"$folder/bin/python" -c 'import torch, fbgemm_gpu, torchrec'
echo "torchrec_environment: ready: $folder"
