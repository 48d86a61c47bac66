#!/bin/sh
# Checks, joins and unpacks a bundle's parts:
#
#   unpack.sh FOLDER     unpacks into FOLDER, which must be empty or not exist
#   unpack.sh --check    only checks that all parts are complete
#
# Needs the parts in the script's folder, a shell, coreutils, tar, gzip, sed and grep. Writes only to
# FOLDER.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
manifest=$here/MANIFEST

fail() {
  echo "unpack: $*" >&2
  exit 1
}

[ $# -eq 1 ] || fail "usage: unpack.sh FOLDER, or unpack.sh --check"
target=$1
[ -f "$manifest" ] || fail "$manifest is missing; copy it to the folder of unpack.sh"

fact() {
  sed -n "s/^$1 //p" "$manifest"
}

# The last line has the number of parts.
[ "$(tail -n 1 "$manifest")" = "parts $(grep -c '^part ' "$manifest")" ] \
  || fail "$manifest is truncated or damaged; copy it again"

newer_or_equal() { # found version, required version
  [ "$(printf '%s\n%s\n' "$1" "$2" | sort -V | head -n 1)" = "$2" ]
}

check_host() {
  machine=$(uname -m)
  [ "$machine" = "$(fact machine)" ] || fail "processor: expected $(fact machine), found $machine"
  glibc=$(getconf GNU_LIBC_VERSION 2>/dev/null | sed 's/glibc //')
  [ -n "$glibc" ] || fail "glibc: expected $(fact glibc) or later, found none"
  newer_or_equal "$glibc" "$(fact glibc)" \
    || fail "glibc: expected $(fact glibc) or later, found $glibc"
  for flag in $(fact cpu_flags | tr , ' '); do
    grep -qw "$flag" /proc/cpuinfo || fail "processor: expected $flag instructions, found none"
  done
  found=
  for library in /usr/lib/*-linux-gnu/libstdc++.so.6 /lib/*-linux-gnu/libstdc++.so.6 \
    /usr/lib64/libstdc++.so.6 /usr/lib/libstdc++.so.6; do
    if [ -e "$library" ] && grep -qa "GLIBCXX_$(fact glibcxx)" "$library"; then found=$library; fi
  done
  [ -n "$found" ] \
    || fail "libstdc++.so.6: expected GLIBCXX_$(fact glibcxx) in /usr/lib*, found none; install libstdc++6"
  # For example "... Kernel Module for x86_64  580.65.06  ..."
  driver=$(sed -n 's/.*Kernel Module[^.]* \([0-9][0-9]*\.[0-9.]*\).*/\1/p' /proc/driver/nvidia/version 2>/dev/null || true)
  if [ -n "$driver" ] && [ "$(fact driver)" != none ] && ! newer_or_equal "$driver" "$(fact driver)"; then
    echo "unpack: warning: NVIDIA driver for the CUDA kernels: expected $(fact driver) or later, found $driver" >&2
  fi
}

check_parts() {
  wrong=0
  all=0
  # Reads from a file, because a loop in a pipe runs in a subshell and loses the counts.
  while read -r word name bytes digest; do
    [ "$word" = part ] || continue
    all=$((all + 1))
    if [ ! -f "$here/$name" ]; then
      echo "unpack: $name: expected $bytes bytes, found no file" >&2
    elif [ "$(wc -c <"$here/$name")" -ne "$bytes" ]; then
      echo "unpack: $name: expected $bytes bytes, found $(wc -c <"$here/$name" | tr -d ' ')" >&2
    else
      found=$(sha256sum "$here/$name" | cut -d ' ' -f 1)
      [ "$found" != "$digest" ] || continue
      echo "unpack: $name: expected SHA-256 $digest, found $found" >&2
    fi
    wrong=$((wrong + 1))
  done <"$manifest"
  [ "$wrong" -eq 0 ] || fail "$wrong of $all parts are missing or damaged; copy them again"
  found=$(join_parts | sha256sum | cut -d ' ' -f 1)
  [ "$found" = "$(fact whole)" ] \
    || fail "parts of different bundles: expected SHA-256 $(fact whole) of all joined, found $found"
  echo "unpack: all $all parts are complete"
}

join_parts() {
  sed -n 's/^part \(bundle\.[0-9]*\) .*/\1/p' "$manifest" | while read -r name; do cat "$here/$name"; done
}

if [ "$target" = --check ]; then
  check_parts
  exit 0
fi

case $target in
  *://*) fail "expected a local path, found $target" ;;
  *[[:space:]]*) fail "expected a path without white space (for XLA's flags), found $target" ;;
esac
check_host
mkdir -p "$target"
[ -z "$(ls -A "$target")" ] || fail "expected an empty folder, found files in $target"
# 5 % more than the total size of the files, for file system overhead.
needed_kib=$(($(fact unpacked_bytes) * 21 / 20 / 1024))
free_kib=$(df -Pk "$target" | sed -n 2p | tr -s ' ' | cut -d ' ' -f 4)
[ "$free_kib" -ge "$needed_kib" ] \
  || fail "free space at $target: expected $((needed_kib / 1024)) MiB, found $((free_kib / 1024)) MiB"
check_parts

gzip -dc "$here/start.tar.gz" | tar -xf - -C "$target"
join_parts | "$target/python/bin/python3" -I "$target/python/expand.py" "$target" \
  || fail "cannot unpack the parts into $target"
echo "unpack: ready: $target/dlrm python main.py --help"
