#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-only
# Runs in the guest: the recorder's ways to end. Each step leaves what tests look at in /job.
# $ZTRACE is the command; /job/known23 swaps out 23 pages.
exec >/job/log 2>&1
export PYTHONDONTWRITEBYTECODE=1
mkswap /dev/vda >/dev/null
cd /job

probes() { wc -l </sys/kernel/debug/kprobes/list; }

# start NAME [OPTION…]: a recorder in the background, $recorder, ready when this returns
start() {
	name=$1
	shift
	$ZTRACE record -o $name.parquet "$@" 2>$name.err >$name.out &
	recorder=$!
	while ! grep -q Recording $name.err; do
		kill -0 $recorder || return 1
		sleep 0.2
	done
	probes >$name.probes
}

# Files of a killed process are closed a moment after it is gone.
end() {
	wait $recorder
	echo $? >$name.status
	for moment in 1 2 3 4 5 6 7 8 9 10; do
		probes >$name.after
		[ "$(cat $name.after)" = "$(cat before)" ] && break
		sleep 0.5
	done
}

echo "before: $(probes) probes"
probes >before
$ZTRACE doctor --json >doctor.json
echo Y >/sys/module/zswap/parameters/enabled
echo N >/sys/module/zswap/parameters/same_filled_pages_enabled
swapon /dev/vda

echo "Ctrl-C"
start interrupted
./known23
kill -INT $recorder
end

echo "duration, owner, size of the ring"
SUDO_UID=1234 SUDO_GID=2345 start timed --duration 2s --ring-size 64k
./known23
end
stat -c '%u %g %a' timed.parquet >timed.owner

echo "kill -9"
start killed
./known23
sleep 2
kill -9 $recorder
end
stat -c '%a' killed.parquet.spool >killed.mode
$ZTRACE record -o killed.parquet 2>again.err
echo $? >again.status
$ZTRACE recover killed.parquet.spool -o recovered.parquet
echo $? >recovered.status

echo "an existing file"
cksum timed.parquet >timed.sum
$ZTRACE record -o timed.parquet --duration 1s 2>exists.err
echo $? >exists.status
cksum timed.parquet | cmp - timed.sum
echo $? >exists.same
