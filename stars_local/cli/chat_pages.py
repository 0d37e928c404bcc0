"""What a chat shows besides answers: the banner, help, why, statistics."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from stars_local.chat.commands import COMMANDS
from stars_local.chat.conversation import Turn
from stars_local.chat.records import Answered
from stars_local.cli.live import number
from stars_local.cli.terminal import neutralise
from stars_local.core.records import Finish, ModelInfo, Outcome, RewardInfo
from stars_local.method_settings import Thresholds

_KEYS = (
    ("Enter", "Send."),
    ("Alt-Enter", "A new line; Esc, then Enter, where Alt does not reach."),
    ("Up, Down", "Earlier questions, those of earlier chats too."),
    ("Ctrl-C", "Stop the answer and keep what was accepted; at the prompt, clear the line."),
    ("Ctrl-D", "Leave."),
)
_ENDED = {
    Finish.LENGTH: "cut at max_new_tokens",
    Finish.CONTEXT: "cut: the context is full",
    Finish.BUDGET: "cut at max_decoded_tokens",
    Finish.DEADLINE: "cut at max_seconds",
    Finish.INTERRUPTED: "stopped",
}


def banner(
    model: ModelInfo, reward: RewardInfo | None, method: str, thresholds: Thresholds | None
) -> Text:
    """What takes part, on as many short lines as it needs."""
    lines = [
        f"model   {model.name}  {model.quant}  {model.n_ctx} tokens",
        f"reward  {'none' if reward is None else f'{reward.name}  steering {reward.axis}'}",
        f"method  {method}{'' if thresholds is None else _calibrated(thresholds)}",
        "Ctrl-D leaves, /help lists what else there is.",
    ]
    return Text(neutralise("\n".join(lines)), style="dim")


def _calibrated(thresholds: Thresholds) -> str:
    return (
        f"  alpha {thresholds.alpha:g}  beta {thresholds.beta:.3g}  "
        f"r* {thresholds.reward_threshold:.3g} ({thresholds.origin})"
    )


def help_page() -> RenderableType:
    """Commands and keys."""
    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True)
    table.add_column()
    for name, spec in COMMANDS.items():
        table.add_row(Text(f"/{name} {spec.argument}".rstrip(), style="bold"), Text(spec.help))
    for key, what in _KEYS:
        table.add_row(Text(key, style="bold"), Text(what))
    return table


def why_page(turn: Turn) -> RenderableType:
    """Every attempt at every segment of an answer, with its reward and fate."""
    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0), header_style="bold")
    for name, width in (("seg", 3), ("try", 3), ("reward", 7), ("tau", 7), ("p", 4)):
        table.add_column(name, justify="right", no_wrap=True, min_width=width)
    table.add_column("fate", no_wrap=True, min_width=8)
    table.add_column("text", no_wrap=True, overflow="ellipsis", ratio=1)
    for attempt in turn.attempts:
        style = "" if attempt.outcome in (Outcome.ACCEPTED, Outcome.FORCED) else "dim"
        table.add_row(
            f"{attempt.segment + 1}",
            f"{attempt.index + 1}",
            number(attempt.reward),
            number(attempt.threshold),
            number(attempt.probability, 2),
            attempt.outcome.value,
            Text(neutralise(attempt.text).replace("\n", "⏎").strip(" ")),
            style=style,
        )
    return table


def stats_page(turns: Sequence[Turn]) -> RenderableType:
    """Sums over the last answer and over all of a conversation."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    table.add_column("")
    table.add_column("last answer", justify="right")
    table.add_column("all answers", justify="right")
    for name, last, total in zip(_NAMES, _sums(turns[-1:]), _sums(turns), strict=True):
        table.add_row(name, last, total)
    return table


_NAMES = (
    "kept tokens",
    "decoded tokens",
    "prompt tokens",
    "of them reused",
    "segments",
    "attempts judged",
    "forced segments",
    "seconds",
    "kept tokens/s",
    "decoded tokens/s",
)


def _sums(turns: Sequence[Turn]) -> list[str]:
    """One text a name, in their order. Answers that a crash cut are without their times."""
    ended = [turn.answered for turn in turns if turn.answered is not None]
    segments = [each.segment for turn in turns for each in turn.kept]
    kept = sum(each.n_kept_tokens for each in ended)
    decoded = kept + sum(each.n_rejected_tokens + each.n_spare_tokens for each in ended)
    seconds = sum(each.elapsed_s for each in ended)
    counts = (
        kept,
        decoded,
        sum(each.n_prompt_tokens for each in ended),
        sum(each.n_reused_tokens for each in ended),
        len(segments),
        sum(segment.n_attempts for segment in segments),
        sum(segment.outcome is Outcome.FORCED for segment in segments),
    )
    speeds = (kept / seconds, decoded / seconds) if seconds > 0 else (0.0, 0.0)
    return [*map(str, counts), f"{seconds:.1f}", *(f"{speed:.1f}" for speed in speeds)]


def closing_line(turn: Turn, answered: Answered) -> Text:
    """One line under an answer: what it took, and why it ended if not by itself."""
    segments = [each.segment for each in turn.kept]
    n_attempts = sum(segment.n_attempts for segment in segments)
    n_forced = sum(segment.outcome is Outcome.FORCED for segment in segments)
    decoded = answered.n_kept_tokens + answered.n_rejected_tokens + answered.n_spare_tokens
    parts = [
        f"{_counted(len(segments), 'segment')}, {_counted(n_attempts, 'attempt')}",
        f"{answered.n_kept_tokens} of {_counted(decoded, 'token')} kept",
        f"{answered.elapsed_s:.1f} s",
    ]
    if n_forced:
        parts.insert(1, f"{n_forced} forced")
    if answered.finish_reason in _ENDED:
        parts.append(_ENDED[answered.finish_reason])
    return Text(", ".join(parts), style="dim")


def _counted(n: int, noun: str) -> str:
    return f"{n} {noun}" if n == 1 else f"{n} {noun}s"
