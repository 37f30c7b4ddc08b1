#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-only
# Records zswap's calls of its allocator where bcc cannot be installed, as root:
#   sh ftrace.sh OUTPUT.txt COMMAND [ARGUMENT ...]
# Runs the command and leaves the calls meanwhile in OUTPUT.txt, a text that
# `ztrace import --format ftrace` reads. Uses trace-cmd if it is installed, else perf, else
# nothing but the kernel's tracefs. All probes are removed at the end.
set -eu
[ $# -ge 2 ] || { echo "usage: sh ftrace.sh OUTPUT.txt COMMAND [ARGUMENT ...]" >&2; exit 2; }
case $1 in /*) output=$1 ;; *) output=$PWD/$1 ;; esac
shift
tracefs=/sys/kernel/tracing
[ -e $tracefs/kprobe_events ] || mount -t tracefs tracefs $tracefs

there() { grep -qE "^[0-9a-f]+ [tT] $1([[:space:]]|\$)" /proc/kallsyms; }
# Entry and return of one function; many calls may be under way at once.
probe() {
	there "$1" || return 0
	echo "p:ztrace/$1 $1 $2" >>$tracefs/kprobe_events
	echo "r1024:ztrace/${1}__return $1 $3" >>$tracefs/kprobe_events
}
remove() {
	echo 0 >$tracefs/events/ztrace/enable
	grep -o '[pr][0-9]*:ztrace/[^ ]*' $tracefs/kprobe_events |
		sed 's/.*:/-:/' | while read -r event; do echo "$event" >>$tracefs/kprobe_events; done
} 2>/dev/null
trap remove EXIT

# Up to Linux 6.17 zswap calls zpool, which calls the allocator; from 6.18 on it calls zsmalloc.
if there zpool_malloc; then
	probe zpool_malloc 'pool=$arg1:x64 size=$arg2:u64' 'ret=$retval:s32'
	probe zpool_free 'pool=$arg1:x64 handle=$arg2:x64' ''
	probe zpool_map_handle 'pool=$arg1:x64 handle=$arg2:x64' ''
	probe zpool_unmap_handle 'pool=$arg1:x64 handle=$arg2:x64' ''
else
	there zs_malloc || { echo "no zpool_malloc and no zs_malloc in this kernel" >&2; exit 1; }
	probe zs_malloc 'pool=$arg1:x64 size=$arg2:u64' 'handle=$retval:x64'
	probe zs_free 'pool=$arg1:x64 handle=$arg2:x64' ''
fi
# Up to 6.5: which swap slot it is.
probe zswap_frontswap_store 'type=$arg1:u32 offset=$arg2:u64' 'ret=$retval:s32'
probe zswap_frontswap_load 'type=$arg1:u32 offset=$arg2:u64' 'ret=$retval:s32'
probe zswap_frontswap_invalidate_page 'type=$arg1:u32 offset=$arg2:u64' ''

status=0
if command -v trace-cmd >/dev/null; then
	trace-cmd record -q -C mono -b 20000 -e ztrace -o "$output.dat" "$@" || status=$?
	# With all nine digits of a second.
	trace-cmd report -t -i "$output.dat" >"$output"
	rm "$output.dat"
elif command -v perf >/dev/null; then
	perf record -q -a -k mono -m 16M -e 'ztrace:*' -o "$output.data" -- "$@" || status=$?
	perf script --ns --show-lost-events -F comm,tid,cpu,time,event,trace -i "$output.data" >"$output"
	rm "$output.data"
else
	# The kernel's own text has six digits. What does not fit the buffers it says as LOST.
	cd $tracefs
	echo mono >trace_clock
	echo 20000 >buffer_size_kb
	echo >trace
	echo 1 >events/ztrace/enable
	cat trace_pipe >"$output" &
	reader=$!
	cd / && "$@" || status=$?
	echo 0 >$tracefs/events/ztrace/enable
	sleep 2
	kill $reader
fi
exit $status
