"""The helper process: answers, refuses, dies, hangs, and is there again for the next job."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator

import pytest

from stars_local.llama.child import MIB, Child, ChildDied, ChildRefused

SOURCE = "{{ messages[0].content }}"


@pytest.fixture
def child() -> Iterator[Child]:
    helper = Child()
    yield helper
    helper.close()


def render(child: Child, template: str, content: str = "x", limit_s: float = 5.0) -> str:
    messages = [{"role": "user", "content": content}]
    request = {"template": template, "messages": messages, "bos": "", "eos": ""}
    return str(child.ask("render", request, limit_s=limit_s, n_bytes=256 * MIB))


def pid_of(child: Child) -> int:
    child.start()
    assert child._running is not None
    return child._running.process.pid


def test_one_process_serves_many_jobs_until_it_is_closed(child: Child) -> None:
    pid = pid_of(child)
    assert [render(child, SOURCE, str(i)) for i in range(5)] == list("01234")
    assert pid_of(child) == pid
    child.close()
    assert render(child, SOURCE) == "x"
    assert pid_of(child) != pid


def test_a_refusal_leaves_the_process_well(child: Child) -> None:
    pid = pid_of(child)
    with pytest.raises(ChildRefused, match="no, thanks") as caught:
        render(child, "{{ raise_exception('no, thanks') }}")
    assert caught.value.kind == "raised"
    assert pid_of(child) == pid


def test_a_killed_process_is_named_by_its_signal_and_replaced(child: Child) -> None:
    forever = "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}"
    killer = threading.Timer(0.5, os.kill, (pid_of(child), signal.SIGSEGV))
    killer.start()
    with pytest.raises(ChildDied, match="killed by SIGSEGV"):
        render(child, forever, limit_s=30.0)
    killer.join()
    assert render(child, SOURCE) == "x"


def test_a_process_that_died_between_jobs_is_replaced_unseen(child: Child) -> None:
    os.kill(pid_of(child), signal.SIGKILL)
    assert child._running is not None
    child._running.process.wait()
    assert render(child, SOURCE) == "x"


def test_a_hanging_job_ends_at_its_limit(child: Child) -> None:
    render(child, SOURCE)
    started = time.monotonic()
    with pytest.raises(ChildDied, match=r"took longer than 0\.3 s"):
        render(
            child,
            "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
            limit_s=0.3,
        )
    assert 0.25 < time.monotonic() - started < 3.0


def test_an_interrupted_wait_never_gives_the_next_job_an_old_answer(child: Child) -> None:
    slow = "{% for i in range(3000) %}{% for j in range(9000) %}{% endfor %}{% endfor %}old"
    render(child, SOURCE)

    def interrupt(_signal: int, _frame: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.2)
        with pytest.raises(KeyboardInterrupt):
            render(child, slow, limit_s=60.0)
    finally:
        signal.signal(signal.SIGALRM, before)
    assert render(child, SOURCE, "new") == "new"


def test_an_alarm_handler_of_the_parent_is_not_passed_on(child: Child) -> None:
    before = signal.signal(signal.SIGALRM, signal.SIG_IGN)
    try:
        pid_of(child)
    finally:
        signal.signal(signal.SIGALRM, before)
    with pytest.raises(ChildDied, match="took longer"):
        render(
            child,
            "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
            limit_s=0.3,
        )


def test_threads_get_their_own_answers(child: Child) -> None:
    answers: dict[int, str] = {}

    def ask(i: int) -> None:
        answers[i] = render(child, SOURCE, f"thread {i}")

    threads = [threading.Thread(target=ask, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == {i: f"thread {i}" for i in range(8)}


def test_it_ends_with_a_parent_that_is_killed() -> None:
    program = (
        "import os, signal; from stars_local.llama.child import Child; child = Child();"
        "child.start(); print(child._running.process.pid, flush=True);"
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    parent = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    deadline = time.monotonic() + 20.0
    while time.monotonic() < deadline:
        try:
            os.kill(int(parent.stdout), 0)
        except ProcessLookupError:
            return
        time.sleep(0.05)
    pytest.fail("the helper process outlived its parent")
