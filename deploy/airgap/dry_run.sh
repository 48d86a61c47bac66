#!/usr/bin/env bash
# Unpacks a bundle and trains the demo as on a minimal host: dry_run.sh BUNDLE FOLDER [STEPS]
#
# FOLDER becomes the root of a file system with only a shell, coreutils, tar, gzip, sed, grep and the
# C and C++ libraries, without network and with an empty environment. Needs only a Linux that allows
# user namespaces (unshare).
set -euo pipefail

[[ $# -ge 2 && -f $1/MANIFEST ]] || { echo "usage: dry_run.sh BUNDLE FOLDER [STEPS]" >&2; exit 2; }
bundle=$(realpath "$1")
steps=${3:-20}
[[ $2 != *://* ]] || { echo "dry_run: only local paths are supported, found $2" >&2; exit 2; }
[[ ! -e $2 ]] || { echo "dry_run: expected a new folder, found $2" >&2; exit 2; }
mkdir -p "$2"
root=$(realpath "$2")

programs=(bash sh env cat ls mkdir rm ln cp mv wc cut tr tail head sort df uname sha256sum sed grep
  tar gzip getconf dirname readlink basename nproc seq taskset date id)
libraries=(libc libm libdl libpthread librt libutil libresolv libnss_files libstdc++ libgcc_s)

mkdir -p "$root"/{dev,etc,proc,tmp,opt,bundle,usr/bin,lib64,usr/lib/x86_64-linux-gnu}
ln -s usr/lib "$root/lib"
ln -s usr/bin "$root/bin"
echo "root:x:0:0:root:/tmp:/bin/bash" >"$root/etc/passwd"
copy_libraries() { # copies the libraries that program $1 loads
  ldd "$1" 2>/dev/null | sed -n 's/.*=> \(\/[^ ]*\).*/\1/p' | while read -r library; do
    cp -Ln "$library" "$root/usr/lib/x86_64-linux-gnu/"
  done
}
for name in "${programs[@]}"; do
  path=$(type -P "$name") || continue
  cp -L "$path" "$root/usr/bin/$name"
  copy_libraries "$path"
done
cp -L /lib64/ld-linux-x86-64.so.2 "$root/lib64/"
for name in "${libraries[@]}"; do
  for path in /usr/lib/x86_64-linux-gnu/"$name".so.[0-9]; do
    if [[ -e $path ]]; then
      cp -Ln "$path" "$root/usr/lib/x86_64-linux-gnu/"
    fi
  done
done
cp "$bundle"/* "$root/bundle/"
touch "$root"/dev/{null,urandom,zero}
mkdir -p "$root/dev/shm"
ln -s /proc/self/fd "$root/dev/fd"

cat >"$root/run" <<EOF
set -eux
ls /usr/lib/x86_64-linux-gnu
sh /bundle/unpack.sh /opt/dlrm
rm -r /bundle
cd /opt/dlrm
./dlrm python -c 'import tensorflow as tf; print(tf.__version__, tf.config.list_physical_devices())'
./dlrm python -m dataset.synthetic --output data/demo/raw --train_samples 200000 --test_samples 20000
./dlrm split_bin.py data/demo/raw/train_data.bin data/demo/train
./dlrm split_bin.py data/demo/raw/test_data.bin data/demo/test
./dlrm ./hvd_wrapper.sh python3 main.py --flagfile=configs/demo.flags --data_dir=data/demo --early_stop=$steps
EOF
# Inside the namespace: mounts /proc and three devices, then changes the root.
# shellcheck disable=SC2016  # $root is expanded by the inner shell
exec unshare --user --map-root-user --mount --net bash -c '
  root=$1
  mount --rbind /proc "$root/proc"
  for device in null urandom zero; do mount --bind "/dev/$device" "$root/dev/$device"; done
  exec chroot "$root" /bin/env -i PATH=/bin HOME=/tmp bash /run' dry_run "$root"
