#!/usr/bin/env bash
# Runs one step of a visit to a GPU host: visit_step.sh NAME
#
# visit.sh calls this with the step's time limit in seconds, DLRM_LIMIT; it also works alone, after
# the call that stored the files. Exit status 77: this host cannot run the step.
# shellcheck disable=SC2329  # functions are called by name
set -euo pipefail

OUT=$(realpath -m "${OUT:-build/airgap/results}")
parts=$(realpath -m "${DLRM_PARTS:-/tmp/dlrm-parts}")
bundle=$parts/bundle
mkdir -p "$OUT" "$parts"
# Keeps what the driver compiles, for `cache`.
export CUDA_CACHE_PATH=$parts/cuda-cache DLRM_LIMIT=${DLRM_LIMIT:-80}
library=()
for file in "$parts"/libdlrm_cuda_kernels-*.so; do
  [[ ! -f $file ]] || library=(--library "$file")
done

skip() { # ends a step that this host cannot run
  echo "visit: skipped: $*"
  exit 77
}

# --- Calls 1 to 4: the kernels, without TensorFlow ---

harness() { # runs tests.gpu.run with the stored library, which otherwise builds one with nvcc
  python3 -m tests.gpu.run "${library[@]}" --seconds "$((DLRM_LIMIT - 5))" "$@"
}

gpu_step() {
  python3 -m benchmarks.gpu_step "${library[@]}" --budget "$((DLRM_LIMIT > 30 ? DLRM_LIMIT - 20 : 10))" "$@"
}

step_checks() { harness --quick --json "$OUT/checks.json"; }

step_step() { gpu_step --json "$OUT/step.json"; }

step_step_float32() { gpu_step --precision float32 --json "$OUT/step_float32.json"; }

step_timings() {
  harness --groups time-machine,time-interaction,time-dense,time-uniform,time-bags,time-criteo \
    --only float16 --only TF32 --only "all weights" --only bandwidth --only device \
    --json "$OUT/timings.json"
}

step_full() {
  harness --groups time-machine,check-full,time-full \
    --only float16 --only bandwidth --only "embedding MLPerf tables" --json "$OUT/full.json"
}

step_racecheck() {
  command -v compute-sanitizer >/dev/null || skip "compute-sanitizer is not in PATH"
  # Without the MLPs, whose kernels are almost all cuBLASLt's.
  local checks=(--only "dense update sgd") kernel
  for kernel in interaction lookup "SGD atomics" "SGD deterministic" Adagrad row-wise FTRL \
    "log loss" "all finite"; do
    checks+=(--only "$kernel float16")
  done
  harness --sanitizer racecheck "${checks[@]}" --json "$OUT/racecheck.json"
}

# Traffic, atomics in L2, and what warps wait for.
metrics=(
  gpu__time_duration.sum
  dram__bytes_read.sum dram__bytes_write.sum dram__throughput.avg.pct_of_peak_sustained_elapsed
  lts__t_sectors_op_red.sum lts__t_sectors_op_atom.sum lts__t_sector_hit_rate.pct
  lts__throughput.avg.pct_of_peak_sustained_elapsed
  sm__throughput.avg.pct_of_peak_sustained_elapsed
  sm__warps_active.avg.pct_of_peak_sustained_active
  smsp__issue_active.avg.pct_of_peak_sustained_active
  smsp__average_warps_issue_stalled_{long_scoreboard,short_scoreboard,lg_throttle,mio_throttle,math_pipe_throttle,barrier,wait,not_selected}_per_issue_active.ratio
)
# Group and entry of tests.gpu.run, and the kernel to profile in it.
profiled() {
  cat <<'END'
time-uniform|SGD atomics float16|sgd_kernel
time-interaction|backward float16|backward_kernel
time-interaction|forward float16|forward_kernel
time-uniform|lookup float16|lookup_kernel
time-uniform|SGD deterministic float16|update_kernel
END
}

step_ncu() {
  command -v ncu >/dev/null || skip "ncu is not in PATH"
  local group entry kernel wrong=0
  rm -f "$OUT/ncu.csv"
  while IFS='|' read -r group entry kernel; do
    # The first launches warm up. Clocks are left as they are, because changing them needs rights.
    ncu --target-processes all --clock-control none --csv --page raw --log-file "$parts/ncu.csv" \
      --metrics "$(IFS=,; echo "${metrics[*]}")" --kernel-name "regex:$kernel" \
      --launch-skip 2 --launch-count 2 \
      python3 -m tests.gpu.run "${library[@]}" --groups "$group" --only "$entry" </dev/null \
      || wrong=1
    { echo "# $entry" && cat "$parts/ncu.csv"; } >>"$OUT/ncu.csv" || wrong=1
    rm -f "$parts/ncu.csv"
  done < <(profiled)
  return "$wrong"
}

# --- Calls 5 and 6: TensorFlow, from the bundle ---

step_unpack() {
  [[ ! -x $bundle/dlrm ]] || { echo "visit: $bundle is already unpacked"; return; }
  rm -rf "$parts/unpacking"
  sh "$parts/unpack.sh" "$parts/unpacking"
  mv "$parts/unpacking" "$bundle"
}

dlrm() { # runs a command in the bundle, with this source tree's files
  [[ -x $bundle/dlrm ]] || { echo "visit: $bundle is not unpacked; run call 5 again" >&2; return 1; }
  # The bundle's libraries stay: this tree has none.
  tar -c --exclude=./build --exclude=./data --exclude=./runs --exclude='./.[!.]*' --exclude='*.so' . \
    | tar -x -C "$bundle/project"
  "$bundle/dlrm" "$@"
}

step_link() {
  local folders
  # CUDA's folder, then those of the wheels of the host's Python, which has PyTorch.
  mapfile -t folders < <(python3 -c '
import glob, site, sysconfig
for folder in dict.fromkeys([sysconfig.get_path("purelib"), *site.getsitepackages()]):
    print(*sorted(glob.glob(folder + "/nvidia/*/lib")), sep="\n")')
  dlrm python -m deploy.airgap.host_cuda "${CUDA_HOME:-/usr/local/cuda}/lib64" "${folders[@]}"
}

step_gpus() {
  dlrm python -c '
import sys
import tensorflow as tf
found = tf.config.list_physical_devices("GPU")
print(tf.__version__, found)
sys.exit(0 if found else "visit: TensorFlow: expected a GPU, found none")'
}

step_losses() {
  dlrm python -m deploy.airgap.demo_losses compare "$parts/demo_losses.json" --json "$OUT/losses.json"
}

step_rows() { dlrm python -m tests.gpu.read_rows; }

full_model() { # run $1 of the full model, with more flags; collects the journals of all runs
  local name=$1 status=0
  shift
  rm -rf "${parts:?}/runs/$name"
  dlrm main.py --custom_interact --global_batch_size=65536 --early_stop=200 \
    --run_dir="$parts/runs/$name" "$@" || status=$?
  dlrm python -m deploy.airgap.visit_report "$parts/runs" --json "$OUT/runs.json" || status=$?
  (cd "$parts" && tar -czf "$OUT/journals.tar.gz" runs/*/*/*.json*) || status=$?
  return "$status"
}

random_batches=(--use_synthetic_dataset --vocab_sizes=mlperf)

# The dense part in four ways: fused (the default), by TensorFlow's layers, by XLA, and fused with
# lookup and row update on a second stream.
step_amp() { full_model amp "${random_batches[@]}" --amp --mlp=fused; }
step_layers() { full_model layers "${random_batches[@]}" --amp --mlp=tensorflow; }
step_stream() { full_model stream "${random_batches[@]}" --amp --mlp=fused --embedding_stream; }
step_xla() {
  # A lean bundle has no assembler.
  export XLA_FLAGS="--xla_gpu_cuda_data_dir=${CUDA_HOME:-/usr/local/cuda}${XLA_FLAGS:+ $XLA_FLAGS}"
  full_model xla "${random_batches[@]}" --amp --xla
}
step_deterministic() { full_model deterministic "${random_batches[@]}" --amp --deterministic; }
step_breakdown() { full_model breakdown "${random_batches[@]}" --amp --step_breakdown; }
step_tf32() { full_model tf32 "${random_batches[@]}"; }

step_files() { # trains from per-table files, and evaluates: the journal has the peak memory then
  local data=$parts/data sizes split
  if [[ ! -f $data/split/test/metadata.json ]]; then
    rm -rf "$data"
    sizes=$(dlrm python -c '
from planner.published_runs import VOCABULARIES
print(*VOCABULARIES["mlperf"], sep=",")')
    dlrm python -m dataset.synthetic --output "$data/raw" --vocab_sizes "$sizes" \
      --train_samples $((40 * 65536)) --test_samples 131072
    for split in train test; do
      dlrm split_bin.py "$data/raw/${split}_data.bin" "$data/split/$split" --split_categories
    done
    rm -r "$data/raw"
  fi
  full_model files --data_dir="$data/split" --amp --eval_in_last --epochs=5
}

step_cache() { # brings back what the driver compiled: prepare --cuda_cache
  rm -f "$OUT"/cuda-cache.tar.gz.*
  [[ -n $(find "$CUDA_CACHE_PATH" -type f -print -quit 2>/dev/null) ]] \
    || skip "the driver compiled nothing"
  tar -czf - -C "$parts" cuda-cache | split -b 15M -d - "$OUT/cuda-cache.tar.gz."
}

declare -F "step_${1:-}" >/dev/null \
  || { echo "visit_step: expected the name of a step, found ${1:-nothing}" >&2; exit 2; }
"step_$1"
