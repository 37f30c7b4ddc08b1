#!/bin/sh -e
# SPDX-License-Identifier: GPL-2.0-only
# redis.sh KEYS REQUESTS
#
# Redis in the group, redis-benchmark outside of it: fill with strings, a set, a hash and a
# sorted set of up to KEYS keys each, then REQUESTS random requests of each kind.
keys=$1
requests=$2

cd /tmp
/job/limited redis-server --save "" --appendonly no >redis.log &
until redis-cli ping 2>/dev/null | grep -q PONG; do sleep 0.2; done

bench() {
	redis-benchmark -q -P 16 -d 100 -r "$keys" "$@" | tr '\r' '\n' | grep 'per second'
}
bench -t set,sadd,hset,zadd -n "$keys"
bench -t get,set,sadd,hset,zadd -n "$requests"
redis-cli info memory | grep used_memory_human
redis-cli shutdown nosave
wait $!
