"""The plain records that pass between methods, driver, adapters and consumers.

    decoded = kept + rejected + spare

A decoded token is a sampled token, the end token included, once per attempt. Kept tokens
belong to accepted or forced segments, rejected ones to the losers that were judged, spare
ones to attempts that were drawn in parallel after the winner and never mattered.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum


class Outcome(StrEnum):
    """What became of an attempt."""

    ACCEPTED = "accepted"
    FORCED = "forced"
    REJECTED = "rejected"
    SPARE = "spare"


class End(StrEnum):
    """Why the drawing of a proposal ended."""

    BOUNDARY = "boundary"
    EOG = "eog"
    STOP_STRING = "stop_string"
    CONTEXT = "context"
    HALTED = "halted"


class Finish(StrEnum):
    """Why an answer ended; the values of `finish_reason`."""

    STOP = "stop"
    STOP_STRING = "stop_string"
    LENGTH = "length"
    CONTEXT = "context"
    BUDGET = "budget"
    DEADLINE = "deadline"
    INTERRUPTED = "interrupted"


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a conversation.

    `token_ids` are the tokens that a language model sampled for an assistant message: where
    they are known the message is never tokenised again. They belong to one model file.
    """

    role: str
    content: str
    token_ids: tuple[int, ...] | None = None


@dataclass(frozen=True, slots=True)
class Prompt:
    """What a response is drawn for: a conversation, or raw text for a base model.

    Exactly one of `messages` and `text` is given. `prefill` is text that the response is
    forced to begin with: it is part of the scored response, but no token of it is drawn.
    """

    id: str
    messages: tuple[Message, ...] = ()
    text: str | None = None
    prefill: str = ""

    def __post_init__(self) -> None:
        if (self.text is None) == (not self.messages):
            raise ValueError(f"prompt {self.id!r}: give either messages or text")


@dataclass(frozen=True, slots=True)
class Sampling:
    """How tokens are drawn from next-token distributions; not to be confused with `beta`.

    temperature: > 0 scales logits; 0 is greedy. top_k: 0 is off. top_p in (0, 1], min_p in
    [0, 1). repeat_penalty: 1 is off, over the last `repeat_last_n` tokens. grammar: GBNF.
    logprobs: also return the log-probability of each token under the untruncated model.
    ignore_eog: never draw an end-of-generation token, so that benchmarks draw equally much.
    """

    temperature: float = 1.0
    top_k: int = 40
    top_p: float = 1.0
    min_p: float = 0.0
    repeat_penalty: float = 1.0
    repeat_last_n: int = 64
    grammar: str | None = None
    logprobs: bool = False
    ignore_eog: bool = False


@dataclass(frozen=True, slots=True)
class Proposal:
    """A drawn segment that may become part of the response.

    handle: names the branch that holds its state; valid until committed, rejected, or until
    its prompt commits another. text: the characters that the segment completes; bytes of an
    unfinished character wait in the branch. n_backtrack: characters of the text before it
    that a stop string took away. logprobs: one per token, empty unless asked for.
    """

    handle: int
    token_ids: tuple[int, ...]
    text: str
    end: End
    n_backtrack: int = 0
    logprobs: tuple[float, ...] = ()

    @property
    def n_tokens(self) -> int:
        """Tokens sampled for it, the end token included."""
        return len(self.token_ids)

    def extend(self, response: str) -> str:
        """The response so far, with this segment added."""
        kept = response[: len(response) - self.n_backtrack] if self.n_backtrack else response
        return kept + self.text


@dataclass(frozen=True, slots=True)
class Reward:
    """The score of a cumulative response: a finite value, its parts, and whether gates passed."""

    value: float
    axes: Mapping[str, float] = field(default_factory=dict)
    passed: bool = True


@dataclass(frozen=True, slots=True)
class Scores:
    """Rewards in the order asked for, and what they cost: runs of the network, and the tokens of
    each text, prompt included and padding left out; none where nothing counts them."""

    rewards: tuple[Reward, ...]
    n_batches: int
    n_tokens: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Attempt:
    """One attempt at one segment and its fate; what `/why` and `--events` show.

    reward, threshold and probability are None where the method has none or where the attempt
    was never judged (a spare one).
    """

    segment: int
    index: int
    text: str
    n_tokens: int
    outcome: Outcome
    reward: float | None = None
    threshold: float | None = None
    probability: float | None = None
    axes: Mapping[str, float] = field(default_factory=dict)
    passed: bool = True
    end: End = End.BOUNDARY


@dataclass(frozen=True, slots=True)
class Segment:
    """A kept segment. `n_attempts` counts the attempts judged, the kept one included."""

    index: int
    text: str
    n_tokens: int
    reward: float | None
    threshold: float | None
    probability: float | None
    n_attempts: int
    outcome: Outcome


@dataclass(frozen=True, slots=True)
class Result:
    """A finished answer with its ledger.

    `token_ids` are the kept tokens. `text` includes the prompt's prefill. n_rm_calls counts
    scored texts, r(x, "") included; n_rm_batches counts runs of the reward network.
    """

    prompt_id: str
    method: str
    text: str
    finish_reason: Finish
    segments: tuple[Segment, ...]
    token_ids: tuple[int, ...]
    n_prompt_tokens: int
    n_reused_tokens: int
    n_kept_tokens: int
    n_rejected_tokens: int
    n_spare_tokens: int
    n_rm_calls: int
    n_rm_batches: int
    n_rm_tokens: int
    elapsed_s: float
    seed: int
    initial_reward: float | None = None

    @property
    def n_decoded_tokens(self) -> int:
        """kept + rejected + spare."""
        return self.n_kept_tokens + self.n_rejected_tokens + self.n_spare_tokens


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """What a language model says of itself. `sha256` is of the file, hex; n_ctx in tokens;
    adapters: digests and scales of the LoRA adapters over it, as JSON."""

    name: str
    path: str
    sha256: str
    quant: str
    n_ctx: int
    architecture: str = ""
    n_vocab: int = 0
    adapters: str = "{}"

    @property
    def weights_sha256(self) -> str:
        """What tells weights apart: `sha256`, or a digest of it and of the adapters."""
        if self.adapters == "{}":
            return self.sha256
        return hashlib.sha256(f"{self.sha256} {self.adapters}".encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class RewardInfo:
    """What a reward model says of itself; `axis` is what is steered, for example
    `harmless` or `harmless=0.7,helpful=0.3`."""

    name: str
    revision: str
    sha256: str
    axis: str
    axes: tuple[str, ...]
    max_tokens: int
