"""Pair accuracy of a reward model on a preference file, on whole responses and on beginnings."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from stars_local.core.records import Message, Prompt
from stars_local.preferences.accuracy import PairAccuracy
from stars_local.preferences.pairs import Pair
from stars_local.preferences.text_format import Message as RoleAndText
from stars_local.reward.manifest import Measured
from stars_local.reward.onnx_model import OnnxRewardModel

AT_TOKENS = (16, 32, 64)
_PAIRS_A_STEP = 64


@dataclass(frozen=True)
class PairReport:
    """Accuracy on whole responses, and by the first tokens of both responses."""

    axis: str
    whole: PairAccuracy
    at_tokens: dict[int, PairAccuracy]

    def to_json(self) -> dict[str, object]:
        """``{axis, pairs, accuracy, ci95, at_tokens, at_tokens_ci95}``."""
        return {
            "axis": self.axis,
            **self.whole.to_json(),
            "at_tokens": {str(n): each.accuracy for n, each in self.at_tokens.items()},
            "at_tokens_ci95": {str(n): list(each.ci95) for n, each in self.at_tokens.items()},
        }

    def measured(self, data: str) -> Measured:
        """As it stands in a manifest; `data` names what was measured on."""
        return Measured(
            self.axis,
            data,
            self.whole.pairs,
            round(self.whole.accuracy, 4),
            tuple(round(end, 4) for end in self.whole.ci95),
            {str(n): round(each.accuracy, 4) for n, each in self.at_tokens.items()},
        )


def pair_report(
    model: OnnxRewardModel,
    pairs: Sequence[Pair],
    axis: str,
    on_progress: Callable[[int], None] = lambda n: None,
) -> PairReport:
    """Measure `axis` on pairs; ties count half. `on_progress` gets the pairs done so far.

    Beginnings are the first 16, 32 and 64 tokens of both responses, in the model's own tokens.
    """
    column = [each.name for each in model.manifest.axes].index(model.manifest.axis(axis).name)
    margins: dict[int | None, list[float]] = {n: [] for n in (None, *AT_TOKENS)}
    for start in range(0, len(pairs), _PAIRS_A_STEP):
        step = pairs[start : start + _PAIRS_A_STEP]
        rows = {
            n: [
                tuple(model.encode(to_prompt(pair.prompt, pair.line), text, max_response_tokens=n))
                for pair in step
                for text in (pair.chosen, pair.rejected)
            ]
            for n in margins
        }
        # A response shorter than the cut is the same text at several lengths
        distinct = list(dict.fromkeys(row for found in rows.values() for row in found))
        values = dict(zip(distinct, model.score_ids(distinct)[0][:, column], strict=True))
        for n, found in margins.items():
            scored = [float(values[row]) for row in rows[n]]
            found += [good - bad for good, bad in zip(scored[::2], scored[1::2], strict=True)]
        on_progress(start + len(step))
    return PairReport(
        axis,
        PairAccuracy.of(margins[None]),
        {n: PairAccuracy.of(found) for n, found in margins.items() if n is not None},
    )


def to_prompt(messages: Sequence[RoleAndText], number: int) -> Prompt:
    """The prompt of a pair; a text without any prompt is a raw text that begins empty."""
    if not messages:
        return Prompt(str(number), text="")
    return Prompt(str(number), tuple(Message(role, content) for role, content in messages))
