"""A chat at a terminal with the real models: two turns, Ctrl-C, why, a crash, resume."""

from __future__ import annotations

import os
import re
import sys
import time
from pathlib import Path
from typing import Any

import pexpect
import pytest

from stars_local.chat.records import Answered, Asked, Record, SegmentKept
from stars_local.chat.session import Session, read_session

pytestmark = pytest.mark.model

PATIENCE_S = 120  # a busy machine decodes a token a second
OPTIONS = [
    *("chat", "--seed", "1", "--threads", "1", "--width", "2", "--segment-size", "4"),
    *("--alpha", "0.5", "--beta", "0.5", "--reward-threshold", "0.5", "--max-attempts", "3"),
]


def start(folder: Path, *args: str) -> Any:
    env = {**os.environ, "STARS_LOCAL_SESSIONS": str(folder), "TERM": "xterm", "NO_COLOR": "1"}
    env["PROMPT_TOOLKIT_NO_CPR"] = "1"
    chat = pexpect.spawn(
        sys.executable,
        ["-c", "from stars_local.cli.app import main; main()", *OPTIONS, *args],
        env=env,
        dimensions=(24, 80),
        encoding="utf-8",
        timeout=PATIENCE_S,
    )
    chat.expect("Ctrl-D leaves")
    return chat


def records(folder: Path) -> list[Record]:
    [path] = folder.glob("*.jsonl")
    return read_session(path)[1]


def wait_for_segments(folder: Path, question: str, n: int) -> None:
    """Until the answer to this question has that many segments on the disk."""
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        found = records(folder)
        asked = [i for i, r in enumerate(found) if isinstance(r, Asked) and r.text == question]
        if asked and sum(isinstance(r, SegmentKept) for r in found[asked[0] :]) >= n:
            return
        time.sleep(0.05)
    pytest.fail(f"no {n} segments in {PATIENCE_S} s")


def test_a_chat_from_two_turns_to_a_crash_and_back(tmp_path: Path) -> None:
    chat = start(tmp_path, "--max-new-tokens", "12")
    chat.send("Say hello.\r")
    chat.expect("segment 1  attempt")
    chat.expect(r"tokens? kept")
    chat.send("/why\r")
    chat.expect("fate")
    chat.expect("accepted|forced")
    chat.send("And goodbye.\r")
    chat.expect(r"tokens? kept")
    first, second = (r for r in records(tmp_path) if isinstance(r, Answered))
    assert second.n_reused_tokens >= first.n_prompt_tokens + first.n_kept_tokens - 1

    chat.send("/set max_new_tokens 400\r")
    chat.expect("is 400")
    # an answer that cannot end before it is interrupted
    chat.send("/set grammar root ::= [a-z ]{800}\r")
    chat.expect("grammar is")
    chat.send("Count to a hundred.\r")
    wait_for_segments(tmp_path, "Count to a hundred.", 1)
    chat.sendintr()
    chat.expect("stopped")
    ended = records(tmp_path)[-1]
    assert isinstance(ended, Answered) and ended.finish_reason.value == "interrupted"

    chat.send("Tell me a long story.\r")
    wait_for_segments(tmp_path, "Tell me a long story.", 2)
    chat.kill(9)
    chat.wait()
    on_disk = records(tmp_path)
    asked = max(i for i, r in enumerate(on_disk) if isinstance(r, Asked))
    story = "".join(r.segment.text for r in on_disk[asked:] if isinstance(r, SegmentKept))
    assert story

    chat = start(tmp_path, "--resume", "--max-new-tokens", "8")
    chat.expect("the last answer was cut off")
    chat.expect(re.escape(story.split()[0]))
    chat.send("Go on.\r")
    chat.expect(r"tokens? kept")
    # Ctrl-D means the end only to the prompt: before it reads keys, the terminal swallows it
    chat.expect(re.escape("\x1b[?2004h"))
    chat.sendeof()
    chat.expect(pexpect.EOF)
    chat.close()
    assert chat.exitstatus == 0
    [path] = tmp_path.glob("*.jsonl")
    with Session.resume(path) as session:
        assert [turn.asked.text for turn in session.conversation.turns][-2:] == [
            "Tell me a long story.",
            "Go on.",
        ]
        assert session.conversation.turns[-2].text == story
