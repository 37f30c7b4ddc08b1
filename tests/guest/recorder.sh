#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-only
# Runs in the guest: the recorder's ways to end. Each step leaves what tests look at in /job:
# NAME.probes and NAME.after, functions probed while recording and after it; NAME.status;
# NAME.parameters, zswap's after it; NAME.from and NAME.to, the kernel's count of stores;
# NAME.moment, when it was killed.
# $ZTRACE is the command, $PYTHON has its modules; /job/known23 swaps out 23 pages.
# Nothing here depends on how fast the guest is: what has to come is waited for.
exec >/job/log 2>&1
export PYTHONDONTWRITEBYTECODE=1
mkswap /dev/vda >/dev/null
cd /job

say() { echo "[$(cut -d' ' -f1 /proc/uptime)] $*"; }

# patiently CONDITION…: wait for it, at most ten minutes
patiently() {
	tries=3000
	until "$@"; do
		tries=$((tries - 1))
		[ $tries -gt 0 ] || return 1
		sleep 0.2
	done
}

# Functions that something is attached to, kprobes and trampolines alike.
probes() { wc -l </sys/kernel/tracing/enabled_functions; }
parameters() { grep -H . /sys/module/zswap/parameters/*; }
moment() { cut -d' ' -f1 /proc/uptime >$name.moment; }
counted() { sed -n 's/^zswpout //p' /proc/vmstat; }

# Conditions: the recorder records, or is gone; it has left no trace; pages are in zswap.
ready() { grep -q Recording $name.err || ! kill -0 $recorder 2>/dev/null; }
quiet() {
	probes >$name.after
	parameters >$name.parameters
	cmp -s $name.after before && cmp -s $name.parameters parameters.before
}
holding() { [ "$(cat /sys/kernel/debug/zswap/stored_pages)" -ge $1 ]; }

# start NAME [OPTION…]: a recorder in the background, $recorder, ready when this returns.
# A shell's background processes ignore Ctrl-C; a user's recorder does not.
start() {
	name=$1
	output=${directory:-.}/$name.parquet
	shift
	env --default-signal=INT $ZTRACE record -o $output "$@" 2>$name.err >$name.out &
	recorder=$!
	patiently ready
	probes >$name.probes
	counted >$name.from
}

# load: swapping in the background, $load, of which some is in the spool when this returns
load() {
	./bursts 1000000 120 1 &
	load=$!
	$PYTHON stored.py $output.spool 500
}

# empty: zswap holds nothing; freed slots are kept back for a while otherwise
empty() {
	swapoff /dev/vda
	swapon /dev/vda
}

# hold: zswap holds pages of a process, $holder, and nothing else
hold() {
	empty
	python3 hold.py &
	holder=$!
	patiently holding 200
}

# end: files of a killed process are closed a moment after it is gone
end() {
	wait $recorder
	echo $? >$name.status
	if [ -n "$load" ]; then
		wait $load
		load=
	fi
	counted >$name.to
	patiently quiet
}

say "before: $(probes) probes"
probes >before
$ZTRACE doctor --json >doctor.json
echo Y >/sys/module/zswap/parameters/enabled
echo N >/sys/module/zswap/parameters/same_filled_pages_enabled
parameters >parameters.before
swapon /dev/vda

say "Ctrl-C, and once more while the trace is made; a fresh pool, zswap being empty"
start interrupted --fresh-pool
./known23
kill -INT $recorder
patiently quiet
kill -INT $recorder
end

say "duration, owner, size of the ring"
SUDO_UID=1234 SUDO_GID=2345 start timed --duration 2s --ring-size 64k
./known23
end
stat -c '%u %g %a' timed.parquet >timed.owner

say "an existing file"
cksum timed.parquet >timed.sum
$ZTRACE record -o timed.parquet --duration 1s 2>exists.err
echo $? >exists.status
cksum timed.parquet | cmp - timed.sum
echo $? >exists.same

say "kill -9 under load; a fresh pool, pages being in the old one"
hold
start killed --fresh-pool
cat /sys/module/zswap/parameters/compressor >killed.during
load
moment
kill -9 $recorder $load
end
stat -c '%a' killed.parquet.spool >killed.mode
$ZTRACE record -o killed.parquet 2>again.err
echo $? >again.status
kill $holder

say "a closed terminal; a fresh pool, pages being in the old one"
hold
name=hungup
mkdir -p /dev/pts
mount -t devpts devpts /dev/pts
counted >hungup.from
python3 hangup.py ./known23 $ZTRACE record -o hungup.parquet --fresh-pool --spool-only \
	>hungup.status
counted >hungup.to
patiently quiet
kill $holder

say "the OOM killer under load"
empty
start oom --spool-only
load
echo 1000 >/proc/$recorder/oom_score_adj
moment
echo f >/proc/sysrq-trigger
kill -9 $load
end
dmesg | grep -c "Killed process $recorder " >oom.count

say "pool, swap and module go away; SIGTERM"
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

say "a ring of one page"
start small --ring-size 4k --spool-only
./bursts 60 120 1
kill -INT $recorder
end

say "a full disk"
directory=/run/small
mkdir -p $directory
mount -t tmpfs -o size=64k tmpfs $directory
start full
while kill -0 $recorder 2>/dev/null; do ./bursts 10 120 1; done
end
cp $directory/full.parquet.spool .
say "done"
