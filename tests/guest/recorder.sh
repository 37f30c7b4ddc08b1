#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-only
# Runs in the guest: the recorder's ways to end. Each step leaves what tests look at in /job.
# $ZTRACE is the command; /job/known23 swaps out 23 pages.
exec >/job/log 2>&1
export PYTHONDONTWRITEBYTECODE=1
mkswap /dev/vda >/dev/null
cd /job

# Functions that something is attached to, kprobes and trampolines alike.
probes() { wc -l </sys/kernel/tracing/enabled_functions; }

# ready FILE: wait until a recorder says that it records, at most two minutes
ready() {
	tries=600
	until grep -q Recording $1; do
		tries=$((tries - 1))
		[ $tries -gt 0 ] || return 1
		sleep 0.2
	done
}

# start NAME [OPTION…]: a recorder in the background, $recorder, ready when this returns
start() {
	name=$1
	shift
	$ZTRACE record -o $name.parquet "$@" 2>$name.err >$name.out &
	recorder=$!
	ready $name.err
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

echo "Ctrl-C, and once more"
start interrupted
./known23
kill -INT $recorder
sleep 1
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

echo "an existing file"
cksum timed.parquet >timed.sum
$ZTRACE record -o timed.parquet --duration 1s 2>exists.err
echo $? >exists.status
cksum timed.parquet | cmp - timed.sum
echo $? >exists.same

parameters() { grep -H . /sys/module/zswap/parameters/*; }

echo "pool, swap and module go away; SIGTERM"
parameters >parameters.before
start terminated --spool-only
./known23
echo lzo-rle >/sys/module/zswap/parameters/compressor
./known23
echo lzo >/sys/module/zswap/parameters/compressor
swapoff /dev/vda
python3 -c "import ctypes; ctypes.CDLL(None).syscall(176, b'z3fold', 0o4000)"
grep -c z3fold /proc/modules >terminated.modules
swapon /dev/vda
./known23
kill -TERM $recorder
end
parameters >parameters.after

echo "a ring of one page"
start small --ring-size 4k --spool-only
./bursts 60 120 1
kill -INT $recorder
end

echo "a closed terminal"
name=hungup
mkdir -p /dev/pts
mount -t devpts devpts /dev/pts
python3 /job/hangup.py /job/known23 $ZTRACE record -o hungup.parquet --spool-only >hungup.status
probes >hungup.after

echo "a full disk"
mkdir -p /run/small
mount -t tmpfs -o size=64k tmpfs /run/small
name=full
$ZTRACE record -o /run/small/full.parquet 2>full.err >full.out &
recorder=$!
ready full.err
probes >full.probes
while kill -0 $recorder 2>/dev/null; do ./bursts 10 120 1; done
end
cp /run/small/full.parquet.spool .
