#!/bin/sh
# Joins and checks a bundle's parts and unpacks them: unpack.sh FOLDER
#
#   unpack.sh FOLDER     unpacks into FOLDER, which must be empty or not exist
#   unpack.sh --check    only says whether all parts are here and whole
#
# Runs in the folder that holds the parts, with what every Linux host has: a shell, coreutils, tar,
# gzip, sed, grep. Nothing outside of FOLDER is written.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
manifest=$here/MANIFEST

fail() {
  echo "unpack: $*" >&2
  exit 1
}

[ $# -eq 1 ] || fail "usage: unpack.sh FOLDER, or unpack.sh --check"
target=$1
[ -f "$manifest" ] || fail "$manifest is missing: copy it beside unpack.sh"

fact() {
  sed -n "s/^$1 //p" "$manifest"
}

# Its last line says how many parts the lines above name.
[ "$(tail -n 1 "$manifest")" = "parts $(grep -c '^part ' "$manifest")" ] \
  || fail "$manifest is cut off or damaged: copy it again"

newer_or_equal() { # version that is there, version that is needed
  [ "$(printf '%s\n%s\n' "$1" "$2" | sort -V | head -n 1)" = "$2" ]
}

check_host() {
  machine=$(uname -m)
  [ "$machine" = "$(fact machine)" ] || fail "this host is $machine; the bundle is for $(fact machine)"
  glibc=$(getconf GNU_LIBC_VERSION 2>/dev/null | sed 's/glibc //')
  [ -n "$glibc" ] || fail "this host has no GNU C library; glibc $(fact glibc) or later is needed"
  newer_or_equal "$glibc" "$(fact glibc)" \
    || fail "this host has glibc $glibc; $(fact glibc) or later is needed"
  for flag in $(fact cpu_flags | tr , ' '); do
    grep -qw "$flag" /proc/cpuinfo || fail "this host's processor has no $flag instructions"
  done
  found=
  for library in /usr/lib/*-linux-gnu/libstdc++.so.6 /lib/*-linux-gnu/libstdc++.so.6 \
    /usr/lib64/libstdc++.so.6 /usr/lib/libstdc++.so.6; do
    if [ -e "$library" ] && grep -qa "GLIBCXX_$(fact glibcxx)" "$library"; then found=$library; fi
  done
  [ -n "$found" ] \
    || fail "no libstdc++.so.6 with GLIBCXX_$(fact glibcxx) was found in the usual folders: install libstdc++6"
  # Its first number with a point in it, after a blank: "... Kernel Module for x86_64  580.65.06  ..."
  driver=$(sed -n 's/.*Kernel Module[^.]* \([0-9][0-9]*\.[0-9.]*\).*/\1/p' /proc/driver/nvidia/version 2>/dev/null || true)
  if [ -n "$driver" ] && [ "$(fact driver)" != none ] && ! newer_or_equal "$driver" "$(fact driver)"; then
    echo "unpack: warning: the NVIDIA driver is $driver; the op library's CUDA kernels need $(fact driver) or later" >&2
  fi
}

check_parts() {
  wrong=0
  all=0
  # From a file, not a pipe: the counts must outlive the loop.
  while read -r word name bytes digest; do
    [ "$word" = part ] || continue
    all=$((all + 1))
    if [ ! -f "$here/$name" ]; then
      echo "unpack: $name is missing ($bytes bytes expected)" >&2
    elif [ "$(wc -c <"$here/$name")" -ne "$bytes" ]; then
      echo "unpack: $name is damaged: expected $bytes bytes, found $(wc -c <"$here/$name" | tr -d ' ')" >&2
    else
      told=$(sha256sum "$here/$name" | cut -d ' ' -f 1)
      [ "$told" != "$digest" ] || continue
      echo "unpack: $name is damaged: expected SHA-256 $digest, found $told" >&2
    fi
    wrong=$((wrong + 1))
  done <"$manifest"
  [ "$wrong" -eq 0 ] || fail "$wrong of $all parts are missing or damaged: copy them again"
  told=$(join_parts | sha256sum | cut -d ' ' -f 1)
  [ "$told" = "$(fact whole)" ] \
    || fail "the parts are whole but not of one bundle: expected SHA-256 $(fact whole) of all joined, found $told"
  echo "unpack: all $all parts are here and whole"
}

join_parts() {
  sed -n 's/^part \(bundle\.[0-9]*\) .*/\1/p' "$manifest" | while read -r name; do cat "$here/$name"; done
}

if [ "$target" = --check ]; then
  check_parts
  exit 0
fi

case $target in
  *://*) fail "only local paths are supported, found $target" ;;
  *[[:space:]]*) fail "the folder's name has white space in it, which XLA's flags cannot hold: $target" ;;
esac
check_host
mkdir -p "$target"
[ -z "$(ls -A "$target")" ] || fail "$target is not empty"
# A twentieth more than the files' bytes, for what the file system adds.
needed_kib=$(($(fact unpacked_bytes) * 21 / 20 / 1024))
free_kib=$(df -Pk "$target" | sed -n 2p | tr -s ' ' | cut -d ' ' -f 4)
[ "$free_kib" -ge "$needed_kib" ] \
  || fail "$((free_kib / 1024)) MiB are free where $target is; $((needed_kib / 1024)) MiB are needed"
check_parts

gzip -dc "$here/start.tar.gz" | tar -xf - -C "$target"
join_parts | "$target/python/bin/python3" -I "$target/python/expand.py" "$target" \
  || fail "the parts did not unpack into $target"
echo "unpack: ready: $target/dlrm python main.py --help"
