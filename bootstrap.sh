#!/usr/bin/env bash
# Creates the project's virtual environment: bootstrap.sh FOLDER [TENSORFLOW_VERSION]
#
# Checks the machine first and reports what is missing in one line. Then installs the packages of that
# TensorFlow's lock and builds Horovod. Needs a Python and a TensorFlow from locks/matrix.txt, a C++
# compiler and make; CMake is installed as a package, and nvcc if a GPU host has none.
#   PYTHON     interpreter; default: the first supported one of python3, python3.13, ...
#   DEVICE     cpu or gpu: which TensorFlow to install; default: gpu if nvidia-smi lists a GPU that,
#              with its driver, runs the CUDA kernels
#   DLRM_NVCC  nvcc for the CUDA kernels, or pip to install one; see docs/gpu.md
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

folder=${1:?usage: bootstrap.sh FOLDER [TENSORFLOW_VERSION]}
matrix=locks/matrix.txt
tensorflow=${2-$(awk '!/^#/ && $NF == "default" {print $1}' $matrix)}
device=${DEVICE:-auto}

fail() {
  echo "bootstrap: $*" >&2
  exit 1
}

# Prints the supported versions in one line, grouped by Pythons.
table() {
  awk '
    function flush() { if (versions) { printf "%s%s on Python %s", separator, versions, range; separator = "; " } }
    /^#/ || !NF { next }
    {
      last = NF - ($NF == "default")
      now = $2 "-" $last
      if (now != range) { flush(); versions = ""; range = now }
      versions = versions (versions ? ", " : "") $1 ($NF == "default" ? " (default)" : "")
    }
    END { flush() }' $matrix
}

pythons=$(awk -v version="$tensorflow" '$1 == version {for (i = 2; i <= NF; i++) if ($i != "default") print $i}' $matrix)
[[ -n $pythons ]] || fail "unsupported TensorFlow: expected TensorFlow $(table), found $tensorflow"

# With a broken driver nvidia-smi fails or hangs. grep reads all of its output: with -q nvidia-smi
# could end with SIGPIPE, which fails the pipeline.
has_gpu() {
  timeout 20 nvidia-smi -L 2>/dev/null | grep '^GPU ' >/dev/null
}

# Prints the host's nvcc; fails if there is none. Searches as ops/cuda_toolkit.cmake does.
host_nvcc() {
  local place
  case ${DLRM_NVCC:-} in
    pip) return 1 ;;
    ?*) echo "$DLRM_NVCC" && return ;;
  esac
  for place in "${CUDA_HOME:-}" "${CUDA_PATH:-}"; do
    if [[ -n $place && -x $place/bin/nvcc ]]; then echo "$place/bin/nvcc" && return; fi
  done
  command -v nvcc && return
  [[ -x /usr/local/cuda/bin/nvcc ]] && echo /usr/local/cuda/bin/nvcc
}

query_gpus() {
  timeout 20 nvidia-smi --query-gpu="$1" --format=csv,noheader 2>/dev/null | grep -xE '[0-9.]+' || true
}

# Sets `problem` if this host's GPUs or their driver cannot run the CUDA kernels, and `fix`.
find_problem() {
  local driver capability nvcc release=13 oldest whose="nvcc from pip"
  if nvcc=$(host_nvcc); then
    release=$({ "$nvcc" --version 2>/dev/null || true; } | sed -n 's/.*release \([0-9]*\)\..*/\1/p')
    whose=$nvcc
  fi
  oldest=$(sed -n "s/^set(DLRM_CUDA_DRIVER_${release:-none} \(.*\))/\1/p" ops/cuda_toolkit.cmake)
  driver=$(query_gpus driver_version | sed -n 1p)
  capability=$(query_gpus compute_cap | sort -V | tail -n 1)
  if [[ -n $capability ]] && ((${capability%.*} < 8)); then
    problem="GPU: the CUDA kernels need compute capability 8.0 or later, found $capability"
    fix="install such a GPU"
  elif [[ -n $driver && -n $oldest && $(printf '%s\n' "$oldest" "$driver" | sort -V | sed -n 1p) != "$oldest" ]]; then
    problem="NVIDIA driver: the CUDA kernels of $whose (CUDA $release) need $oldest or later, found $driver"
    fix="update the driver, or install a CUDA 12 toolkit and set DLRM_NVCC to its nvcc"
  fi
}

problem="" fix=""
case $device in
  cpu) ;;
  gpu) find_problem ;;
  auto)
    device=cpu
    if has_gpu; then
      find_problem
      [[ -n $problem ]] || device=gpu
    fi
    ;;
  *) fail "DEVICE=$device: expected cpu or gpu" ;;
esac

supported() {
  local version
  version=$("$1" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null) && grep -qxF -- "$version" <<<"$pythons"
}

version() {
  { "$1" -V 2>&1 || echo "no working Python"; } | head -n 1
}

find_python() {
  local candidate
  if [[ -n ${PYTHON:-} ]]; then
    command -v "$PYTHON" >/dev/null || fail "PYTHON=$PYTHON was not found; supported: TensorFlow $(table)"
    supported "$PYTHON" || fail "PYTHON=$PYTHON: unsupported for TensorFlow $tensorflow: expected TensorFlow $(table), found $(version "$PYTHON")"
    echo "$PYTHON"
    return
  fi
  for candidate in python3 python3.1{3,2,1,0} python3.9; do
    if supported "$candidate"; then
      echo "$candidate"
      return
    fi
  done
  fail "no Python for TensorFlow $tensorflow: expected TensorFlow $(table), found $(version python3); install another Python, or set PYTHON or TENSORFLOW"
}

check_machine() {
  local compiler=${CXX:-g++} free_kib needed_gib=6
  [[ $device == cpu ]] || needed_gib=14
  command -v "$compiler" >/dev/null || fail "C++ compiler: $compiler was not found; install g++ 9 or later, or set CXX"
  echo 'int main() { return 0; }' | "$compiler" -std=c++17 -x c++ - -o /dev/null 2>/dev/null \
    || fail "$compiler does not compile C++17; install g++ 9 or later, or set CXX"
  mkdir -p "$(dirname "$folder")"
  free_kib=$(df -Pk "$(dirname "$folder")" | awk 'NR == 2 {print $4}')
  ((free_kib >= needed_gib * 1024 * 1024)) \
    || fail "free space for $folder: expected $needed_gib GiB, found $((free_kib / 1024 / 1024)) GiB"
}

# These files exist while pip runs, because pip does not detect a partly installed package. After an
# interrupted first installation the environment is recreated; after an interrupted update the
# packages are reinstalled.
unfinished=${folder%/}.unfinished
updating=$folder/.updating
pip_options=()

if [[ ! -x $folder/bin/python || -e $unfinished ]]; then
  [[ ! -e $folder || -d $folder ]] || fail "expected a folder, found a file: $folder"
  # Never clear files of others after an interruption.
  if [[ ! -e $unfinished && ! -e $folder/pyvenv.cfg && -n $(ls -A "$folder" 2>/dev/null) ]]; then
    fail "$folder: expected a virtual environment or an empty folder, found other files; try another folder"
  fi
  check_machine
  python=$(find_python)
  venv_options=()
  if [[ -e $unfinished ]]; then
    echo "bootstrap: $folder is incomplete after an interruption; creating it again"
    venv_options=(--clear)
  fi
  touch "$unfinished"
  "$python" -m venv ${venv_options[@]+"${venv_options[@]}"} "$folder" \
    || fail "$python cannot create a virtual environment (on Debian: install python3-venv)"
else
  if [[ -e $updating ]]; then
    echo "bootstrap: the last update of $folder was interrupted; reinstalling its packages"
    pip_options=(--force-reinstall)
  fi
  touch "$updating"
fi
python=$folder/bin/python

# An environment has TensorFlow for one device, recorded in .device.
detected=$device
if [[ -e $folder/.device && $(<"$folder/.device") != "$device" ]]; then
  if [[ -n ${DEVICE:-} ]]; then
    fail "$folder: expected TensorFlow for $device, found $(<"$folder/.device"); remove it or set VENV to another folder"
  fi
  device=$(<"$folder/.device")
fi
if [[ -n $problem ]]; then
  if [[ $device == cpu ]]; then
    echo "bootstrap: $problem: installing TensorFlow for the CPU; for the GPU $fix, remove $folder and run make again"
  else
    echo "bootstrap: $problem: they do not run on this host; $fix, remove ops/*.so and run make again"
  fi
elif [[ $device == cpu && $detected == gpu ]]; then
  echo "bootstrap: this host has a GPU, but $folder has TensorFlow for the CPU; to use the GPU remove $folder and run make again"
fi
lock=locks/tensorflow-$tensorflow.txt
cp "$lock" "$folder/constraints.txt"
packages=$device
if [[ $device == gpu ]] && ! grep -q '^nvidia-cublas-' "$lock"; then
  echo "bootstrap: TensorFlow $tensorflow has no CUDA packages; it needs CUDA on this machine"
  packages=gpu-alone
fi
compiler=()
if [[ $device == gpu ]] && ! host_nvcc >/dev/null; then
  echo "bootstrap: no CUDA toolkit is used: installing nvcc from pip for the CUDA kernels"
  compiler=(--group nvcc)
fi

install() {
  "$python" -m pip install --quiet --disable-pip-version-check \
    ${pip_options[@]+"${pip_options[@]}"} -c "$lock" "$@"
}

echo "bootstrap: installing TensorFlow $tensorflow ($device) and the other packages of $lock into $folder"
# The interpreter's pip may not support dependency groups.
install pip
install --group "$packages" ${compiler[@]+"${compiler[@]}"} --group environment
if [[ $packages == gpu ]]; then
  # TensorFlow registers no GPU if it does not find one of pip's CUDA libraries.
  "$python" -m deploy.cuda_links || fail "cannot link CUDA libraries in $folder"
fi
echo "$device" >"$folder/.device"
rm -f "$unfinished" "$updating"

# Horovod's extension works with only one TensorFlow version.
if ! "$python" -c 'import horovod.tensorflow' 2>/dev/null; then
  echo "bootstrap: building Horovod for TensorFlow $tensorflow"
  collectives=()
  if [[ $device == gpu ]]; then
    if [[ -x ${HOROVOD_CUDA_HOME:-/usr/local/cuda}/bin/nvcc ]] || command -v nvcc >/dev/null; then
      collectives=(--nccl)
    else
      echo "bootstrap: without a CUDA toolkit Horovod is built without NCCL; it exchanges through host memory"
    fi
  fi
  wheel=$(deploy/horovod/build.sh --environment "$folder" ${collectives[@]+"${collectives[@]}"}) \
    || fail "$folder has no Horovod: see the error above"
  "$python" -m pip install --quiet --disable-pip-version-check --no-deps --no-index --force-reinstall "$wheel" \
    || fail "pip failed to install $wheel"
fi
echo "bootstrap: ready"
