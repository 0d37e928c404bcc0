"""The race of files and its advice, with measured times that are given."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stars_local.core.errors import ModelError
from stars_local.llama.engine import LlamaModel
from stars_local.quants.advise import N_TURNS, Timed, advise, race
from stars_local.quants.listing import Listing
from stars_local.quants.timing import N_ANSWER, Speed, time_model
from tests.support.language_models import tiny_path


def listing(name: str, bpw: float = 8.0) -> Listing:
    return Listing(Path(f"{name}.gguf"), name, int(bpw * 1000), 8000, bpw, {name: 1}, 0)


def speed(seconds: float, width: int = 4) -> Speed:
    """A file that needs so long for an answer, all of it for decoding."""
    return Speed(width, 1, float("inf"), 1.0, N_ANSWER * width / seconds)


def timed(name: str, bpw: float, *seconds: float) -> Timed:
    return Timed(listing(name, bpw), [speed(each) for each in seconds])


class Clock:
    """Time that passes only where a file is measured."""

    def __init__(self, seconds: dict[str, float], broken: str = "") -> None:
        self.now, self.seconds, self.broken = 0.0, seconds, broken
        self.asked: list[str] = []

    def __call__(self) -> float:
        return self.now

    def measure(self, path: Path) -> Speed:
        self.asked.append(path.stem)
        self.now += self.seconds[path.stem]
        if path.stem == self.broken:
            raise ModelError(f"{path} is gone: put it back")
        return speed(1.0)


def run(clock: Clock, limit_s: float = 120.0) -> list[Timed]:
    return race(
        [listing(name) for name in clock.seconds],
        clock.measure,
        limit_s=limit_s,
        clock=clock,
        on_progress=lambda *_: None,
    )


def test_files_take_turns_and_progress_ends_at_its_total() -> None:
    clock, told = Clock({"A": 1.0, "B": 1.0}), []
    race(
        [listing("A"), listing("B")],
        clock.measure,
        clock=clock,
        on_progress=lambda _, done, total: told.append((done, total)),
    )
    assert clock.asked == ["A", "B"] * N_TURNS
    assert told == [(n, 2 * N_TURNS) for n in range(1, 2 * N_TURNS + 1)]


@given(
    st.lists(st.floats(0.1, 60.0), min_size=1, max_size=9),
    st.floats(1.0, 120.0),
)
def test_no_run_begins_that_is_known_to_end_late(seconds: list[float], limit_s: float) -> None:
    clock = Clock({str(n): each for n, each in enumerate(seconds)})
    found = run(clock, limit_s)
    counts = [len(each.runs) for each in found]
    assert counts[0] >= 1, "the first file is timed whatever it takes"
    # only a first run, of which nothing is known, may end late, and by what it took alone
    assert clock.now <= limit_s + max(seconds)
    if sum(seconds) * N_TURNS < limit_s:
        longest = max(seconds)
        assert clock.now + longest > limit_s or counts == [N_TURNS] * len(seconds)


def test_a_file_that_fails_is_out_and_the_others_race_on() -> None:
    clock = Clock({"A": 1.0, "B": 1.0}, broken="A")
    bad, good = run(clock)
    assert clock.asked == ["A", "B", "B", "B"]
    assert bad.error is not None and "put it back" in bad.error
    assert len(good.runs) == N_TURNS
    assert advise([bad, good]).startswith("run B")
    assert "error" in bad.as_json() and "answer_s" not in bad.as_json()


def test_the_fastest_is_advised_though_another_is_smaller() -> None:
    said = advise([timed("Q4_0", 4.5, 1.0), timed("Q2_K", 3.0, 2.0), timed("F16", 16.0, 3.0)])
    assert said.startswith("run Q4_0: 1.00 s")
    assert "3.0 times F16" in said and "Q2_K is the smallest, and takes 2.00 s" in said
    assert "4 attempts of one prompt" in said and "\n" not in said


@pytest.mark.parametrize(
    ("more", "wanted"),
    [((1.02,), "Q8_0"), ((1.0, 1.3, 1.2), "Q8_0"), ((1.2, 1.3, 1.2), "Q4_0")],
)
def test_among_times_that_are_alike_more_bits_win(more: tuple[float, ...], wanted: str) -> None:
    few = timed("Q4_0", 4.5, *([1.0] if len(more) == 1 else [0.9, 1.0, 1.1]))
    said = advise([few, timed("Q8_0", 8.5, *more)])
    assert said.startswith(f"run {wanted}:")
    assert ("no faster beyond the noise" in said) == (wanted == "Q8_0")


def test_nothing_timed_is_said() -> None:
    assert advise([timed("A", 8.0)]) == "no file could be timed"


@pytest.fixture(name="model")
def _model() -> Iterator[LlamaModel]:
    with LlamaModel(tiny_path("llama"), n_ctx=512, n_threads=1, n_seq_max=12) as model:
        yield model


def test_a_model_is_timed_and_left_as_it_was(model: LlamaModel) -> None:
    found = time_model(model, width=2, n_prompts=3)
    assert min(found.prefill, found.decode_one, found.decode_wide) > 0
    with model.borrowed_context():  # refused while a prompt is open
        pass


def test_streams_are_timed_for_as_many_prompts_as_there_are() -> None:
    path = tiny_path("llama")
    with LlamaModel(path, n_ctx=64, n_threads=1, n_seq_max=8, unified=False) as model:
        assert time_model(model, n_prompts=8).decode_wide > 0


@given(st.floats(1.0, 1e4), st.floats(1.0, 1e4), st.integers(1, 8), st.integers(1, 8))
def test_an_answer_takes_its_prefill_and_its_steps(
    prefill: float, wide: float, width: int, n_prompts: int
) -> None:
    found = Speed(width, n_prompts, prefill, 1.0, wide)
    twice = Speed(width, n_prompts, 2 * prefill, 1.0, 2 * wide)
    assert found.answer_s == pytest.approx(2 * twice.answer_s)
    longer = Speed(width + 1, n_prompts, prefill, 1.0, wide)
    assert longer.answer_s > found.answer_s
