#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-only
# Records zswap's calls of its allocator by bpftrace, as root:
#   sh bpftrace.sh OUTPUT.txt COMMAND [ARGUMENT ...]
# Runs the command and leaves the calls meanwhile in OUTPUT.txt, which
# `ztrace import --format bpftrace` reads: a CSV, and bpftrace's own messages between its lines.
set -eu
[ $# -ge 2 ] || { echo "usage: sh bpftrace.sh OUTPUT.txt COMMAND [ARGUMENT ...]" >&2; exit 2; }
output=$1
shift

head='BEGIN { printf("ts_ns,dur_ns,op,pool,size,handle,ret,cpu,tid\n"); }'
# A pool is known by its address, and numbered as it appears; in the same block as what uses the
# number, since nothing says which of two blocks of one function is run first.
pool='if (@known[arg0] == 0) { @pools = @pools + 1; @known[arg0] = @pools; }'
free="{ $pool @from[tid] = nsecs; @pool[tid] = @known[arg0]; @handle[tid] = arg1; }"
freed='/@from[tid]/ { printf("%llu,%llu,free,%d,,%llu,0,%d,%d\n", @from[tid],
	nsecs - @from[tid], @pool[tid] - 1, @handle[tid], cpu, tid); delete(@from[tid]); }'
tail='END { clear(@known); clear(@pools); clear(@pool); clear(@handle); clear(@size);
	clear(@out); clear(@began); clear(@from); }'

# Up to Linux 6.17 zswap calls zpool, which leaves the handle where its fourth argument says.
if grep -qw zpool_malloc /proc/kallsyms; then
	program="$head
kprobe:zpool_malloc { $pool @began[tid] = nsecs; @pool[tid] = @known[arg0]; @size[tid] = arg1; @out[tid] = arg3; }
kretprobe:zpool_malloc /@began[tid]/ { printf(\"%llu,%llu,malloc,%d,%d,%llu,%d,%d,%d\n\", @began[tid],
	nsecs - @began[tid], @pool[tid] - 1, @size[tid], *(uint64 *)@out[tid], (int32)retval, cpu, tid);
	delete(@began[tid]); }
kprobe:zpool_free $free
kretprobe:zpool_free $freed
$tail"
else
	program="$head
kprobe:zs_malloc { $pool @began[tid] = nsecs; @pool[tid] = @known[arg0]; @size[tid] = arg1; @out[tid] = 0; }
kretprobe:zs_malloc /@began[tid]/ { printf(\"%llu,%llu,malloc,%d,%d,%llu,%d,%d,%d\n\", @began[tid],
	nsecs - @began[tid], @pool[tid] - 1, @size[tid], retval,
	((int64)retval < 0 && (int64)retval > -4096) ? (int32)retval : (int32)0, cpu, tid);
	delete(@began[tid]); }
kprobe:zs_free $free
kretprobe:zs_free $freed
$tail"
fi
export BPFTRACE_PERF_RB_PAGES=4096 BPFTRACE_MAX_MAP_KEYS=65536
bpftrace -q -B line -e "$program" >"$output" 2>"$output.said" &
tracer=$!
# It is ready once its first line is there, which it would keep for itself in a file of its own.
while ! [ -s "$output" ]; do
	kill -0 $tracer 2>/dev/null || { cat "$output.said" >&2; exit 1; }
	sleep 1
done
status=0
"$@" || status=$?
kill -INT $tracer
wait $tracer || status=$?
cat "$output.said" >>"$output"
rm "$output.said"
exit $status
