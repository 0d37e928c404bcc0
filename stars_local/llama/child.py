"""A helper process for what may hang, eat memory or die: native parsers and other people's code.

The process (`stars_local.llama.child_main`) does one job at a time: a JSON line in, a JSON line
out. Each job has a time limit, kept by an alarm signal that ends the process even inside native
code, and a memory limit. When it dies the next job starts a new one; the caller only sees
`ChildDied`.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import tempfile
import threading
import weakref
from collections.abc import Mapping
from dataclasses import dataclass
from typing import IO, Any

from stars_local.core.children import child_command, child_environment

MIB = 1 << 20
_PROGRAM = "from stars_local.llama.child_main import main; main()"
_MAX_LAST_WORDS = 4096
_FOLDERS = re.compile(r"/(?:[^/\s:]+/)+")


class ChildRefused(Exception):
    """The job ended with a reason why not; the process is well. `kind` tells sorts apart."""

    def __init__(self, reason: str, kind: str = "") -> None:
        super().__init__(reason)
        self.kind = kind


class ChildDied(Exception):
    """The process ended inside the job; the message says how, without naming the job."""


@dataclass(frozen=True, slots=True)
class _Running:
    """A live process, its pipes, the file of its last words, and the process that started it."""

    process: subprocess.Popen[bytes]
    jobs: IO[bytes]
    answers: IO[bytes]
    stderr: IO[bytes]
    owner: int

    def end(self) -> None:
        """Kill and reap it; a forked copy of the parent leaves it alone."""
        if self.owner != os.getpid():
            return
        self.process.kill()
        self.process.wait()
        for stream in (self.jobs, self.answers, self.stderr):
            with contextlib.suppress(BrokenPipeError):  # what was left unsent is of no use now
                stream.close()


class Child:
    """A helper process, started when first needed and again after it died.

    Safe to share between threads: jobs queue up. The process ends with its parent, however
    that one ends, because it reads its jobs from the parent's pipe.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._running: _Running | None = None

    def start(self) -> None:
        """Start the process without waiting for it, so that the first job need not wait."""
        with self._lock:
            self._ensure_running()

    def ask(self, job: str, request: Mapping[str, Any], *, limit_s: float, n_bytes: int) -> Any:
        """Do one job and return its result.

        limit_s: wall-clock limit, > 0. n_bytes: memory limit of the process (of its private
        data, where the system can limit that). Raises ChildRefused or ChildDied.
        """
        line = json.dumps({"job": job, "limit_s": limit_s, "n_bytes": n_bytes, "request": request})
        with self._lock:
            running = self._ensure_running()
            try:
                running.jobs.write(line.encode("ascii") + b"\n")
                running.jobs.flush()
                answer = running.answers.readline()
            except BrokenPipeError:
                answer = b""
            except BaseException:  # interrupted: a late answer must not meet the next job
                self._forget()
                raise
            if not answer.endswith(b"\n"):
                raise ChildDied(self._bury(running, limit_s))
        reply = json.loads(answer)
        if "error" in reply:
            raise ChildRefused(reply["error"], reply["kind"])
        return reply["result"]

    def close(self) -> None:
        """End the process, if there is one; a later job starts a new one."""
        with self._lock:
            self._forget()

    def _forget(self) -> None:
        running, self._running = self._running, None
        if running is not None:
            running.end()

    def _ensure_running(self) -> _Running:
        running = self._running
        if running is not None and running.owner == os.getpid() and running.process.poll() is None:
            return running
        self._forget()
        self._running = _start()
        weakref.finalize(self, self._running.end)
        return self._running

    def _bury(self, running: _Running, limit_s: float) -> str:
        code = running.process.wait()
        running.stderr.seek(0)
        said = running.stderr.read(_MAX_LAST_WORDS).decode(errors="replace").split("\n")
        last_words = next((line.strip() for line in said if line.strip()), "")
        last_words = _FOLDERS.sub("", last_words)  # where llama.cpp was built means nothing here
        self._forget()
        if code == -signal.SIGALRM:
            return f"took longer than {limit_s:g} s"
        how = f"exited with {code}" if code >= 0 else f"was killed by {_signal_name(-code)}"
        return f"{how}: {last_words[:300]}" if last_words else how


def _start() -> _Running:
    stderr = tempfile.TemporaryFile()  # noqa: SIM115 - it lives as long as the process
    process = subprocess.Popen(
        child_command(_PROGRAM),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=stderr,
        env=child_environment(gpu=False),  # files are judged on the CPU
        start_new_session=True,  # Ctrl-C in the terminal is for the parent
    )
    assert process.stdin is not None and process.stdout is not None
    return _Running(process, process.stdin, process.stdout, stderr, os.getpid())


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
