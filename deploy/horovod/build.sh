#!/usr/bin/env bash
# Builds a wheel of Horovod for one TensorFlow and one Python, and prints its path.
#
#   build.sh --tensorflow VERSION [--python PYTHON] [--nccl] [--mpi] [--output FOLDER]
#   build.sh --environment FOLDER [--nccl] [--mpi] [--output FOLDER]
#
# The first form installs that TensorFlow into a temporary environment; the second uses the packages
# of the environment FOLDER. --nccl: GPU collectives with NCCL (needs the CUDA toolkit). --mpi: MPI in
# addition to Gloo (needs MPI compiler wrappers). See docs/horovod.md.
#
# Wheels are cached in build/horovod (or DLRM_HOROVOD_WHEELS) by source, patches, flags and the
# versions of TensorFlow, Python, compiler, CUDA, NCCL and MPI.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(cd "$here/../.." && pwd)
wheels=${DLRM_HOROVOD_WHEELS:-$root/build/horovod}
usage="build.sh (--tensorflow VERSION [--python PYTHON] | --environment FOLDER) [--nccl] [--mpi] [--output FOLDER]"

fail() {
  echo "horovod: $*" >&2
  exit 1
}

log_line() {
  echo "horovod: $*" >&2
}

tensorflow="" python=python3 environment="" nccl="" mpi="" output="" python_given=""
while (($#)); do
  case $1 in
    --nccl) nccl=1 ;;
    --mpi) mpi=1 ;;
    --help | -h)
      echo "usage: $usage"
      exit 0
      ;;
    --tensorflow | --python | --environment | --output)
      [[ -n ${2:-} ]] || fail "$1 needs a value; usage: $usage"
      case $1 in
        --tensorflow) tensorflow=$2 ;;
        --python) python=$2 python_given=1 ;;
        --environment) environment=$2 ;;
        --output) output=$2 ;;
      esac
      shift
      ;;
    *) fail "unknown argument $1; usage: $usage" ;;
  esac
  shift
done
[[ -n $tensorflow || -n $environment ]] || fail "expected --tensorflow or --environment; usage: $usage"
[[ -z $tensorflow || -z $environment ]] || fail "--tensorflow and --environment exclude each other; usage: $usage"
[[ -z $environment || -z $python_given ]] || fail "--python and --environment exclude each other; usage: $usage"
[[ -z $tensorflow || $tensorflow =~ ^[0-9]+\.[0-9]+\.[0-9]+[a-z0-9]*$ ]] \
  || fail "--tensorflow: expected a full version such as 2.21.0, found $tensorflow"

compiler=${CXX:-g++}
command -v "$compiler" >/dev/null || fail "C++ compiler: $compiler was not found; install g++ 9 or later, or set CXX"
echo 'int main() { return 0; }' | "$compiler" -std=c++17 -x c++ - -o /dev/null 2>/dev/null \
  || fail "$compiler does not compile C++17; install g++ 9 or later, or set CXX"
command -v make >/dev/null || fail "make was not found; install it"
[[ -z $mpi ]] || command -v mpicxx >/dev/null \
  || fail "--mpi: mpicxx was not found; install an MPI (on Debian: libopenmpi-dev openmpi-bin) and put it on PATH"
nvcc=""
if [[ -n $nccl ]]; then
  nvcc=${HOROVOD_CUDA_HOME:+$HOROVOD_CUDA_HOME/bin/nvcc}
  [[ -n $nvcc ]] || nvcc=$(command -v nvcc || echo /usr/local/cuda/bin/nvcc)
  [[ -x $nvcc ]] || fail "--nccl: $nvcc was not found; install the CUDA toolkit, and put nvcc on PATH or set HOROVOD_CUDA_HOME"
  # nvcc may be a wrapper outside the toolkit.
  cuda=$("$nvcc" --dryrun -x cu -c - -o /dev/null </dev/null 2>&1 | sed -n 's/^#\$ TOP=//p')
  nvcc=${cuda:+$cuda/bin/nvcc}
  [[ -x $nvcc ]] || fail "--nccl: nvcc does not report its toolkit's folder; set HOROVOD_CUDA_HOME"
fi

work=$(mktemp -d "${TMPDIR:-/tmp}/horovod-build.XXXXXX")
trap 'rm -rf "$work"' EXIT
mkdir -p "$wheels" 2>/dev/null || fail "cannot create $wheels; set DLRM_HOROVOD_WHEELS to another folder"
log=$work/log

# Runs a command with its output in the log. If it fails, prints the end of the log and keeps it.
logged() {
  local message=$1 kept
  shift
  if ! "$@" >>"$log" 2>&1; then
    kept=$(mktemp "$wheels/failed-XXXXXX.log")
    cp "$log" "$kept"
    tail -n 30 "$log" >&2
    fail "$message; see $kept"
  fi
}

if [[ -n $tensorflow ]]; then
  command -v "$python" >/dev/null || fail "$python was not found; name an interpreter with --python"
  "$python" -m venv "$work/venv" >>"$log" 2>&1 \
    || fail "$python cannot make a virtual environment (on Debian: install python3-venv)"
  environment=$work/venv
  package="tensorflow-cpu"
  [[ -z $nccl ]] || package="tensorflow"
  lock=$root/locks/tensorflow-$tensorflow.txt
  pins=()
  [[ ! -f $lock ]] || pins=(-c "$lock")
  pip_install=("$environment/bin/python" -m pip install --quiet --disable-pip-version-check ${pins[@]+"${pins[@]}"})
  log_line "installing $package $tensorflow for $("$python" -V 2>&1)"
  logged "pip found no $package $tensorflow for $("$python" -V 2>&1), or could not install it" \
    "${pip_install[@]}" "$package==$tensorflow"
  logged "pip could not install the build's tools" \
    "${pip_install[@]}" "cmake>=3.31" setuptools wheel packaging cloudpickle psutil pyyaml
else
  [[ -d $environment ]] || fail "--environment: expected the folder of a Python environment, found no folder $environment"
  environment=$(cd "$environment" && pwd)
fi
python=$environment/bin/python
[[ -x $python ]] || python=$environment/bin/python3
[[ -x $python ]] || fail "--environment: expected $environment/bin/python3, found none"
export PATH="$environment/bin:$PATH"

# Lines `name value`, or one error line.
facts=$("$python" "$here/environment.py" 2>>"$log") || fail "${facts:-$python failed: $(tail -n 1 "$log")}"
fact() {
  sed -n "s/^$1 //p" <<<"$facts"
}
tensorflow=$(fact tensorflow)
command -v cmake >/dev/null || fail "CMake was not found; pip install 'cmake>=3.31' into $environment"
cmake=$(cmake --version | sed -n '1s/.*version *//p')
[[ $(printf '3.21\n%s\n' "$cmake" | sort -V | head -n 1) == 3.21 ]] \
  || fail "expected CMake 3.21 or later, found $cmake; pip install 'cmake>=3.31' into $environment"

# Read by Horovod's build.
unset HOROVOD_GPU_OPERATIONS HOROVOD_CPU_OPERATIONS
export HOROVOD_WITH_TENSORFLOW=1 HOROVOD_WITHOUT_PYTORCH=1 HOROVOD_WITHOUT_MXNET=1 HOROVOD_WITH_GLOO=1
export CMAKE_TOOLCHAIN_FILE=$here/toolchain.cmake
local_version=tf$tensorflow
if [[ -n $nccl ]]; then
  local_version+=.nccl
  export HOROVOD_GPU_OPERATIONS=NCCL HOROVOD_CUDA_HOME=$cuda
  # "80;90" or "80 90"; "native" and "all" select Horovod's default, all that nvcc supports.
  architectures=$(tr -cs '0-9\n' , <<<"${DLRM_CUDA_ARCHITECTURES:-}" | sed 's/^,//; s/,$//')
  if [[ -n $architectures && -z ${HOROVOD_BUILD_CUDA_CC_LIST:-} ]]; then
    export HOROVOD_BUILD_CUDA_CC_LIST=$architectures
  fi
  if [[ -z ${HOROVOD_NCCL_HOME:-}${HOROVOD_NCCL_INCLUDE:-} ]]; then
    folder=$(fact nccl)
    if [[ -z $folder && $environment == "$work/venv" ]]; then
      logged "pip could not install $(fact nccl-package)" "${pip_install[@]}" "$(fact nccl-package)"
      folder=$("$python" "$here/environment.py" | sed -n 's/^nccl //p')
    fi
    if [[ -n $folder ]]; then
      # The wheel lacks libnccl.so. At run time the library is found where pip installs it.
      mkdir "$work/nccl"
      ln -s "$folder/lib/libnccl.so.2" "$work/nccl/libnccl.so"
      export HOROVOD_NCCL_INCLUDE=$folder/include HOROVOD_NCCL_LIB=$work/nccl HOROVOD_NCCL_LINK=SHARED
      export LDFLAGS="${LDFLAGS:-} -Wl,-rpath,\$ORIGIN/../../nvidia/nccl/lib"
    elif ! compgen -G "/usr/include/nccl.h" >/dev/null && ! compgen -G "$HOROVOD_CUDA_HOME/include/nccl.h" >/dev/null; then
      fail "--nccl: NCCL was not found; pip install $(fact nccl-package) into $environment, install libnccl-dev, or set HOROVOD_NCCL_HOME"
    fi
  fi
fi
if [[ -n $mpi ]]; then
  local_version+=.mpi
  export HOROVOD_WITH_MPI=1
  unset HOROVOD_WITHOUT_MPI
else
  export HOROVOD_WITHOUT_MPI=1
  unset HOROVOD_WITH_MPI
fi
# Otherwise pip download sees another version than the pinned one.
unset HOROVOD_LOCAL_VERSION

# The cache key: everything that affects the wheel.
key=$(
  {
    cat "$here/source.txt"
    grep -v '^#' "$here/toolchain.cmake"
    for patch in "$here"/patches/*.patch; do sed -n '/^--- a/,$p' "$patch"; done
    echo "$facts" | grep -v '^nccl '
    "$compiler" --version
    uname -m
    # Horovod compiles for these features of the build machine.
    grep -m 1 '^flags' /proc/cpuinfo 2>/dev/null | tr ' ' '\n' | grep -xE 'f16c|avx|fma' | sort -u || true
    [[ -z $nvcc ]] || "$nvcc" --version
    [[ -z $nccl ]] || grep -hE '^#define NCCL_(MAJOR|MINOR|PATCH)' \
      "${HOROVOD_NCCL_INCLUDE:-${HOROVOD_NCCL_HOME:-/usr}/include}/nccl.h" || true
    [[ -z $mpi ]] || mpicxx --version
    env | grep -E '^(HOROVOD_|CXXFLAGS=|CFLAGS=|LDFLAGS=)' | grep -vE '^HOROVOD_NCCL_(INCLUDE|LIB)=' | sort
  } | sha256sum | cut -c 1-16
)
kept=$wheels/$key

if ! compgen -G "$kept/horovod-*.whl" >/dev/null; then
  requirement=$(sed 's/ .*//' "$here/source.txt")
  archive=$wheels/${requirement/==/-}.tar.gz
  sha256=$(sed 's/.*sha256://' "$here/source.txt")
  is_pinned() { [[ -f $archive && $(sha256sum "$archive" | cut -d ' ' -f 1) == "$sha256" ]]; }
  if ! is_pinned; then
    mkdir "$work/download"
    logged "pip could not download the source of $requirement" \
      "$python" -m pip download --disable-pip-version-check --require-hashes --no-deps --no-build-isolation \
      --no-binary horovod --dest "$work/download" -r "$here/source.txt"
    mv "$work/download/$(basename "$archive")" "$archive"
    is_pinned || fail "$archive: expected the pinned source with SHA-256 $sha256"
  fi
  tar -xzf "$archive" -C "$work"
  source=$work/$(basename "$archive" .tar.gz)
  logged "a patch does not apply" "$python" "$here/apply_patches.py" "$source"

  # A compiler process needs up to 1.5 GiB.
  jobs=$(awk -v cores="$(nproc)" '/^MemAvailable/ {n = int($2 / 1572864); print n < 1 ? 1 : n < cores ? n : cores}' \
    /proc/meminfo 2>/dev/null || nproc)
  log_line "building $requirement for TensorFlow $tensorflow (2 to 10 minutes)"
  MAKEFLAGS=-j$jobs HOROVOD_LOCAL_VERSION=$local_version \
    logged "Horovod did not build for TensorFlow $tensorflow" \
    "$python" -m pip wheel --disable-pip-version-check --no-deps --no-build-isolation --no-cache-dir \
    --no-index --verbose --wheel-dir "$work/wheel" "$source"
  wheel=$(compgen -G "$work/wheel/horovod-*.whl")
  # Only wheels that import are cached.
  "$python" -m zipfile -e "$wheel" "$work/installed"
  # The wheel searches pip's NCCL relative to itself.
  [[ ! -e $work/nccl ]] || ln -s "$(dirname "$folder")" "$work/installed/nvidia"
  (cd / && PYTHONPATH=$work/installed logged "the wheel does not import" \
    "$python" -c "import horovod.tensorflow as hvd
assert hvd.gloo_built() and bool(hvd.mpi_built()) == bool('$mpi') and bool(hvd.nccl_built()) == bool('$nccl')")
  mkdir -p "$wheels/$key.$$"
  mv "$wheel" "$wheels/$key.$$"
  # A concurrent build may have created the same folder.
  mv -T "$wheels/$key.$$" "$kept" 2>/dev/null || rm -rf "${wheels:?}/$key.$$"
fi
wheel=$(compgen -G "$kept/horovod-*.whl")
if [[ -n $output ]]; then
  mkdir -p "$output"
  cp "$wheel" "$output/"
  wheel=$(cd "$output" && pwd)/$(basename "$wheel")
fi
echo "$wheel"
