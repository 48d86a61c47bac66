#!/usr/bin/env bash
# Makes the virtual environment that everything else runs in: bootstrap.sh FOLDER [TENSORFLOW_VERSION]
#
# Checks the machine first and prints in one line what is missing; then installs what the lock of
# that TensorFlow pins and builds Horovod against it. Needs a Python and a TensorFlow that
# locks/matrix.txt has, a C++ compiler and make; CMake comes as a package.
#   PYTHON   the interpreter; otherwise the first suitable of python3, python3.13, ...
#   DEVICE   cpu or gpu: which TensorFlow; otherwise gpu where nvidia-smi lists one
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

# The table of what is supported, in one line; rows of the same Pythons together.
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
[[ -n $pythons ]] || fail "TensorFlow $tensorflow is not supported. Supported: TensorFlow $(table)"

# A broken driver makes nvidia-smi fail or hang.
has_gpu() {
  timeout 20 nvidia-smi -L 2>/dev/null | grep -q '^GPU '
}

case $device in
  cpu | gpu) ;;
  auto) if has_gpu; then device=gpu; else device=cpu; fi ;;
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
    command -v "$PYTHON" >/dev/null || fail "PYTHON=$PYTHON was not found. Supported: TensorFlow $(table)"
    supported "$PYTHON" || fail "PYTHON=$PYTHON is $(version "$PYTHON"), which TensorFlow $tensorflow is not supported on. Supported: TensorFlow $(table)"
    echo "$PYTHON"
    return
  fi
  for candidate in python3 python3.1{3,2,1,0} python3.9; do
    if supported "$candidate"; then
      echo "$candidate"
      return
    fi
  done
  fail "no Python for TensorFlow $tensorflow was found (python3 is $(version python3)); install one, set PYTHON, or set TENSORFLOW. Supported: TensorFlow $(table)"
}

check_machine() {
  local compiler=${CXX:-g++} free_kib needed_gib=6
  [[ $device == cpu ]] || needed_gib=14
  command -v "$compiler" >/dev/null || fail "no C++ compiler: $compiler was not found; install g++ 9 or later, or set CXX"
  echo 'int main() { return 0; }' | "$compiler" -std=c++17 -x c++ - -o /dev/null 2>/dev/null \
    || fail "$compiler does not compile C++17; install g++ 9 or later, or set CXX"
  mkdir -p "$(dirname "$folder")"
  free_kib=$(df -Pk "$(dirname "$folder")" | awk 'NR == 2 {print $4}')
  ((free_kib >= needed_gib * 1024 * 1024)) \
    || fail "$((free_kib / 1024 / 1024)) GiB are free where $folder goes; $needed_gib GiB are needed"
}

# There while packages are being installed: pip takes a half-copied package for an installed one.
# Beside the folder while it is new, so that it can be made again; in it while it is brought up to
# date, when packages are installed again over what is there.
unfinished=${folder%/}.unfinished
updating=$folder/.updating
pip_options=()

if [[ ! -x $folder/bin/python || -e $unfinished ]]; then
  [[ ! -e $folder || -d $folder ]] || fail "$folder is no folder"
  # What is cleared if this is broken off must be this script's own.
  if [[ ! -e $unfinished && ! -e $folder/pyvenv.cfg && -n $(ls -A "$folder" 2>/dev/null) ]]; then
    fail "$folder holds something else than a virtual environment; name a new or an empty folder"
  fi
  check_machine
  python=$(find_python)
  venv_options=()
  if [[ -e $unfinished ]]; then
    echo "bootstrap: $folder was left half made; it is made again"
    venv_options=(--clear)
  fi
  touch "$unfinished"
  "$python" -m venv ${venv_options[@]+"${venv_options[@]}"} "$folder" \
    || fail "$python cannot make a virtual environment (on Debian: install python3-venv)"
else
  if [[ -e $updating ]]; then
    echo "bootstrap: $folder was left half updated; its packages are installed again"
    pip_options=(--force-reinstall)
  fi
  touch "$updating"
fi
python=$folder/bin/python

# An environment has one TensorFlow; which one is noted in it.
if [[ -e $folder/.device && $(<"$folder/.device") != "$device" ]]; then
  if [[ -n ${DEVICE:-} ]]; then
    fail "$folder has TensorFlow for the $(<"$folder/.device"), not the $device: remove it, or name another folder (VENV=...)"
  fi
  device=$(<"$folder/.device")
fi
lock=locks/tensorflow-$tensorflow.txt
cp "$lock" "$folder/constraints.txt"
packages=$device
if [[ $device == gpu ]] && ! grep -q '^nvidia-' "$lock"; then
  echo "bootstrap: CUDA does not come with TensorFlow $tensorflow's packages; the machine must have it"
  packages=gpu-alone
fi

install() {
  "$python" -m pip install --quiet --disable-pip-version-check \
    ${pip_options[@]+"${pip_options[@]}"} -c "$lock" "$@"
}

echo "bootstrap: installing TensorFlow $tensorflow ($device) and what it is pinned with into $folder"
# The pip of the interpreter may know no dependency groups.
install pip
install --group "$packages" --group environment
if [[ $packages == gpu ]]; then
  # TensorFlow registers no GPU if one of pip's CUDA libraries is not where it looks.
  "$python" -m deploy.cuda_links || fail "CUDA's libraries could not be linked in $folder"
fi
echo "$device" >"$folder/.device"
rm -f "$unfinished" "$updating"

# Horovod's extension fits one TensorFlow only.
if ! "$python" -c 'import horovod.tensorflow' 2>/dev/null; then
  echo "bootstrap: installing Horovod, built for TensorFlow $tensorflow"
  collectives=()
  if [[ $device == gpu ]]; then
    if [[ -x ${HOROVOD_CUDA_HOME:-/usr/local/cuda}/bin/nvcc ]] || command -v nvcc >/dev/null; then
      collectives=(--nccl)
    else
      echo "bootstrap: nvcc was not found: Horovod is built without NCCL, and exchanges through the host's memory"
    fi
  fi
  wheel=$(deploy/horovod/build.sh --environment "$folder" ${collectives[@]+"${collectives[@]}"}) \
    || fail "$folder has no Horovod: see above"
  "$python" -m pip install --quiet --disable-pip-version-check --no-deps --no-index --force-reinstall "$wheel" \
    || fail "pip did not install $wheel"
fi
echo "bootstrap: ready"
