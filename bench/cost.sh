#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-only
# Runs in the guest: one workload under each recorder in turn, $ROUNDS times. /job/times gets a
# line for each run: way, round, ns of the workload, stores and loads that the kernel counted.
# What the recorders wrote is left in /job as ROUND.WAY.*. $ZTRACE is the command.
exec >/job/log 2>&1
export PYTHONDONTWRITEBYTECODE=1
say() { echo "[$(cut -d' ' -f1 /proc/uptime)] $*"; }

mkswap /dev/vda >/dev/null || exit 1
echo $ZPOOL >/sys/module/zswap/parameters/zpool || exit 1
echo Y >/sys/module/zswap/parameters/enabled
echo N >/sys/module/zswap/parameters/same_filled_pages_enabled
echo 50 >/sys/module/zswap/parameters/max_pool_percent
swapon /dev/vda || exit 1

# What is written goes to memory: the shared folder is slow.
out=/run/out
mkdir $out
cat >/run/work <<'END'
#!/bin/sh
count() { sed -n "s/^$1 //p" /proc/vmstat; }
stores=$(count zswpout) loads=$(count zswpin) began=$(date +%s%N)
/job/program || exit 1
ended=$(date +%s%N)
echo "$WAY $ROUND $((ended - began)) $(($(count zswpout) - stores)) $(($(count zswpin) - loads))" \
	>>/job/times
END
sed -i "s|/job/program|$PROGRAM|" /run/work
chmod +x /run/work

# The functions of ztrace's rows, entry and return. A return cannot see what an argument points
# to, so the handle of a malloc is seen first as that of the map after it.
cat >/sys/kernel/tracing/kprobe_events <<'END' || exit 1
p:cost/store_in zswap_frontswap_store type=%di:u32 offset=%si:u64
r:cost/store_out zswap_frontswap_store ret=$retval:s32
p:cost/load_in zswap_frontswap_load type=%di:u32 offset=%si:u64
r:cost/load_out zswap_frontswap_load ret=$retval:s32
p:cost/invalidate_in zswap_frontswap_invalidate_page type=%di:u32 offset=%si:u64
r:cost/invalidate_out zswap_frontswap_invalidate_page
p:cost/malloc_in zpool_malloc pool=%di:x64 size=%si:u64
r:cost/malloc_out zpool_malloc ret=$retval:s32
p:cost/free_in zpool_free pool=%di:x64 handle=%si:x64
r:cost/free_out zpool_free
p:cost/map_in zpool_map_handle pool=%di:x64 handle=%si:x64
r:cost/map_out zpool_map_handle
p:cost/unmap_in zpool_unmap_handle pool=%di:x64 handle=%si:x64
r:cost/unmap_out zpool_unmap_handle
p:cost/total_in zpool_get_total_size pool=%di:x64
r:cost/total_out zpool_get_total_size ret=$retval:u64
END

run() {
	case $WAY in
	none) /run/work ;;
	ztrace) $ZTRACE record -o $out/ztrace --spool-only --ring-size 16M -- /run/work ;;
	ztrace-lists)
		$ZTRACE record --lists -o $out/ztrace-lists --spool-only --ring-size 16M -- /run/work
		;;
	bpftrace) bpftrace -q -o $out/bpftrace -c "/bin/sh /run/work" /job/cost.bt ;;
	trace-cmd) trace-cmd record -b 16384 -e cost -o $out/trace-cmd /run/work ;;
	perf-trace) perf trace -a -m 4096 -e 'cost:*' -o $out/perf-trace /run/work ;;
	esac
}

# bpftrace's ring as large as the others', 16 MiB; its maps for as many tasks as may swap.
export BPFTRACE_PERF_RB_PAGES=4096
export WAY ROUND
WAY=none ROUND=0
run # with all in memory that the workload needs
for ROUND in $(seq $ROUNDS); do
	for WAY in $WAYS; do
		say "round $ROUND, $WAY"
		run >/job/$ROUND.$WAY.said 2>&1
		echo "$WAY $ROUND ended with $?"
		tail -3 /job/$ROUND.$WAY.said
		for written in $out/*; do
			[ -e "$written" ] && mv $written /job/$ROUND.${written##*/}
		done
	done
done
say done
