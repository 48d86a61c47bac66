#!/usr/bin/env bash
# Measures on a GPU host that is available for some minutes (docs/airgap.md, "A GPU host for a few
# minutes"). Runs in the root of the source tree on that host:
#
#   deploy/airgap/visit.sh N [FOLDER]   call N, with the files that prepare put into FOLDER
#                                       (default: build/airgap/visit/call-N)
#   deploy/airgap/visit.sh --list       the calls: number, time limit in seconds, what it proves
#
# Each step has a time limit, and none stops the following ones. Results go to $OUT (default:
# build/airgap/results): status.txt, log.txt and JSON files. The exit status is 0 only if all steps
# of the call passed. $DLRM_PARTS (default: /tmp/dlrm-parts) keeps files between the calls.
# $DLRM_SECONDS replaces the time limit of the call.
set -euo pipefail

calls() { # number|limit in seconds|what it proves
  cat <<'END'
1|140|the kernels are right; time of a complete step without TensorFlow, with fused and plain dense part
2|140|speed of the kernels compared with copy bandwidth and matrix rate, on the full tables too
3|110|what limits the slow kernels; no data races
4|90|time of a complete step in float32 with TF32; repeats failed steps of calls 1 to 3
5|160|TensorFlow with this project's ops uses the GPU; its losses equal a CPU's; it reads large tables right
6|230|samples per second of the full model, fused, by layer, with XLA and with a second stream; phases
END
}

steps_of() { # steps of call $1: name and limit in seconds
  case $1 in
    1) echo "checks 80" && echo "step 90" ;;
    2) echo "timings 80" && echo "full 80" ;;
    3) echo "ncu 70" && echo "racecheck 80" ;;
    4) echo "step_float32 70" ;;
    5) echo "unpack 70" && echo "link 15" && echo "gpus 60" && echo "losses 60" && echo "rows 45" && echo "cache 15" ;;
    6)
      # The comparison first, in turn with nothing else between.
      printf '%s\n' "amp 60" "layers 45" "stream 45" "xla 60" "breakdown 45" "tf32 45" \
        "deterministic 45" "files 60" "cache 15"
      ;;
  esac
}

fail() {
  echo "visit: $*" >&2
  exit 2
}

here=$(dirname "$(realpath "${BASH_SOURCE[0]}")")
OUT=$(realpath -m "${OUT:-build/airgap/results}")
parts=$(realpath -m "${DLRM_PARTS:-/tmp/dlrm-parts}")
export OUT DLRM_PARTS=$parts

store() { # stores the files of folder $1, which later calls need too
  [[ -d $1 ]] || { echo "visit: expected this call's files in $1, found no folder"; return 1; }
  local file status=0
  for file in "$1"/*; do
    [[ -f $file ]] || continue
    case $file in
      */libdlrm_cuda_kernels-*.so.gz)
        rm -f "$parts"/libdlrm_cuda_kernels-*.so
        gzip -dc "$file" >"$parts/$(basename "$file" .gz)" || status=1
        ;;
      */cuda-cache.tar.gz) tar -xzf "$file" -C "$parts" || status=1 ;;
      *) cp "$file" "$parts/" || status=1 ;;
    esac
  done
  return $status
}

record() { # writes the status $3 of step $1, limited to $2 seconds, after $4 seconds
  echo "call $call: $1: $3, $4 s" | tee -a "$OUT/status.txt"
  sed -i "/^$call $1 /d" "$parts/failed"
  case $3 in
    passed | skipped) ;;
    *)
      exit_status=1
      echo "$call $1 $2" >>"$parts/failed"
      ;;
  esac
}

run_step() { # runs step $1 for at most $2 seconds, and not beyond the call's deadline
  local name=$1 limit=$2 left=$((deadline - SECONDS)) begin=$SECONDS status=0 before
  if ((left < 5)); then
    record "$name" "$limit" "not run (no time left)" 0
    return
  fi
  echo "== $name" >>"$OUT/log.txt"
  before=$(wc -c <"$OUT/log.txt")
  # Not through a pipe: a process that outlives the step would keep it open.
  DLRM_LIMIT=$((limit < left ? limit : left)) timeout --kill-after=5 $((limit < left ? limit : left)) \
    "$BASH" "$here/visit_step.sh" "$name" >>"$OUT/log.txt" 2>&1 </dev/null || status=$?
  tail -c "+$((before + 1))" "$OUT/log.txt" | tail -n 40
  case $status in
    0) status=passed ;;
    77) status=skipped ;;
    124 | 137) status="timed out" ;;
    *) status="failed with status $status" ;;
  esac
  record "$name" "$limit" "$status" $((SECONDS - begin))
}

case ${1:-} in
  --list)
    calls
    exit
    ;;
  [1-6]) call=$1 ;;
  *) fail "expected the number of a call from 1 to 6, found ${1:-nothing}" ;;
esac
[[ -f tests/gpu/run.py ]] || fail "run this in the root of the source tree, not in $PWD"

mkdir -p "$OUT" "$parts"
touch "$OUT/log.txt" "$parts/failed"
limit=$(calls | sed -n "s/^$call|\([0-9]*\)|.*/\1/p")
deadline=$((SECONDS + ${DLRM_SECONDS:-$limit}))
exit_status=0
# What failed earlier. Files that did not arrive do not arrive when the call is repeated here.
earlier=$(grep -v " store " "$parts/failed" || true)
if message=$(store "${2:-build/airgap/visit/call-$call}" 2>&1); then
  record store 0 passed $SECONDS
else
  echo "$message" | tee -a "$OUT/log.txt"
  record store 0 failed $SECONDS
fi
while read -r name seconds; do
  run_step "$name" "$seconds"
done < <(steps_of "$call")
if [[ $call == 4 ]]; then
  while read -r call name seconds; do
    # Call 4 made its own steps above.
    ((call >= 4)) || run_step "$name" "$seconds"
  done < <(printf '%s' "$earlier${earlier:+$'\n'}")
fi
exit $exit_status
