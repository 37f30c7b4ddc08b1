#!/bin/sh -e
# SPDX-License-Identifier: GPL-2.0-only
# postgresql.sh SCALE BUFFERS CLIENTS TRANSACTIONS
#
# PostgreSQL in the group with BUFFERS MiB of shared buffers, pgbench outside of it. The cluster
# is made and filled outside of the group and lies in a tmpfs, so that nothing of it is charged;
# the accounts are read into the buffers, then each of CLIENTS runs TRANSACTIONS of pgbench's
# own kind (TPC-B like).
scale=$1
buffers=$2
clients=$3
transactions=$4

PATH=$(echo /usr/lib/postgresql/*/bin | tr ' ' '\n' | sort -V | tail -n 1):$PATH
data=/dev/shm/cluster
export PGHOST=/dev/shm PGUSER=lab PGDATABASE=postgres
as_lab="setpriv --reuid=nobody --regid=nogroup --clear-groups --"
settings="-c listen_addresses= -c unix_socket_directories=$PGHOST -c fsync=off -c jit=off
	-c shared_buffers=${buffers}MB -c autovacuum=off"

cd /tmp
mkdir $data
chown nobody:nogroup $data
await() { until psql -qc "select 1" >/dev/null 2>&1; do sleep 0.2; done; }

$as_lab initdb -D $data -U $PGUSER -A trust --no-sync --no-locale >postgresql.log
# shellcheck disable=SC2086 # lists of words
$as_lab postgres -D $data $settings >>postgresql.log 2>&1 &
await
pgbench -q -i -I dtGp -s "$scale" 2>&1 | tail -n 1
psql -qc "create extension pg_prewarm"
kill -INT $! # fast shutdown
wait $!

# shellcheck disable=SC2086
/job/limited $as_lab postgres -D $data $settings >>postgresql.log 2>&1 &
await
psql -qAtc "select 'pages read: ' || pg_prewarm('pgbench_accounts')"
pgbench -n -c "$clients" -t "$transactions" --random-seed=1 2>&1 | grep -E 'processed|failed'
kill -INT $!
wait $!
