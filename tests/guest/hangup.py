# SPDX-License-Identifier: GPL-2.0-only
"""hangup.py WORKLOAD RECORDER...: run a recorder on a terminal of its own, close it meanwhile.

Prints how the recorder ended.
"""

import os
import pty
import subprocess
import sys

recorder, terminal = pty.fork()
if not recorder:
    os.execvp(sys.argv[2], sys.argv[2:])
said = b""
while b"Recording" not in said:
    said += os.read(terminal, 4096)
SHELL = """wc -l </sys/kernel/tracing/enabled_functions >hungup.probes
cat /sys/module/zswap/parameters/compressor >hungup.during"""
subprocess.run(["/bin/sh", "-c", SHELL], check=True)
subprocess.run([sys.argv[1]], check=True)
os.close(terminal)
print(os.waitstatus_to_exitcode(os.waitpid(recorder, 0)[1]))
