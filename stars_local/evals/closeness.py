"""Whether an arm comes close to best-of-n for fewer tokens: the papers' claim, put to the test.

"Close" was fixed before any run: behind by no more than a tenth of the spread that answers to one
prompt have. The interval of the difference decides, so that too few prompts leave it undecided.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from stars_local.evals import metrics
from stars_local.evals.judges import tells_better
from stars_local.evals.pairs import ByArm, plain, rewards_by_prompt

MARGIN = 0.1  # of the spread within prompts
_YARDSTICK = "best-of-n"
_FLAT = 1e-9  # differences, over the size of the rewards, that differ by rounding alone


def in_spreads(first: Mapping[str, float], second: Mapping[str, float]) -> metrics.Estimate:
    """The mean of first minus second, in spreads of answers to one prompt, over shared prompts.

    The spread is the standard deviation of the differences over the square root of 2: that of one
    answer where both arms scatter alike around what a prompt and an arm add. Both are drawn anew
    together in the bootstrap. Arms that share attempts differ less, which makes the test stricter.
    NaN where there is no spread.
    """
    shared = sorted(set(first) & set(second))
    differences = [first[key] - second[key] for key in shared]
    size = max((abs(arm[key]) for arm in (first, second) for key in shared), default=0.0)

    def standardised(rows: metrics.Floats) -> float:
        spread = float(rows.std(ddof=1)) / np.sqrt(2) if len(rows) > 1 else 0.0
        return float(rows.mean() / spread) if spread > _FLAT * size else np.nan

    return metrics.bootstrap([[each] for each in differences], standardised)


def is_close(low: float, high: float) -> bool | None:
    """Whether a difference in spreads is above -`MARGIN`, by its interval; None: undecided."""
    return True if low > -MARGIN else False if high < -MARGIN else None


def closeness(by_arm: ByArm, judges: Sequence[str]) -> list[dict[str, Any]]:
    """Every arm against every best-of-n arm that decoded more, by each judge of answers.

    `tokens` is the arm's decoded tokens over those of best-of-n on the prompts that both answered,
    `difference` its reward less that of best-of-n, in spreads, `close` what `is_close` says.
    """
    found = []
    for dear in [arm for arm, lines in by_arm.items() if lines[0]["method"] == _YARDSTICK]:
        for cheap in by_arm:
            tokens = _tokens(by_arm, cheap, dear)
            if tokens is None or not tokens < 1.0:
                continue
            for judge in filter(tells_better, judges):
                mine, theirs = (rewards_by_prompt(by_arm[arm], judge) for arm in (cheap, dear))
                difference = in_spreads(mine, theirs)
                if not np.isfinite((difference.low, difference.high)).all():
                    continue
                found.append(
                    {
                        "first": cheap,
                        "second": dear,
                        "judge": judge,
                        "tokens": tokens,
                        "difference": plain(difference),
                        "close": is_close(difference.low, difference.high),
                    }
                )
    return found


def _tokens(by_arm: ByArm, first: str, second: str) -> float | None:
    """Decoded tokens of one arm over those of another, on the prompts that both answered."""
    counts = [
        {line["prompt_id"]: int(line["n_decoded_tokens"]) for line in by_arm[arm]}
        for arm in (first, second)
    ]
    shared = set(counts[0]) & set(counts[1])
    mine, theirs = (sum(each[key] for key in shared) for each in counts)
    return mine / theirs if theirs else None
