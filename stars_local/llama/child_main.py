"""The helper process itself: reads jobs as JSON lines on stdin, answers on stdout.

What native code prints cannot be mistaken for an answer: the answers go to a copy of stdout,
and stdout itself goes nowhere. stderr is a file of the parent's, emptied before each job; it
holds the last words of a job that kills the process.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import signal
import sys
from collections.abc import Callable
from typing import Any

from stars_local.llama.refusal import Refusal

START_LIMIT_S = 60.0
_MAX_STDERR_BYTES = 16 << 20


def job_named(name: str) -> Callable[..., Any]:
    """The function that does a job; each imports only what it needs itself."""
    if name == "render":
        from stars_local.llama.template_sandbox import render_template

        return render_template
    from stars_local.llama import child_jobs

    jobs: dict[str, Callable[..., Any]] = {
        "probe": child_jobs.probe,
        "grammar": child_jobs.parse_grammar,
        "schema": child_jobs.convert_schema,
    }
    return jobs[name]


def answer(order: dict[str, Any]) -> dict[str, Any]:
    """Do one job; whatever Python raises becomes a refusal."""
    try:
        return {"result": job_named(order["job"])(**order["request"])}
    except Refusal as refusal:
        return {"error": str(refusal), "kind": refusal.kind}
    except MemoryError:
        return {"error": "it needs too much memory", "kind": "memory"}
    except RecursionError:
        return {"error": "it is nested too deep", "kind": "depth"}
    except Exception as error:
        return {"error": f"{type(error).__name__}: {error}", "kind": "exception"}


def limit_memory(n_bytes: int) -> None:
    """Limit private data; systems that know no such limit are left with the time limit."""
    for kind, limit in (
        (resource.RLIMIT_DATA, n_bytes),
        (resource.RLIMIT_FSIZE, _MAX_STDERR_BYTES),
        (resource.RLIMIT_CORE, 0),
    ):
        _, hard = resource.getrlimit(kind)
        if hard != resource.RLIM_INFINITY:
            limit = min(limit, hard)
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(kind, (limit, hard))


def main() -> None:
    """Serve until stdin ends."""
    signal.signal(signal.SIGALRM, signal.SIG_DFL)  # the parent may have it ignored
    signal.setitimer(signal.ITIMER_REAL, START_LIMIT_S)
    answers = os.fdopen(os.dup(1), "wb")
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    for line in sys.stdin.buffer:
        order = json.loads(line)
        signal.setitimer(signal.ITIMER_REAL, order["limit_s"])
        limit_memory(order["n_bytes"])
        os.ftruncate(2, 0)
        os.lseek(2, 0, os.SEEK_SET)
        reply = answer(order)
        signal.setitimer(signal.ITIMER_REAL, 0)
        answers.write(json.dumps(reply).encode("ascii") + b"\n")
        answers.flush()
