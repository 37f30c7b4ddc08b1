# SPDX-License-Identifier: GPL-2.0-only
"""The lab without a guest: a script in QEMU's place, the guest's own scripts in a folder."""

from __future__ import annotations

import re
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from ztrace.commands import lab as lab_command
from ztrace.commands import record as record_command
from ztrace.tracer import TracerError, kmod, recorder
from ztrace.tracer.lab import debian, qemu, session
from ztrace.tracer.lab.cache import remember
from ztrace.tracer.lab.debian import Kernel
from ztrace.tracer.lab.qemu import GuestSize, last_words, run_guest
from ztrace.tracer.lab.session import Setup, expectation, record_in_guest
from ztrace.tracer.lab.together import record_together
from ztrace.tracer.lab.workloads import WORKLOADS
from ztrace.tracer.program.build import FROM_NOTHING, steps
from ztrace.tracer.ring import RECORD
from ztrace.tracer.spool import SpoolWriter
from ztrace.traces import TraceReader

PANIC = "Kernel panic - not syncing: IO-APIC + timer doesn't work!"

# Finds the job's folder in its arguments, counts its boots in a file, and dies as a panicking
# guest does as often as the file "dies" says; with "late", after the job began.
FAKE = """#!/bin/sh
for word; do
	case $word in local,id=job,path=*) job=${word#local,id=job,path=}; job=${job%%,*};; esac
done
here=$(dirname "$0")
echo boot >>"$here/boots"
[ -e "$here/late" ] && echo yes >"$job/began"
if [ "$(wc -l <"$here/boots")" -le "$(cat "$here/dies")" ]; then
	printf '[    2.317] %s\\r\\n' "$(cat "$here/panic")"
	printf '[    2.4] Shutting down cpus with NMI\\r\\n[    2.5] Kernel Offset: disabled\\r\\n'
	exit 0
fi
echo yes >"$job/began"
exec /bin/sh "$here/guest" "$job"
"""


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a fake QEMU: ``dies`` times a boot panics, then ``guest`` runs with its job."""
    folder = tmp_path / "machine"
    folder.mkdir()
    (folder / qemu.QEMU).write_text(FAKE)
    (folder / qemu.QEMU).chmod(0o755)
    (folder / "dies").write_text("0")
    (folder / "panic").write_text(PANIC)
    (folder / "guest").write_text("echo hello >>$1/log; echo 0 >$1/status\n")
    monkeypatch.setenv("PATH", str(folder), prepend=":")
    monkeypatch.setenv("ZTRACE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(qemu, "_initramfs", lambda kernel, modules, stage: b"")
    monkeypatch.setattr(qemu, "unpack_kernel", lambda image: b"")
    monkeypatch.setattr(session, "fetch_kernel", lambda version, stage: KERNEL)
    return folder


KERNEL = Kernel("7.2.13+deb14-amd64", Path("/nowhere"))


def boots(machine: Path) -> int:
    return len((machine / "boots").read_text().splitlines())


@pytest.fixture
def job(tmp_path: Path) -> Path:
    folder = tmp_path / "job"
    folder.mkdir()
    return folder


@pytest.mark.parametrize("dies", [0, 1, 2])
def test_a_guest_that_dies_before_its_job_began_is_booted_again(
    machine: Path, job: Path, dies: int
) -> None:
    (machine / "dies").write_text(str(dies))
    said: list[str] = []
    stages: list[str] = []
    assert run_guest(KERNEL, job, GuestSize(cpus=3), watch=said.append, stage=stages.append) == 0
    assert boots(machine) == dies + 1
    assert said == ["hello"]
    assert sum("booting again" in line and PANIC in line for line in stages) == dies
    assert qemu.notes(job) == dies * [
        f"the guest ended before the job began: {PANIC}; it was booted again"
    ]


def test_a_guest_that_always_dies_is_given_up_with_its_panic_and_console(
    machine: Path, job: Path
) -> None:
    (machine / "dies").write_text("9")
    with pytest.raises(TracerError) as caught:
        run_guest(KERNEL, job, GuestSize())
    assert boots(machine) == qemu.BOOTS == 3
    message = str(caught.value)
    assert f"3 times before the job began: {PANIC}; its console is in " in message
    assert PANIC in Path(message.rpartition(" ")[2]).read_text()
    assert not (job / "swap.img").exists() and not (job / "initramfs").exists()


def test_a_guest_that_dies_later_is_not_booted_again(machine: Path, job: Path) -> None:
    (machine / "dies").write_text("1")
    (machine / "late").touch()
    with pytest.raises(TracerError, match=r"without a result: Kernel panic.*console is in"):
        run_guest(KERNEL, job, GuestSize())
    assert boots(machine) == 1


def test_old_consoles_go(machine: Path, job: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(qemu, "CONSOLES_KEPT", 2)
    (machine / "dies").write_text("9")
    with pytest.raises(TracerError) as caught:
        run_guest(KERNEL, job, GuestSize())
    kept = list((machine.parent / "cache" / "consoles").iterdir())
    assert len(kept) == 2
    assert Path(str(caught.value).rpartition(" ")[2]) in kept


@pytest.mark.parametrize(
    ("console", "words"),
    [
        ("[ 1.0] BUG: unable to handle\n[ 1.1] Kernel panic - x\n[ 1.2] ---[ end", "Kernel panic"),
        ("[ 1.0] BUG: unable to handle page\nRIP: 0010", "BUG: unable to handle page"),
        ("init: cannot mount\nreboot: Power down\n\n", "reboot: Power down"),
        ("", "no output"),
    ],
)
def test_last_words_of_a_console(tmp_path: Path, console: str, words: str) -> None:
    (tmp_path / "console").write_text(console)
    assert last_words(tmp_path / "console").startswith(words)


# -- a recording ------------------------------------------------------------------------------


@pytest.fixture
def recording_guest(machine: Path) -> Path:
    """The guest leaves a spool of five events, as if its script had run."""
    spool = machine / "spool"
    writer = SpoolWriter(spool)
    kernel = {"release": "7.2.13+deb14-amd64"}
    writer.start(
        {"tool": "test", "source": "zswap", "kernel": kernel, "pools": [{"allocator": "zsmalloc"}]}
    )
    writer.records(np.zeros(5, RECORD))
    writer.state({"final": True})
    writer.close()
    (machine / "guest").write_text(
        f'cp {spool} "$1/trace.parquet.spool"; touch "$1/workload-done"\n'
        'echo "the guest is up; attaching the probes" >>$1/log; echo 0 >$1/status\n'
    )
    return machine


SETUP = Setup("7.2", "zsmalloc", "known23")


def test_lab_run_tells_what_it_does_and_the_trace_how_its_guest_came_up(
    recording_guest: Path, tmp_path: Path
) -> None:
    (recording_guest / "dies").write_text("1")
    said: list[str] = []
    record_in_guest(SETUP, tmp_path / "t.parquet", watch=said.append)
    told = [line.partition(";")[0].partition(":")[0] for line in said]
    assert told == [
        "this takes minutes",
        "unpacking vmlinuz of 7.2.13+deb14-amd64",
        "booting 7.2.13+deb14-amd64",
        "the guest ended before the job began",
        "booting 7.2.13+deb14-amd64",
        "the guest is up",
        "collecting the trace",
    ]
    with TraceReader(tmp_path / "t.parquet") as trace:
        assert trace.num_rows == 5
        assert any(PANIC in note and "booted again" in note for note in trace.metadata.notes)


def test_lab_run_says_how_long_one_like_it_took(recording_guest: Path, tmp_path: Path) -> None:
    said: list[str] = []
    for _ in range(2):
        record_in_guest(SETUP, tmp_path / "t.parquet", watch=said.append)
    assert sum(line.startswith("this takes minutes") for line in said) == 1
    assert (
        sum(bool(re.fullmatch(r"the last .* like this one took \d s", line)) for line in said) == 1
    )
    other = replace(SETUP, workload="churn")
    assert expectation(other).startswith("this takes minutes")


def test_a_kernels_build_has_as_many_steps_as_the_last_from_nothing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("ZTRACE_CACHE", str(tmp_path))
    assert steps("6.1") == FROM_NOTHING
    remember("steps-6.1", 512)
    assert (steps("6.1"), steps("6.1", smp=True)) == (512, FROM_NOTHING)
    built = tmp_path / "program" / "trees" / "6.1" / "build"
    built.mkdir(parents=True)
    (built / "vmlinux.o").touch()
    assert steps("6.1") is None  # only make knows what is left


def test_lab_run_names_the_model_with_the_recorded_rules(
    recording_guest: Path, tmp_path: Path
) -> None:
    options = ["--kernel", "7.2", "--backend", "zsmalloc", "--workload", "known23"]
    trace = str(tmp_path / "t.parquet")
    done = CliRunner().invoke(lab_command.command, ["run", *options, "-o", trace])
    assert (done.exit_code, done.exception) == (0, None)
    assert done.stdout == (
        f"{trace}: recorded. Next: ztrace replay {trace} --backend zsmalloc:7.2\n"
    )
    assert "recover" not in done.stderr


def test_recordings_of_one_boot_all_tell(
    recording_guest: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (recording_guest / "dies").write_text("1")
    (recording_guest / "guest").write_text(
        f'for part in 0 1; do cp {recording_guest}/spool "$1/$part/trace.parquet.spool"\n'
        'touch "$1/$part/workload-done"; echo 0 >$1/$part/status; echo x >$1/$part/log; done\n'
        "echo 0 >$1/status\n"
    )
    paths = [tmp_path / "a.parquet", tmp_path / "b.parquet"]
    assert record_together(dict.fromkeys(paths, SETUP)) == {}
    for path in paths:
        with TraceReader(path) as trace:
            assert any(PANIC in note for note in trace.metadata.notes)


def test_lab_run_says_where_the_console_of_a_dead_guest_is(machine: Path, tmp_path: Path) -> None:
    (machine / "dies").write_text("9")
    options = ["--kernel", "7.2", "--backend", "zsmalloc", "--workload", "known23"]
    done = CliRunner().invoke(
        lab_command.command, ["run", *options, "-o", str(tmp_path / "t.parquet")]
    )
    assert isinstance(done.exception, TracerError)
    assert PANIC in str(done.exception) and "consoles" in str(done.exception)
    assert done.stderr.count("booting again") == 2


# -- what is said in a good recording ---------------------------------------------------------


def run_workload(folder: Path, text: str, events: str) -> subprocess.CompletedProcess[str]:
    """Run a workload's script as the guest does, with its paths below a folder."""
    for name in ("job", "parameters", "tools"):
        (folder / name).mkdir()
    (folder / "cgroup").mkdir()
    for name in ("swapon", "swapoff"):
        (folder / "tools" / name).symlink_to("/bin/true")
    # Ends like any program; the group's file of events is the kernel's.
    limited = f"#!/bin/sh\nprintf '{events}' >{folder}/cgroup/workload/memory.events\n"
    (folder / "job" / "limited").write_text(limited)
    (folder / "job" / "limited").chmod(0o755)
    text = text.replace("/sys/fs/cgroup", f"{folder}/cgroup").replace("/job/", f"{folder}/job/")
    text = text.replace("/sys/module/zswap/parameters", f"{folder}/parameters")
    return subprocess.run(
        ["/bin/sh", "-ec", text],
        capture_output=True,
        text=True,
        env={"PATH": f"{folder}/tools:/usr/bin:/bin"},
        timeout=60,
    )


CHURN = session._workload_script(Setup("7.2", "zsmalloc", "churn"), WORKLOADS["churn"])


def test_a_workload_says_what_is_done_and_nothing_of_its_groups_counters(tmp_path: Path) -> None:
    done = run_workload(tmp_path, CHURN, "low 0\\nmax 6759\\noom_kill 0\\n")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == ["recording: churn", "taking the probes off"]
    assert (tmp_path / "job" / session.DONE).exists()


def test_a_workload_that_was_killed_says_so(tmp_path: Path) -> None:
    done = run_workload(tmp_path, CHURN, "low 0\\nmax 6759\\noom 3\\noom_kill 1\\n")
    assert done.returncode == 1
    assert done.stdout.splitlines()[-1] == "killed for want of memory: max 6759 oom 3 oom_kill 1"
    assert not (tmp_path / "job" / session.DONE).exists()


@pytest.mark.parametrize("quiet", [False, True])
def test_a_guests_recorder_gives_no_advice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, quiet: bool
) -> None:
    assert "--spool-only --quiet" in session._run_script(SETUP, None)
    spool = tmp_path / "t.parquet.spool"

    def record(plan: recorder.Plan) -> recorder.Recorded:
        plan.on_ready(12, ["obj_free is not probed: 2 functions of that name"])
        return recorder.Recorded(7, {}, None, 1.0, [spool])

    monkeypatch.setattr(recorder, "record", record)
    options = ["-o", str(tmp_path / "t.parquet"), "--spool-only", *(["--quiet"] if quiet else [])]
    done = CliRunner().invoke(record_command.command, options)
    assert done.exit_code == 0
    assert "obj_free is not probed" in done.stderr
    for advice in ("Hit Ctrl-C", "next: ztrace recover", "7 events"):
        assert (advice in done.stderr) == (not quiet)


# -- modules ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("has_zpool", "words", "complaint"),
    [
        (False, "make[3]: *** [z.o] Error 127", "zpool is gone from that kernel (Linux 6.18"),
        (
            True,
            "z.c:9:10: error: invalid use of undefined type 'const struct zpool_ops'",
            "its zpool is another one: since Linux 6.5 allocators do not evict by themselves",
        ),
        (True, "z.c:1:1: error: unknown type name 'blah'", "z.c:1:1: error: unknown type name"),
        (True, "/bin/sh: 1: gcc-15: not found\nmake: *** Error 127", "gcc-15: not found"),
    ],
)
def test_why_a_module_does_not_build_is_told_in_a_line(
    tmp_path: Path, *, has_zpool: bool, words: str, complaint: str
) -> None:
    headers, common = tmp_path / "headers", tmp_path / "common"
    headers.mkdir()
    (common / "include" / "linux").mkdir(parents=True)
    if has_zpool:
        (common / "include" / "linux" / "zpool.h").touch()
    (tmp_path / "said").write_text(words)
    (headers / "Makefile").write_text("include ../common/Makefile\n")
    (common / "Makefile").write_text(f"modules:\n\tcat {tmp_path}/said >&2; false\n")
    (tmp_path / "z.c").write_text("#include <linux/zpool.h>\n")
    with pytest.raises(TracerError) as caught:
        kmod.build_module(tmp_path / "z.c", headers, tmp_path / "out")
    assert complaint in str(caught.value)
    assert "\n" not in str(caught.value)


def test_fetched_headers_build_wherever_they_lie(tmp_path: Path) -> None:
    name = "linux-headers-7.2.13+deb14-amd64"
    common = "linux-headers-7.2.13+deb14-common"
    for folder in (name, common):
        (tmp_path / folder).mkdir()
    (tmp_path / name / "Makefile").write_text(
        f"KBUILD_OUTPUT=/usr/src/{name}\ninclude /usr/src/{common}/Makefile\n"
    )
    (tmp_path / common / "Makefile").write_text("# more\nmodules:\n\t@echo $(KBUILD_OUTPUT)\n")
    debian._relocate_headers(tmp_path)
    done = subprocess.run(
        ["make", "-s", "-C", tmp_path / name, "modules"], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == f"{tmp_path / name}/"
