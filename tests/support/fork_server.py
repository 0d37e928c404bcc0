"""Runs commands in processes that start in milliseconds, so that many can be killed.

A server process imports what the commands need, then forks for each order: a line of JSON in
(`args`, and files for the three streams), the process's id out, and its exit status once it ended.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True, slots=True)
class Ended:
    """status: exit code, or minus the signal that ended the process. elapsed_s: from its start."""

    status: int
    elapsed_s: float
    stdout: str
    stderr: str


class ForkServer:
    """One server with an environment and a working folder; use it as a context manager."""

    def __init__(self, folder: Path, environment: Mapping[str, str]) -> None:
        self._folder = folder
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.support.fork_server", str(folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=ROOT,
            env={**os.environ, **environment, "OMP_NUM_THREADS": "1"},
            text=True,
        )
        self._read()  # it is ready

    def run(
        self, args: list[str], typed: str = "", *, kill: signal.Signals | None = None,
        after_s: float = 0.0,
    ) -> Ended:  # fmt: skip
        """Run a command to its end, or send it a signal `after_s` seconds after its start."""
        streams = {name: str(self._folder / f"stream-{name}") for name in ("in", "out", "err")}
        Path(streams["in"]).write_text(typed)
        for name in ("out", "err"):  # a process killed at once leaves the last one's words there
            Path(streams[name]).write_bytes(b"")
        assert self._process.stdin is not None
        print(json.dumps({"args": args, **streams}), file=self._process.stdin, flush=True)
        started, pid = time.perf_counter(), self._read()
        if kill is not None:
            time.sleep(after_s)
            os.kill(pid, kill)  # the server has not waited for it yet: the id is still its
        print("wait", file=self._process.stdin, flush=True)
        status = self._read()
        elapsed = time.perf_counter() - started
        said = [Path(streams[name]).read_bytes().decode("utf-8") for name in ("out", "err")]
        return Ended(status, elapsed, *said)

    def __enter__(self) -> ForkServer:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait()
        self._process.stdout.close()

    def _read(self) -> int:
        assert self._process.stdout is not None
        return int(self._process.stdout.readline())


def _serve(folder: str) -> None:
    import llama_cpp  # noqa: F401
    import numpy  # noqa: F401
    import tokenizers  # noqa: F401

    from stars_local.cli import calibrate, chat, eval, generate, models  # noqa: F401
    from stars_local.reward.runtime import onnxruntime

    onnxruntime()

    os.chdir(folder)
    print(0, flush=True)
    for line in sys.stdin:
        order = json.loads(line)
        pid = os.fork()
        if pid == 0:
            _become(order)
        print(pid, flush=True)
        sys.stdin.readline()
        _, status = os.waitpid(pid, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)


def _become(order: dict[str, object]) -> None:
    """In the forked process: run the command and end."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # no traceback of this module's own
    for number, (name, flags) in enumerate(
        (("in", os.O_RDONLY), ("out", os.O_WRONLY), ("err", os.O_WRONLY))
    ):
        extra = os.O_CREAT | os.O_TRUNC if number else 0
        os.dup2(os.open(str(order[name]), flags | extra), number)
    sys.stdin, sys.stdout, sys.stderr = map(os.fdopen, (0, 1, 2), ("r", "w", "w"))
    sys.argv = ["stars-local", *order["args"]]  # type: ignore[misc]
    from stars_local.cli.app import main

    code = 1
    try:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        main()
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 1
    except KeyboardInterrupt:
        code = 130
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


if __name__ == "__main__":
    _serve(sys.argv[1])
