"""Records of a conversation: every one comes back from its line, and nothing else is read."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stars_local.chat.records import (
    SCHEMA,
    Answered,
    Asked,
    Emptied,
    Header,
    Held,
    SegmentKept,
    SystemSet,
    Trimmed,
    Undone,
    from_line,
    to_line,
)
from stars_local.core.errors import DataError
from stars_local.core.records import Attempt, End, Finish, Outcome, Segment

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
counts = st.integers(0, 2**40)
numbers = st.none() | st.floats(allow_nan=False, allow_infinity=False)
ids = st.lists(counts, max_size=5).map(tuple)
attempts = st.builds(
    Attempt,
    segment=counts,
    index=counts,
    text=texts,
    n_tokens=counts,
    outcome=st.sampled_from(Outcome),
    reward=numbers,
    threshold=numbers,
    probability=numbers,
    axes=st.dictionaries(texts, st.floats(-9, 9), max_size=2),
    passed=st.booleans(),
    end=st.sampled_from(End),
)
segments = st.builds(
    Segment,
    index=counts,
    text=texts,
    n_tokens=counts,
    reward=numbers,
    threshold=numbers,
    probability=numbers,
    n_attempts=counts,
    outcome=st.sampled_from(Outcome),
)
some_attempts = st.lists(attempts, max_size=3).map(tuple)
records = st.one_of(
    st.builds(Header, schema=st.just(SCHEMA), id=texts, started=texts),
    st.builds(Held, model=texts, sha256=texts, reward_model=st.none() | texts),
    st.builds(SystemSet, text=st.none() | texts),
    st.builds(Asked, text=texts, seed=counts, draw=counts),
    st.builds(
        SegmentKept, segment=segments, token_ids=ids, n_backtrack=counts, attempts=some_attempts
    ),
    st.builds(
        Answered,
        method=texts,
        finish_reason=st.sampled_from(Finish),
        n_prompt_tokens=counts,
        n_reused_tokens=counts,
        n_kept_tokens=counts,
        n_rejected_tokens=counts,
        n_spare_tokens=counts,
        elapsed_s=st.floats(0, 1e9),
        token_ids=st.none() | ids,
        attempts=some_attempts,
    ),
    st.just(Undone()),
    st.just(Emptied()),
    st.builds(Trimmed, n_turns=counts),
)


@given(records)
def test_a_record_is_one_line_and_comes_back(record: Any) -> None:
    line = to_line(record)
    assert line.count(b"\n") == 1 and line.endswith(b"\n")
    assert from_line(line, "here") == record


def test_infinite_numbers_become_null() -> None:
    attempt = Attempt(0, 0, "a", 1, Outcome.ACCEPTED, 1.0, float("-inf"), 1.0)
    segment = Segment(0, "a", 1, 1.0, float("-inf"), 1.0, 1, Outcome.ACCEPTED)
    line = to_line(SegmentKept(segment, (1,), 0, (attempt,)))
    found = from_line(line, "here")
    assert isinstance(found, SegmentKept)
    assert found.segment.threshold is None and found.attempts[0].threshold is None


@given(records, st.data())
def test_a_field_that_is_missing_unknown_or_of_another_kind_is_refused(
    record: Any, data: st.DataObject
) -> None:
    found = json.loads(to_line(record))
    names = sorted(found.keys() - {"type"})
    kind = data.draw(st.sampled_from(["unknown", "missing", "wrong"] if names else ["unknown"]))
    if kind == "unknown":
        found["surprise"] = 1
    else:
        name = data.draw(st.sampled_from(names))
        if kind == "missing":
            del found[name]
        else:
            found[name] = {"no": "such"}
    with pytest.raises(DataError, match=r"^here"):
        from_line(json.dumps(found).encode(), "here")


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"null",
        b"[1]",
        b"{}",
        b'{"type": "nothing"}',
        b'{"type": ["question"]}',
        b'{"type": "trim", "n_turns": -1}',
        b'{"type": "trim", "n_turns": true}',
        b'{"type": "trim", "n_turns": 9223372036854775808}',
        b'{"type": "trim", "n_turns": 1' + b"0" * 400 + b"}",
        b'{"type": "trim", "n_turns": 1.0}',
        b'{"type": "trim", "n_turns": NaN}',
        b'{"type": "system", "text": "\\ud800"}',
        b'{"type": "session", "schema": 99, "id": "a", "started": "b"}',
        b"[" * 100_000,
        b"\xff",
        b'{"type": "trim", "n_turns": ' + b"9" * 10_000 + b"}",
    ],
)
def test_what_is_no_record_is_refused_in_one_line(line: bytes) -> None:
    with pytest.raises(DataError) as caught:
        from_line(line, "here")
    assert str(caught.value).startswith("here") and "\n" not in str(caught.value)
