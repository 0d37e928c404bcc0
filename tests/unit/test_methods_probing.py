"""Probing: the path is STARS' own, and what is written down is every draw of a first round."""

from __future__ import annotations

from collections import Counter

import pytest

from stars_local.core.acceptance import TiltRule
from stars_local.core.boundaries import Boundary
from stars_local.core.methods import Context, Segmentation, StarsParams, stars
from stars_local.core.methods.probing import Position, probing
from stars_local.core.records import Prompt
from stars_local.core.requests import Steps
from stars_local.core.thresholds import Threshold
from tests.support.laws import answer, g_test, letters_model, letters_reward

SIZE, WIDTH, CAP, MAX_NEW = 3, 4, 6, 12
THRESHOLD, RULE = Threshold(1.1, 0.6, MAX_NEW), TiltRule(0.3)


@pytest.mark.parametrize("chunk", [0, 1])
def test_the_path_is_that_of_stars_and_the_draws_follow_the_model(chunk: int) -> None:
    positions: list[Position] = []
    params = StarsParams(THRESHOLD, RULE, Segmentation(SIZE), CAP)

    def probe(context: Context) -> Steps:
        return probing(context, THRESHOLD, RULE, Segmentation(SIZE), CAP, positions)

    for i in range(400):
        seen, plain = (
            answer(
                letters_model(),
                letters_reward(),
                method,
                prompt_id=f"p{i}",
                max_new_tokens=MAX_NEW,
                width=WIDTH,
                score_chunk=chunk,
            )
            for method in (probe, lambda c: stars(c, params))
        )
        assert seen.segments == plain.segments
        assert seen.n_decoded_tokens == plain.n_decoded_tokens
    assert {len(p.rewards) for p in positions} == {WIDTH}
    assert {p.initial for p in positions} == {0.0}
    assert all(len(p.ended) == len(p.n_tokens) == WIDTH for p in positions)

    model, reward, prompt = letters_model(), letters_reward(), Prompt("p", text="x")
    law: Counter[object] = Counter()
    for ids, share in model.segments((), Boundary(SIZE)).items():
        value = reward.score([(prompt, model.text(ids))]).rewards[0].value
        law[round(value, 9), len(ids), ids[-1] == model.eog] += share  # type: ignore[assignment]
    drawn: Counter[object] = Counter()
    for p in positions:
        if p.segment == 0:
            drawn.update(
                (round(r, 9), n, e) for r, n, e in zip(p.rewards, p.n_tokens, p.ended, strict=True)
            )
    assert g_test(drawn, dict(law)) > 1e-4
