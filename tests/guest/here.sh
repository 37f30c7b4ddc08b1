# SPDX-License-Identifier: GPL-2.0-only
# ztrace measure --here as its user types it: interrupted as it compiles and as it plays, then where
# modules are refused, in three ways. $ZTRACE is set; NAME.status and NAME.said are what it ended
# with, NAME.left what it left behind.
cd /job
exec >log 2>&1
export TMPDIR=/tmp/here
mkdir $TMPDIR
mount -t securityfs securityfs /sys/kernel/security

# run NAME PROGRAM: interrupt it when the program is at work.
run() {
	echo $1
	# A shell's background processes ignore Ctrl-C; a user's do not.
	env --default-signal=INT $ZTRACE measure trace.parquet --here --repeat 100 --allocator zbud \
		>$1.out 2>$1.said &
	measure=$!
	if [ -n "$2" ]; then
		until pgrep -x $2 >/dev/null; do kill -0 $measure || break; done
		sleep 1
		kill -INT $measure
	fi
	wait $measure
	echo $? >$1.status
	{ pgrep -l 'make|cc1|insmod'; ls $TMPDIR; lsmod | grep ztrace; } >$1.left
}

run compiling cc1
run playing insmod
echo Y >/sys/module/module/parameters/sig_enforce
run signed
echo integrity >/sys/kernel/security/lockdown
run locked
echo 1 >/proc/sys/kernel/modules_disabled
run disabled
