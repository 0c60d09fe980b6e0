#!/bin/bash
# A machine of its own: systemd as process 1 over a copy of this system's files
# that goes with it. Called with a directory for what is handed over; runs in
# new namespaces of mounts, network, processes, names and cgroups.
set -e
handed=$1
new=$handed/machine
mkdir "$new"
mount -t tmpfs tmpfs "$new"
mkdir "$new/upper" "$new/work" "$new/root"
mount -t overlay overlay -o "lowerdir=/,upperdir=$new/upper,workdir=$new/work" "$new/root"
# As systemd does it on a machine that is no container.
mount --make-rshared /
cd "$new/root"
mount -t proc proc proc
mount -t sysfs sysfs sys -o ro
mount -t bpf bpf sys/fs/bpf -o mode=0700
mount -t cgroup2 cgroup2 sys/fs/cgroup
mount -t tmpfs tmpfs run
mount -t tmpfs tmpfs tmp
# Switches of the kernel are the host's, but for those of this network.
mkdir tmp/net
mount --bind proc/sys/net tmp/net
mount --bind proc/sys proc/sys
mount -o remount,bind,ro proc/sys
mount --bind tmp/net proc/sys/net
# And what else of /proc is the host's, as runtimes of containers have it.
for part in sysrq-trigger bus fs irq; do
    [ -e "proc/$part" ] || continue
    mount --bind "proc/$part" "proc/$part"
    mount -o remount,bind,ro "proc/$part"
done
mount -t tmpfs tmpfs dev
for device in null zero random urandom; do
    touch "dev/$device"
    mount --bind "/dev/$device" "dev/$device"
done
ln -s /proc/self/fd dev/fd
mkdir -p mnt run/lock
mount --bind "$handed" mnt
rm -rf etc/systemd/system/* etc/causeway var/lib/causeway
# Nothing but the agent: what a boot starts otherwise would set up the host.
mkdir -p etc/systemd/system/causeway.service.d
printf '[Unit]\nDefaultDependencies=no\n' > etc/systemd/system/causeway.service.d/alone.conf
cat > etc/systemd/system/probe.service <<'UNIT'
[Unit]
DefaultDependencies=no
FailureAction=exit-force
[Service]
Type=oneshot
ExecStart=/bin/bash /mnt/probe.sh
UNIT
ip link set lo up
ip link add up0 type veth peer name other
ip address add 192.0.2.1/24 dev up0
ip link set up0 up
ip link set other up
exec env -i container=lxc PATH=/usr/sbin:/usr/bin:/sbin:/bin \
    chroot . /lib/systemd/systemd --system --unit=probe.service --log-target=null
