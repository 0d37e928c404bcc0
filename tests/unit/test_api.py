"""The library in five lines, on doubles."""

from __future__ import annotations

import pytest

from stars_local import Aligned
from stars_local.core.errors import UsageError
from stars_local.core.events import Judged
from stars_local.core.records import Outcome


def test_the_demo_streams_what_the_result_holds() -> None:
    with Aligned.demo() as aligned:
        text = "".join(aligned.stream("Sing", seed=0))
        assert aligned.result is not None
        assert text == aligned.result.text
        assert text == "".join(aligned.stream("Sing", seed=0)), "the same seed, the same text"
        assert text != "".join(aligned.stream("Sing", seed=1))


def test_the_demo_rejects_and_prefers() -> None:
    aligned = Aligned.demo()
    events = [e for seed in range(20) for e in aligned.events([("user", "Sing")], seed=seed)]
    outcomes = {e.attempt.outcome for e in events if isinstance(e, Judged)}
    assert {Outcome.ACCEPTED, Outcome.REJECTED, Outcome.SPARE} <= outcomes
    steered = "".join("".join(aligned.stream("Sing", seed=seed)) for seed in range(20))
    assert steered.count("la") > 1.2 * steered.count("ko")


def test_an_unknown_option_is_named() -> None:
    with pytest.raises(UsageError, match="segmnt_size"):
        Aligned.open(segmnt_size=3)
    with pytest.raises(UsageError, match=r"segment.size"):
        Aligned.open(segment_size=0)
