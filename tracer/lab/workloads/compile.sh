#!/bin/sh -e
# SPDX-License-Identifier: GPL-2.0-only
# compile.sh JOBS PYARROW NUMPY PYTHON UNIT...
#
# g++ -O2 of UNITs of Apache Arrow's Python binding, whose source comes with its wheel, JOBS at a
# time; the folders are those of the packages pyarrow and numpy and of Python.h.
jobs=$1
arrow=$2
numpy=$3
python=$4
shift 4

mkdir /tmp/objects
cd /tmp/objects
# shellcheck disable=SC2016 # $1 is the inner shell's
printf '%s\n' "$@" | /job/limited xargs -P "$jobs" -I UNIT g++ -std=c++20 -O2 -w \
	"-I$arrow/include" "-I$arrow/src" "-I$numpy/_core/include" "-I$python" \
	-c "$arrow/src/arrow/python/UNIT.cc"
ls -s
