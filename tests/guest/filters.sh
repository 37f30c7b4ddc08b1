#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-only
# Runs in the guest: recordings that leave things out. Each step leaves what tests look at in /job.
# $ZTRACE is the command; /job/known23 swaps out 23 pages.
exec >/job/log 2>&1
export PYTHONDONTWRITEBYTECODE=1
mkswap /dev/vda >/dev/null
cd /job

# start NAME [OPTION…]: a recorder in the background, $recorder, ready when this returns
start() {
	name=$1
	shift
	echo "$name: $*"
	$ZTRACE record "$@" 2>$name.err >$name.out &
	recorder=$!
	tries=1500
	until grep -q Recording $name.err; do
		tries=$((tries - 1))
		[ $tries -gt 0 ] || return 1
		sleep 0.2
	done
}

spool() {
	name=$1
	shift
	start $name -o $name.parquet --spool-only "$@"
}

# end [SIGNAL]: let go of all swap slots, so that every life is over, then end the recorder
end() {
	swapoff -a
	[ -z "$1" ] || kill -$1 $recorder
	wait $recorder
	echo $? >$name.status
	swapon /dev/vda
}

# A process, $held, that swaps once there is a file "go"
hold() {
	sh -c 'until [ -e go ]; do sleep 0.1; done; exec ./known23' &
	held=$!
}

echo Y >/sys/module/zswap/parameters/enabled
echo N >/sys/module/zswap/parameters/same_filled_pages_enabled
swapon /dev/vda

spool allocator --level allocator
./known23
end INT

spool zswap --level zswap
./known23
end INT

spool sample --sample 4 --probe kprobe
./known23
./known23
end INT

group=/sys/fs/cgroup/some
mkdir -p $group/below
spool cgroup --cgroup some
./known23
sh -c "echo 0 >$group/below/cgroup.procs; exec ./known23"
end INT

hold
spool pid --pid $held --min-size 1500
./known23
touch go
wait $held
end INT

spool events --max-events 50
./known23
end

spool pieces --rotate 1s
for round in 1 2 3; do
	./known23
	sleep 2
done
end INT

spool flight --flight 8s
./known23
swapoff -a
swapon /dev/vda
sleep 10
./known23
end USR1

ls >before
start histogram --histogram --json
./known23
end INT
ls | grep -v -e histogram -e after >after

echo N >/sys/module/zswap/parameters/enabled
echo 256M >/sys/block/zram0/disksize
mkswap /dev/zram0 >/dev/null
swapoff -a
spool zram --source zram --cgroup some
swapon /dev/zram0
./known23
sh -c "echo 0 >$group/below/cgroup.procs; exec ./known23"
end INT
