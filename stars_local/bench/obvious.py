"""The obvious program, against which the engine is measured.

What one writes in an afternoon on llama-cpp-python's high-level class: attempts one by one,
`sample` and `eval` a token at a time, the state saved before a segment and loaded back after
a rejection. The rule, the thresholds and the reward model are those of the package.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stars_local.core.acceptance import AcceptanceRule
from stars_local.core.ports import RewardModel
from stars_local.core.records import Prompt
from stars_local.core.seeds import SeedSource
from stars_local.core.thresholds import Threshold


@dataclass(frozen=True, slots=True)
class Answer:
    """Text, tokens decoded over all attempts, tokens kept, and seconds after the prefill."""

    text: str
    n_decoded: int
    n_kept: int
    elapsed_s: float


class ObviousProgram:
    """STARS over `llama_cpp.Llama`, with `save_state` and `load_state`."""

    def __init__(self, path: Path, n_ctx: int, n_threads: int) -> None:
        from llama_cpp import Llama

        self.llama: Any = Llama(
            str(path), n_ctx=n_ctx, n_threads=n_threads, n_threads_batch=n_threads, verbose=False
        )

    def answer(
        self,
        prompt: Prompt,
        reward_model: RewardModel,
        threshold: Threshold,
        rule: AcceptanceRule,
        seeds: SeedSource,
        *,
        n_tokens: int,
        segment_size: int,
        max_attempts: int,
    ) -> Answer:
        """Draw `n_tokens` kept tokens; end-of-generation tokens are sampled over, so that every
        program draws as many."""
        llama = self.llama
        llama.reset()
        llama.eval(llama.tokenize((prompt.text if prompt.text is not None else "").encode()))
        initial = reward_model.score([(prompt, "")]).rewards[0].value
        started = time.perf_counter()
        text, n_kept, n_decoded, segment = "", 0, 0, 0
        while n_kept < n_tokens:
            size = min(segment_size, n_tokens - n_kept)
            state = llama.save_state()
            for attempt in range(max_attempts):
                llama.set_seed(seeds.draw(segment, attempt))
                drawn = self._draw(size)
                n_decoded += size
                piece = llama.detokenize(drawn).decode("utf-8", "replace")
                reward = reward_model.score([(prompt, text + piece)]).rewards[0]
                tau = threshold.at(n_kept + size, initial)
                if rule(reward, tau, seeds.uniform(segment, attempt)).accepted:
                    break
                if attempt + 1 < max_attempts:
                    llama.load_state(state)
            text, n_kept, segment = text + piece, n_kept + size, segment + 1
        return Answer(text, n_decoded, n_kept, time.perf_counter() - started)

    def _draw(self, size: int) -> list[int]:
        drawn = []
        for _ in range(size):
            token = self.llama.sample(top_k=40, top_p=1.0, min_p=0.0, temp=1.0, repeat_penalty=1.0)
            self.llama.eval([token])
            drawn.append(token)
        return drawn

    def close(self) -> None:
        """Free the native memory."""
        self.llama.close()
