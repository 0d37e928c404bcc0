"""From pairs to padded batches: token ids, the held-out split, prefixes and the epoch's plan.

Everything random derives from (seed, what, epoch, step), never from a generator that lives
on: an interrupted run continues with the very batches that it would have seen.
"""

from __future__ import annotations

import hashlib
import math
import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from stars_local.preferences.leaks import normalise
from stars_local.preferences.pairs import Pair
from stars_local.preferences.text_format import assemble_pair, render_prompt, render_response

if TYPE_CHECKING:
    from tokenizers import Tokenizer


@dataclass(frozen=True)
class TextLimits:
    """How much of a text the network reads, in its tokens; see `text_format`."""

    max_tokens: int
    max_prompt_tokens: int


@dataclass(frozen=True)
class EncodedPair:
    """A pair as token ids without special tokens; the prompts differ only in augmentation.

    margin: see `Pair`.
    """

    axis: str
    source: str
    prompt: tuple[int, ...]
    rejected_prompt: tuple[int, ...]
    chosen: tuple[int, ...]
    rejected: tuple[int, ...]
    margin: float | None = None

    @property
    def n_tokens(self) -> int:
        return max(
            len(self.prompt) + len(self.chosen), len(self.rejected_prompt) + len(self.rejected)
        )


@dataclass(frozen=True)
class Batch:
    """Sequences of one axis: the chosen ones first, then their rejected ones.

    margins: a teacher's log-odds for each pair, None for those that people ranked.
    """

    axis: str
    sequences: tuple[tuple[int, ...], ...]
    margins: tuple[float | None, ...]

    @property
    def n_pairs(self) -> int:
        return len(self.sequences) // 2


class Encoder:
    """Text to ids by a tokenizer whose special tokens no text can spell."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        tokenizer.no_truncation()
        tokenizer.no_padding()
        tokenizer.encode_special_tokens = True
        self._tokenizer = tokenizer

    def ids(self, texts: Sequence[str]) -> list[tuple[int, ...]]:
        encoded = self._tokenizer.encode_batch(list(texts), add_special_tokens=False)
        return [tuple(one.ids) for one in encoded]

    def special_id(self, token: str) -> int:
        """The id of a special token, ValueError where the tokenizer has none."""
        found = self._tokenizer.token_to_id(token)
        if found is None:
            raise ValueError(f"the tokenizer has no {token} token")
        return int(found)


def encode_pairs(
    encoder: Encoder, pairs: Sequence[Pair], max_response_tokens: Mapping[str, int]
) -> list[EncodedPair]:
    """Token ids of each pair; responses keep their first tokens up to the source's limit."""
    prompts = encoder.ids([render_prompt(pair.prompt) for pair in pairs])
    chosen = encoder.ids([render_response(pair.chosen) for pair in pairs])
    rejected = encoder.ids([render_response(pair.rejected) for pair in pairs])
    return [
        EncodedPair(
            pair.axis,
            pair.source,
            prompt,
            prompt,
            good[: max_response_tokens.get(pair.source)],
            bad[: max_response_tokens.get(pair.source)],
            pair.margin,
        )
        for pair, prompt, good, bad in zip(pairs, prompts, chosen, rejected, strict=True)
    ]


def split_key(pair: Pair) -> str:
    """What must not stand on both sides of the split: the first turn, or else the texts."""
    if pair.prompt:
        return normalise(pair.prompt[0][1])
    return normalise(pair.chosen)


def split_by_prompt(
    pairs: Iterable[Pair], held_out_share: float, seed: int
) -> tuple[list[Pair], list[Pair]]:
    """(train, held out), all pairs of a first turn on the same side whatever their order.

    For pairs without a prompt the rejected texts of the held-out part are kept out of the
    training part as well, so training loses the few pairs that share one.
    """
    train: list[Pair] = []
    held_out: list[Pair] = []
    for pair in pairs:
        side = held_out if _fraction(seed, split_key(pair)) < held_out_share else train
        side.append(pair)
    if all(pair.prompt for pair in held_out):
        return train, held_out
    hidden = {
        text
        for pair in held_out
        if not pair.prompt
        for text in (normalise(pair.chosen), normalise(pair.rejected))
    }
    return [
        pair
        for pair in train
        if pair.prompt or hidden.isdisjoint((normalise(pair.chosen), normalise(pair.rejected)))
    ], held_out


def _fraction(seed: int, key: str) -> float:
    digest = hashlib.sha256(f"{seed}:{key}".encode()).digest()
    return float(int.from_bytes(digest[:8], "big")) / 2.0**64


@dataclass(frozen=True)
class PrefixPolicy:
    """How often, and how, both responses of a pair are cut to a prefix.

    `share` of the steps are cut: half of them at the same token count (log-uniform from
    `min_tokens` to `max_tokens`), half at the same share of each response's length.
    """

    share: float = 0.45
    min_tokens: int = 6
    max_tokens: int = 96
    borrow_share: float = 0.3

    def cut(self, pair: EncodedPair, generator: random.Random) -> EncodedPair:
        """The pair with both responses cut; unchanged where the prefixes would be equal."""
        if generator.random() < 0.5:
            low, high = math.log(self.min_tokens), math.log(self.max_tokens)
            n = round(math.exp(generator.uniform(low, high)))
            return cut_at(pair, n, n)
        kept = generator.uniform(0.15, 0.9)
        return cut_at(
            pair,
            max(self.min_tokens, round(kept * len(pair.chosen))),
            max(self.min_tokens, round(kept * len(pair.rejected))),
        )


def cut_at(pair: EncodedPair, n_chosen: int, n_rejected: int) -> EncodedPair:
    """Both responses' first tokens; the whole pair where those say nothing about it."""
    chosen, rejected = pair.chosen[:n_chosen], pair.rejected[:n_rejected]
    if chosen == rejected:
        return pair
    return replace(pair, chosen=chosen, rejected=rejected)


def with_prompt(
    pair: EncodedPair, prompts: Sequence[tuple[int, ...]], generator: random.Random
) -> EncodedPair:
    """A pair of bare texts, put after a prompt as it is met in decoding.

    Either both follow one prompt of another row (the texts, not the prompt, must decide),
    or each text's own start becomes its prompt (a text that is being continued).
    """
    if prompts and generator.random() < 0.5:
        prompt = generator.choice(prompts)
        return replace(pair, prompt=prompt, rejected_prompt=prompt)
    n = generator.randint(1, 12)
    if min(len(pair.chosen), len(pair.rejected)) <= n:
        return pair
    return replace(
        pair,
        prompt=pair.chosen[:n],
        rejected_prompt=pair.rejected[:n],
        chosen=pair.chosen[n:],
        rejected=pair.rejected[n:],
    )


class BatchPlan:
    """The batches of every epoch, each a pure function of (seed, epoch, step).

    `axis_weights` says how many passes an epoch makes over an axis' rows (0.5: a random
    half of them). Rows of like length stand together, so little is padded.
    """

    _POOL_BATCHES = 24

    def __init__(
        self,
        rows: Sequence[EncodedPair],
        *,
        axis_weights: Mapping[str, float],
        batch_size: int,
        limits: TextLimits,
        prefixes: PrefixPolicy,
        cls_id: int,
        sep_id: int,
        seed: int,
    ) -> None:
        self._rows = rows
        self._weights = dict(axis_weights)
        self._batch_size = batch_size
        self._limits = limits
        self._prefixes = prefixes
        self._cls_id = cls_id
        self._sep_id = sep_id
        self._seed = seed
        self._prompts = sorted({row.prompt for row in rows if row.prompt})

    def epoch(self, epoch: int) -> list[list[int]]:
        """The rows of each step of an epoch (0-based); one axis a step, steps shuffled."""
        steps: list[list[int]] = []
        for axis in sorted(self._weights):
            generator = random.Random(f"{self._seed}:epoch:{epoch}:{axis}")
            members = [i for i, row in enumerate(self._rows) if row.axis == axis]
            wanted = round(self._weights[axis] * len(members))
            order: list[int] = []
            while len(order) < wanted:
                order += generator.sample(members, min(len(members), wanted - len(order)))
            pool = self._POOL_BATCHES * self._batch_size
            for start in range(0, len(order), pool):
                part = sorted(order[start : start + pool], key=lambda i: self._rows[i].n_tokens)
                steps += [
                    part[i : i + self._batch_size] for i in range(0, len(part), self._batch_size)
                ]
        random.Random(f"{self._seed}:order:{epoch}").shuffle(steps)
        return steps

    def batch(self, epoch: int, step: int, members: Sequence[int]) -> Batch:
        """The sequences of one step, cut to prefixes where the policy's draw says so."""
        generator = random.Random(f"{self._seed}:step:{epoch}:{step}")
        rows = [self._rows[i] for i in members]
        rows = [
            with_prompt(row, self._prompts, generator)
            if not row.prompt and generator.random() < self._prefixes.borrow_share
            else row
            for row in rows
        ]
        if generator.random() < self._prefixes.share:
            rows = [self._prefixes.cut(row, generator) for row in rows]
        return self.assemble(rows)

    def assemble(self, rows: Sequence[EncodedPair]) -> Batch:
        """The sequences of given rows, as they are."""
        chosen = [self._sequence(row.prompt, row.chosen) for row in rows]
        rejected = [self._sequence(row.rejected_prompt, row.rejected) for row in rows]
        return Batch(rows[0].axis, tuple(chosen + rejected), tuple(row.margin for row in rows))

    def _sequence(self, prompt: tuple[int, ...], response: tuple[int, ...]) -> tuple[int, ...]:
        return tuple(
            assemble_pair(
                prompt,
                response,
                max_tokens=self._limits.max_tokens,
                max_prompt_tokens=self._limits.max_prompt_tokens,
                cls_id=self._cls_id,
                sep_id=self._sep_id,
            )
        )
