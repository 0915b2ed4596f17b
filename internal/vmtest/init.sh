#!/bin/busybox sh
# SPDX-License-Identifier: Apache-2.0
# The guest's first process: brings the host's files, read-only below a layer in memory, and goes on there.
b=/bin/busybox
fail() {
	echo "init: $*"
	$b poweroff -f
}
for m in $($b cat /lib/order); do
	$b insmod "/lib/$m" || fail "insert module $m"
done
$b mount -t devtmpfs dev /dev
$b mount -t proc proc /proc
$b mount -t 9p -o trans=virtio,version=9p2000.L,msize=512000,cache=loose,ro root /lower || fail "mount the host's root"
$b mount -t tmpfs rw /rw
$b mkdir /rw/upper /rw/work
$b mount -t overlay -o lowerdir=/lower,upperdir=/rw/upper,workdir=/rw/work overlay /new || fail "mount the overlay"
for d in tmp run var vm host; do
	$b mkdir -p /new/$d
done
$b mount --bind /new /new/host || fail "show what is hidden by what follows"
for d in tmp run var; do
	$b mount -t tmpfs -o mode=1777 $d /new/$d
done
$b mkdir -p /new/var/tmp
$b mount -t 9p -o trans=virtio,version=9p2000.L,msize=512000,cache=none job /new/vm || fail "mount the job"
$b mount -t sysfs sys /new/sys
$b mount -t bpf bpf /new/sys/fs/bpf
$b mount -t cgroup2 cgroup2 /new/sys/fs/cgroup
$b mount --move /proc /new/proc
$b mount --move /dev /new/dev
exec $b switch_root -c /dev/console /new /bin/busybox sh /vm/start
