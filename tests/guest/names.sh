#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-only
# Runs in the guest: z3fold, compiled as it is elsewhere. /job has a module a name, z3fold-NAME.ko;
# each is recorded into /job/NAME.parquet.spool. Then what doctor and record say to who may not
# read tracefs: another user, and root after the kernel was locked down, which cannot be undone.
# $ZTRACE is the command; its words are in /job/doctor-WHO and /job/record-WHO.
exec >/job/log 2>&1
export PYTHONDONTWRITEBYTECODE=1
mkswap /dev/vda >/dev/null
cd /job
zswap=/sys/module/zswap/parameters
echo N >$zswap/same_filled_pages_enabled
echo 50 >$zswap/max_pool_percent
echo Y >$zswap/enabled

for module in z3fold-*.ko; do
	name=${module#z3fold-}
	name=${name%.ko}
	echo "recording $name"
	insmod $module || exit 1
	echo z3fold >$zswap/zpool
	swapon /dev/vda
	$ZTRACE record -o $name.parquet --spool-only -- ./bursts 20 120 1 >$name.out 2>$name.err
	echo $? >$name.status
	grep ' do_compact_page' /proc/kallsyms | cut -d' ' -f3 | cut -f1 >$name.kallsyms
	swapoff /dev/vda
	echo zbud >$zswap/zpool
	tries=100
	until rmmod z3fold 2>/dev/null; do
		tries=$((tries - 1))
		[ $tries -gt 0 ] || exit 1
		sleep 0.2
	done
done

# words WHO [PREFIX...]
words() {
	who=$1
	shift
	echo "asking as $who"
	"$@" $ZTRACE doctor >doctor-$who 2>&1
	echo $? >doctor-$who.status
	"$@" $ZTRACE record -o no.parquet --duration 1s >record-$who 2>&1
	echo $? >record-$who.status
}
chmod 755 /root
words user setpriv --reuid 65534 --regid 65534 --clear-groups
mount -t securityfs securityfs /sys/kernel/security
echo confidentiality >/sys/kernel/security/lockdown
cat /sys/kernel/security/lockdown
words locked
