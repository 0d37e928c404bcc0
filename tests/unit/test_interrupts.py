"""A Ctrl-C that falls where Python can raise nothing comes all the same; the rest is as it was."""

from __future__ import annotations

import subprocess
import sys
import textwrap

CODE = """
import signal, time
from stars_local.core.interrupts import hear_interrupts

signal.signal(signal.SIGINT, signal.default_int_handler)  # it may be ignored, as behind nohup
hear_interrupts()
hear_interrupts()  # once more changes nothing

class Fragile:
    def __del__(self):
        {wrong}

try:
    Fragile()
    time.sleep(30)
except KeyboardInterrupt:
    print("heard")
"""


def _run(wrong: str) -> subprocess.CompletedProcess[str]:
    code = textwrap.dedent(CODE).format(wrong=wrong)
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=20, check=False
    )


def test_one_that_falls_into_a_finaliser_is_heard() -> None:
    done = _run("signal.raise_signal(signal.SIGINT)")
    assert (done.stdout, done.stderr, done.returncode) == ("heard\n", "", 0)


def test_other_errors_are_shown_as_ever() -> None:
    done = _run("signal.setitimer(signal.ITIMER_REAL, 0.2); raise ValueError('seven')")
    assert done.returncode == -14  # the alarm: nothing woke it before
    assert "ValueError: seven" in done.stderr
