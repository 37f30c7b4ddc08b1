#!/bin/sh -e
# SPDX-License-Identifier: GPL-2.0-only
# java.sh HEAP YOUNG ENTRIES CHANGES
#
# A JVM in the group with a heap of HEAP MiB, YOUNG of it for new objects, runs Heap.java, which is
# compiled outside of it. The serial collector is what a JVM takes where memory is below 2 GB.
heap=$1
young=$2
entries=$3
changes=$4

cd /tmp
java -m jdk.compiler/com.sun.tools.javac.Main -d classes /job/Heap.java
/job/limited java -XX:+UseSerialGC "-Xms${heap}m" "-Xmx${heap}m" "-Xmn${young}m" \
	-XX:-UsePerfData -Xlog:gc:gc.log -cp classes Heap "$entries" "$changes" 1
echo "collections: $(grep -c 'Pause Young' gc.log) young, $(grep -c 'Pause Full' gc.log) full"
