#!/bin/sh
# Process 1 of the machine that `cargo xtask kernels` boots.
export PATH=/bin:/sbin
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
mount -t tmpfs tmp /tmp
mount -t tmpfs run /run
mkdir -p /run/netns
mount -t bpf bpf /sys/fs/bpf
mount -t cgroup2 cgroup /sys/fs/cgroup
ulimit -n 1048576
depmod
for module in $(cat /modules); do modprobe "$module"; done
ip link set lo up
echo "GUEST Linux $(uname -r)"
sh /work.sh
echo "GUEST ended: $?"
poweroff -f
