"""A long chat over a small context: the memory of the process stays where it was.

`STARS_LOCAL_SOAK_TURNS` is the number of turns, `STARS_LOCAL_SOAK_MODEL` a real model's file
instead of the tiny random one.
"""

from __future__ import annotations

import gc
import os
from pathlib import Path

import pytest

from stars_local.chat.session import Session, read_session
from stars_local.chat.talk import Talk, TurnsLeft
from stars_local.core.events import Finished
from stars_local.llama.engine import LlamaModel
from stars_local.reward.onnx_model import OnnxRewardModel
from tests.faults.test_failing_parts import tasks
from tests.support.tiny_gguf import write_tiny
from tests.support.tiny_reward import write_tiny_reward

TURNS = int(os.environ.get("STARS_LOCAL_SOAK_TURNS", "60"))
MODEL = os.environ.get("STARS_LOCAL_SOAK_MODEL")
WARM = min(50, TURNS // 2)
GROWTH = 1.05 if MODEL is None else 1.025  # short answers, for its sake: less to keep of each
STATM = Path("/proc/self/statm")


def resident_bytes() -> int:
    """Memory of this process that is in RAM now, after what can be freed was."""
    gc.collect()
    return int(STATM.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.skipif(not STATM.exists(), reason="the memory in use is read from /proc")
def test_memory_is_flat_over_a_long_chat(tmp_path: Path) -> None:
    path = write_tiny(tmp_path / "tiny.gguf", "llama") if MODEL is None else Path(MODEL)
    n_ctx, n_tokens = (128, 8) if MODEL is None else (2048, 32)
    folder = write_tiny_reward(tmp_path / "reward")
    reward = OnnxRewardModel(folder, provider="cpu", threads=1, trusted=True)
    n_left, sizes = 0, []
    with (
        LlamaModel(path, n_ctx=n_ctx, n_seq_max=8, n_threads=1) as model,
        Session.create(tmp_path) as session,
    ):
        talk = Talk(session, model, reward)
        make = tasks(n=n_tokens, width=3)  # every attempt at once
        for turn in range(TURNS):
            for event in talk.ask(f"question {turn}", make, seed=turn, least_room=n_tokens):
                n_left += event.n_turns if isinstance(event, TurnsLeft) else 0
                if isinstance(event, Finished):
                    assert event.result.n_kept_tokens > 0
            sizes.append(resident_bytes())
        assert model._runtime.trunks == {}
    assert n_left > TURNS // 2, "the context was never full"
    before, after = sizes[WARM - 1], max(sizes[-10:])
    print(f"{before >> 10} KiB after {WARM} turns, {after >> 10} at the end, {n_left} turns left")
    assert after <= GROWTH * before, f"{before >> 10} KiB after {WARM} turns, {after >> 10} at end"
    assert sum(
        record.__class__.__name__ == "Asked" for record in read_session(session.path)[1]
    ) == (TURNS)
