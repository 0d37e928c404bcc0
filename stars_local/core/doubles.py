"""Weightless stand-ins for both ports, for tests and for trying the library.

`EnumerableModel` is a language model small enough to write down: its next-token distribution
is a function of the tokens so far, so the exact law of every segment can be listed and sampled
text held against it. It is exact in floating point: width and rollback cannot change it.
`TableReward` looks rewards up. Both follow the ports to the letter.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from stars_local.core.boundaries import Boundary, StopScanner
from stars_local.core.errors import ModelError, OutOfCellsError, PromptTooLongError
from stars_local.core.ports import Draw, Opened, Order
from stars_local.core.records import (
    End,
    ModelInfo,
    Prompt,
    Proposal,
    Reward,
    RewardInfo,
    Sampling,
    Scores,
)

Distribution = Callable[[tuple[int, ...]], Sequence[float]]


@dataclass(slots=True)
class _Branch:
    """Tokens and scanner of a response, in a trunk or in a proposal's branch."""

    token_ids: tuple[int, ...]
    scanner: StopScanner


@dataclass(slots=True)
class _Trunk:
    prompt_ids: tuple[int, ...]
    sampling: Sampling
    main: _Branch
    branches: dict[int, _Branch] = field(default_factory=dict)


class EnumerableModel:
    """A language model given by a table.

    vocabulary: the text of each token. distribution: probabilities of the next token given the
    response's token ids so far (prompt excluded); the last entry is the end token. n_ctx counts
    prompt and response tokens; a prompt has one token a character. max_branches: how many
    proposals may be alive at once, over all prompts.
    """

    def __init__(
        self,
        vocabulary: Sequence[str],
        distribution: Distribution,
        *,
        n_ctx: int = 4096,
        max_branches: int = 256,
    ) -> None:
        self._vocabulary = tuple(vocabulary)
        self._distribution = distribution
        self._max_branches = max_branches
        self._info = ModelInfo(
            "enumerable", "", "0" * 64, "F64", n_ctx, "table", len(vocabulary) + 1
        )
        self._trunks: dict[int, _Trunk] = {}
        self._cached: dict[int, tuple[int, ...]] = {}
        self._next = 0
        self.n_steps = 0  # decode steps taken, whatever their width

    @property
    def info(self) -> ModelInfo:
        """Identity of the table."""
        return self._info

    @property
    def eog(self) -> int:
        """The id of the end token, which has no text."""
        return len(self._vocabulary)

    # -- the port ----------------------------------------------------------------------------

    def encode(self, prompt: Prompt) -> tuple[int, ...]:
        """A prompt's tokens are its characters."""
        text = prompt.text if prompt.text is not None else _transcript(prompt)
        return tuple(ord(char) for char in text + prompt.prefill)

    def open(self, prompt: Prompt, sampling: Sampling, stop: tuple[str, ...] = ()) -> Opened:
        """Open a prompt."""
        if len(self._trunks) >= self._max_branches:
            raise OutOfCellsError(f"{len(self._trunks)} prompts are open: close some")
        prompt_ids = self.encode(prompt)
        if len(prompt_ids) >= self._info.n_ctx:
            raise PromptTooLongError(
                f"the prompt has {len(prompt_ids)} tokens, n_ctx is {self._info.n_ctx}: "
                "shorten the prompt or raise --n-ctx"
            )
        reused = max((_common(ids, prompt_ids) for ids in self._cached.values()), default=0)
        self._cached.clear()
        trunk = self._new_handle()
        self._trunks[trunk] = _Trunk(prompt_ids, sampling, _Branch((), StopScanner(stop)))
        return Opened(trunk, len(prompt_ids), reused)

    def propose(self, orders: Sequence[Order]) -> list[tuple[Proposal, ...]]:
        """Draw all proposals; a free branch for each, the first ones where they are short."""
        room = self._max_branches - sum(len(trunk.branches) for trunk in self._trunks.values())
        if room < len(orders):
            raise OutOfCellsError(f"{len(orders)} proposals wanted, {room} branches free")
        share = [1] * len(orders)
        for place, order in enumerate(orders):
            extra = min(len(order.draws) - 1, room - sum(share))
            share[place] += max(0, extra)
        replies = []
        for order, n in zip(orders, share, strict=True):
            replies.append(tuple(self._draw(order, draw) for draw in order.draws[:n]))
        longest = max((p.n_tokens for reply in replies for p in reply), default=0)
        self.n_steps += longest
        return replies

    def commit(self, trunk: int, proposal: Proposal) -> None:
        """Make a branch the trunk and drop the others."""
        state = self._trunk(trunk)
        state.main = self._branch(state, proposal)
        state.branches.clear()

    def reject(self, trunk: int, proposals: Sequence[Proposal]) -> None:
        """Drop these branches."""
        state = self._trunk(trunk)
        for proposal in proposals:
            self._branch(state, proposal)
            del state.branches[proposal.handle]

    def close(self, trunk: int, *, keep: bool = False) -> None:
        """Forget a prompt; with `keep` its tokens count as cached for the next one."""
        state = self._trunk(trunk)
        if keep:
            text = "".join(self._text(token) for token in state.main.token_ids)
            self._cached[trunk] = state.prompt_ids + tuple(ord(char) for char in text)
        del self._trunks[trunk]

    # -- the law -----------------------------------------------------------------------------

    def segments(self, prefix: tuple[int, ...], boundary: Boundary) -> dict[tuple[int, ...], float]:
        """The exact probability of every segment that can follow a prefix of token ids."""
        found: dict[tuple[int, ...], float] = {}
        stack: list[tuple[tuple[int, ...], float]] = [((), 1.0)]
        while stack:
            drawn, probability = stack.pop()
            ids = prefix + drawn
            if drawn and (
                drawn[-1] == self.eog
                or boundary.ends_after(len(drawn), self.text(drawn))
                or boundary.ends_before(len(drawn), entropy(self._distribution(ids)))
            ):
                found[drawn] = found.get(drawn, 0.0) + probability
                continue
            for token, share in enumerate(self._distribution(ids)):
                if share > 0:
                    stack.append(((*drawn, token), probability * share))
        return found

    def text(self, token_ids: Sequence[int]) -> str:
        """The text of tokens; the end token has none."""
        return "".join(self._text(token) for token in token_ids)

    # -- internals ---------------------------------------------------------------------------

    def _draw(self, order: Order, draw: Draw) -> Proposal:
        state = self._trunk(order.trunk)
        scanner, end, text = state.main.scanner, End.BOUNDARY, ""
        drawn: list[int] = []
        room = self._info.n_ctx - len(state.prompt_ids) - len(state.main.token_ids)
        backtrack = 0
        generator = random.Random()
        ignore_eog = state.sampling.ignore_eog
        while True:
            ids = (*state.main.token_ids, *drawn)
            if order.should_stop is not None and order.should_stop():
                end = End.HALTED
                break
            if len(drawn) >= room:
                end = End.CONTEXT
                break
            weights = self._distribution(ids)
            if drawn and order.boundary.ends_before(len(drawn), entropy(weights)):
                break
            if len(drawn) % draw.reseed_every == 0:
                place = min(len(drawn) // draw.reseed_every, len(draw.seeds) - 1)
                generator.seed(draw.seeds[place])
            if ignore_eog:
                weights = (*weights[:-1], 0.0)
            token = _pick(weights, generator.random())
            drawn.append(token)
            if token == self.eog:
                end = End.EOG
                break
            piece = self._text(token)
            scanner, hit = scanner.feed(piece)
            if hit is not None:
                start = len(text) + hit
                text, backtrack, end = (
                    (text + piece)[: max(0, start)],
                    max(0, -start),
                    End.STOP_STRING,
                )
                break
            text += piece
            if order.boundary.ends_after(len(drawn), text):
                break
        handle = self._new_handle()
        state.branches[handle] = _Branch((*state.main.token_ids, *drawn), scanner)
        return Proposal(handle, tuple(drawn), text, end, backtrack)

    def _text(self, token: int) -> str:
        return "" if token == self.eog else self._vocabulary[token]

    def _new_handle(self) -> int:
        self._next += 1
        return self._next

    def _trunk(self, trunk: int) -> _Trunk:
        if trunk not in self._trunks:
            raise ModelError(f"prompt {trunk} is not open")
        return self._trunks[trunk]

    def _branch(self, state: _Trunk, proposal: Proposal) -> _Branch:
        if proposal.handle not in state.branches:
            raise ModelError(f"proposal {proposal.handle} was dropped or never drawn")
        return state.branches[proposal.handle]


class TableReward:
    """A reward model given by a table from response text to reward, or by a function."""

    def __init__(
        self,
        rewards: Mapping[str, float] | Callable[[str], float],
        *,
        default: float = 0.0,
        batch_invariant: bool = True,
    ) -> None:
        self._rewards = rewards
        self._default = default
        self._batch_invariant = batch_invariant
        self.n_calls = 0

    @property
    def info(self) -> RewardInfo:
        """Identity of the table."""
        return RewardInfo("table", "1", "0" * 64, "table", ("table",), 2**31)

    @property
    def batch_invariant(self) -> bool:
        """As given."""
        return self._batch_invariant

    def score(self, items: Sequence[tuple[Prompt, str]]) -> Scores:
        """Look up each response; the default where the table has none."""
        self.n_calls += len(items)
        rewards = tuple(
            Reward(self._value(text), {"table": self._value(text)}) for _, text in items
        )
        n_batches = min(1, len(items)) if self._batch_invariant else len(items)
        return Scores(rewards, n_batches, tuple(len(text) for _, text in items))

    def _value(self, text: str) -> float:
        if callable(self._rewards):
            return self._rewards(text)
        return self._rewards.get(text, self._default)


def entropy(probabilities: Sequence[float]) -> float:
    """Shannon entropy of a distribution, in nats."""
    return -sum(p * math.log(p) for p in probabilities if p > 0)


def _pick(weights: Sequence[float], uniform: float) -> int:
    """Inverse transform sampling by relative weight; the last token takes the rounding."""
    uniform *= sum(weights)
    total, last = 0.0, 0
    for token, weight in enumerate(weights):
        if weight > 0:
            total += weight
            last = token
            if uniform < total:
                return token
    return last


def _transcript(prompt: Prompt) -> str:
    return "".join(f"{m.role}: {m.content}\n" for m in prompt.messages) + "assistant: "


def _common(left: tuple[int, ...], right: tuple[int, ...]) -> int:
    n = 0
    for a, b in zip(left, right, strict=False):
        if a != b:
            break
        n += 1
    return n
