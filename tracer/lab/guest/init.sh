#!/bin/busybox sh
# SPDX-License-Identifier: GPL-2.0-only
# The guest's first process: load modules, lay the kernel's files and a writable memory layer
# over the host's read-only root, run /job/run there, keep its exit status, power off.
b=/bin/busybox
$b mount -t proc proc /proc
$b mount -t devtmpfs dev /dev
$b mount -t sysfs sys /sys
while read -r module; do
	$b insmod "/modules/$module" || echo "init: cannot load $module"
done </modules/order

share=version=9p2000.L,trans=virtio,access=any,msize=524288
$b mount -t 9p -o "ro,$share,cache=loose" host /host || $b poweroff -f
$b mount -t 9p -o "ro,$share,cache=loose" kernel /kernel || $b poweroff -f
$b mount -t tmpfs rw /rw
$b mkdir /rw/upper /rw/work
$b mount -t overlay -o "lowerdir=/kernel:/host,upperdir=/rw/upper,workdir=/rw/work" root /root
$b mkdir -p /root/job /root/proc /root/sys /root/dev /root/run /root/tmp
$b mount -t 9p -o "rw,$share" job /root/job
for mounted in proc sys dev; do
	$b mount --move /$mounted /root/$mounted
done
$b mkdir -p /root/dev/shm
for memory in run dev/shm; do
	$b mount -t tmpfs tmpfs /root/$memory
done
$b mount -t debugfs debugfs /root/sys/kernel/debug
$b mount -t tracefs tracefs /root/sys/kernel/tracing
$b mount -t bpf bpf /root/sys/fs/bpf
$b mount -t cgroup2 cgroup2 /root/sys/fs/cgroup
$b ip link set lo up 2>/dev/null

echo yes >/root/job/began
$b chroot /root /bin/sh /job/run
echo $? >/root/job/status
$b sync
$b poweroff -f
