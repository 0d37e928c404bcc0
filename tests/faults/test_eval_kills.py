"""A run of 60 answers, killed at random moments: it ends as if nothing had happened."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from stars_local.evals.runner import run
from tests.support.toy_runs import plan, timeless

ROOT = Path(__file__).parents[2]
N_KILLS = 10
SCRIPT = """
import signal, sys, time
signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored where tests run behind a shell
from pathlib import Path
from stars_local.evals.runner import run
from tests.support.toy_runs import plan
for number, line in enumerate(run(plan(20, 2), Path(sys.argv[1]))):
    print(number, flush=True)
    time.sleep(0.002)
"""


def start(folder: Path) -> subprocess.Popen[str]:
    """A run that says each answer when it is on disk."""
    return subprocess.Popen(
        [sys.executable, "-c", SCRIPT, str(folder)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )


@pytest.mark.parametrize("kill", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_a_run_killed_ten_times_equals_an_undisturbed_one(
    kill: signal.Signals, tmp_path: Path
) -> None:
    dice, folder = random.Random(int(kill)), tmp_path / "killed"
    n_kills, n_done = (N_KILLS if kill is signal.SIGKILL else 2), 0
    for _ in range(n_kills):
        # not by the clock: under load, none of the moments would fall into the drawing
        with start(folder) as process:
            assert process.stdout is not None
            for _ in range(min(59, n_done + dice.randint(1, 6))):
                assert process.stdout.readline(), "the run ended before it was killed"
            time.sleep(dice.uniform(0, 0.01))
            process.send_signal(kill)
            process.stdout.read()
        assert process.returncode == -kill
        n_kept = (folder / "results.jsonl").read_bytes().count(b"\n")
        assert n_kept >= n_done, "answers of whole cohorts were lost"
        n_done = n_kept // 2 * 2
    list(run(plan(20, 2), folder))
    list(run(plan(20, 2), tmp_path / "whole"))
    found = timeless(folder)
    assert len(found) == 60
    assert found == timeless(tmp_path / "whole")
