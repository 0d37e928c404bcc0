"""What a file costs on this machine: tokens a second, and the memory it takes.

The smallest file is not always the fastest: llama.cpp has other kernels for every type, and some
gain more from wide batches than others. So files are timed at the width that will be used.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from stars_local.llama.engine import LlamaModel
from stars_local.llama.speed import prefill_rate, step_seconds

N_PROMPT = N_ANSWER = 128  # tokens of the answer that files are compared by


@dataclass(frozen=True, slots=True)
class Speed:
    """Tokens a second, sampling included.

    prefill: of a prompt. decode_one: of one sequence drawn alone. decode_wide: of all sequences
    together, `n_prompts` prompts with `width` attempts each.
    """

    width: int
    n_prompts: int
    prefill: float
    decode_one: float
    decode_wide: float

    @property
    def answer_s(self) -> float:
        """Seconds of an answer to one of the prompts with every attempt kept: `N_ANSWER` steps
        at the width, after the prefill of `N_PROMPT` tokens for each prompt."""
        steps = N_ANSWER * self.width * self.n_prompts / self.decode_wide
        return self.n_prompts * N_PROMPT / self.prefill + steps

    def as_json(self) -> dict[str, Any]:
        """The figures as JSON values."""
        return {
            "width": self.width,
            "n_prompts": self.n_prompts,
            "prefill_tokens_per_s": self.prefill,
            "decode_tokens_per_s": {"one": self.decode_one, "wide": self.decode_wide},
        }


def time_model(model: LlamaModel, *, width: int = 1, n_prompts: int = 1) -> Speed:
    """Time an open model while no prompt is open; its context must have the sequences."""
    together = width * n_prompts
    return Speed(
        width,
        n_prompts,
        prefill_rate(model),
        1.0 / step_seconds(model, 1),
        together / step_seconds(model, width, n_prompts),
    )
