"""Whether an arm comes close to best-of-n for fewer tokens: the papers' claim, put to the test.

"Close" is fixed before any run: behind by no more than a tenth of the spread that answers to one
prompt have. The interval of the difference decides, so that too few prompts leave it undecided.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from stars_local.core.plain import finite
from stars_local.evals.judges import tells_better

MARGIN = 0.1  # of the spread within prompts
_YARDSTICK = "best-of-n"


def spread_within(rewards: Sequence[Mapping[str, float]]) -> float:
    """The spread of rewards among answers to one prompt, in units of the reward.

    rewards: of each arm, by prompt. It is the standard deviation of what is left when the mean of
    each prompt and of each arm is taken out (two-way analysis of variance without interaction,
    (prompts - 1) (arms - 1) degrees of freedom), over the prompts that all arms answered. Arms
    that share attempts make it smaller and the test stricter. NaN without two arms and two
    prompts.
    """
    shared = sorted(set.intersection(*(set(arm) for arm in rewards))) if rewards else []
    if len(shared) < 2 or len(rewards) < 2:
        return math.nan
    values = np.array([[arm[prompt] for prompt in shared] for arm in rewards])
    left = values - values.mean(axis=0) - values.mean(axis=1, keepdims=True) + values.mean()
    return float(np.sqrt(np.square(left).sum() / ((len(shared) - 1) * (len(rewards) - 1))))


def is_close(low: float, high: float, margin: float) -> bool | None:
    """Whether a difference is above -margin, by its interval; None where that is undecided."""
    return True if low > -margin else False if high < -margin else None


def closeness(
    arms: Mapping[str, Mapping[str, Any]],
    pairs: Sequence[Mapping[str, Any]],
    spreads: Mapping[str, float],
) -> list[dict[str, Any]]:
    """Every arm against every best-of-n arm that decoded more, by each judge of answers.

    arms, pairs: those of a summary. spreads: within prompts, by judge. `tokens` is the arm's
    decoded tokens over those of best-of-n, `difference` its reward less that of best-of-n, in
    spreads, `close` what `is_close` says.
    """
    found = []
    for pair in pairs:
        spread = spreads.get(pair["judge"], math.nan)
        if not (tells_better(pair["judge"]) and spread > 0):
            continue
        values = [pair["difference"][key] / spread for key in ("value", "low", "high")]
        for cheap, dear, sign in (
            (pair["first"], pair["second"], 1),
            (pair["second"], pair["first"], -1),
        ):
            tokens = [arms[arm]["n_decoded_tokens"] for arm in (cheap, dear)]
            if arms[dear]["method"] != _YARDSTICK or not tokens[0] < tokens[1]:
                continue
            low, high = sorted(sign * value for value in values[1:])
            found.append(
                {
                    "first": cheap,
                    "second": dear,
                    "judge": pair["judge"],
                    "tokens": finite(tokens[0] / tokens[1]),
                    "difference": {
                        "value": sign * values[0],
                        "low": low,
                        "high": high,
                        "n": pair["difference"]["n"],
                    },
                    "close": is_close(low, high, MARGIN),
                }
            )
    return found
