"""What a person writes behind `--judge`, opened."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stars_local.core.errors import UsageError
from stars_local.evals.judges import STEERING, LogprobJudge, RefusalJudge

if TYPE_CHECKING:
    from stars_local.core.ports import RewardModel
    from stars_local.evals.verdicts import GivesNextWords

KINDS = "reward:DIR, refusal, llm:GGUF or perplexity:GGUF"


@dataclass(slots=True)
class Judges:
    """Open judges by the name they have in results: of single answers, and of pairs. taken: the
    digests of those that were there before, by name."""

    single: dict[str, RewardModel] = field(default_factory=dict)
    pairs: dict[str, GivesNextWords] = field(default_factory=dict)
    unloads: list[Callable[[], None]] = field(default_factory=list)
    taken: Mapping[str, str] = field(default_factory=dict)

    def recorded(self) -> dict[str, Any]:
        """What a run's manifest says of the judges of pairs; those of answers are in its plan."""
        if not self.pairs:
            return {}
        return {"judges_of_pairs": {name: each.info.sha256 for name, each in self.pairs.items()}}

    def close(self) -> None:
        """Unload the language models among them."""
        while self.unloads:
            self.unloads.pop()()


def check_judges(texts: Sequence[str]) -> None:
    """UsageError for a judge that is none, is not there or is given twice; opens nothing."""
    for text in texts:
        kind, colon, path = text.partition(":")
        if kind not in ("reward", "refusal", "llm", "perplexity"):
            raise UsageError(f"--judge {text}: give {KINDS}")
        if (kind == "refusal") == bool(colon) or (colon and not path):
            raise UsageError(f"--judge {text}: give {KINDS}")
        if texts.count(text) > 1:
            raise UsageError(f"--judge {text} is given twice: leave one out")
        if kind == "reward":
            from stars_local.reward.resolve import find_models

            find_models(path)
        elif path and not Path(path).is_file():
            raise UsageError(f"--judge {text}: no file {path}: give a GGUF file")


def open_judges(
    texts: Sequence[str],
    steering: Collection[str],
    threads: int,
    taken: Mapping[str, str] | None = None,
) -> Judges:
    """Open all judges; steering: the digests of the models that the arms are steered by.

    Raises UsageError for a reward model that also steers, since it would judge its own work, and
    for one that judges already. threads: of the language models, 0 for every core. taken: the
    digests of judges that were there before, by name.
    """
    check_judges(texts)
    judges = Judges(taken={} if taken is None else taken)
    try:
        for text in texts:
            kind, _, path = text.partition(":")
            _open_one(kind, path, judges, steering, threads)
    except BaseException:
        judges.close()
        raise
    return judges


def _open_one(
    kind: str, path: str, judges: Judges, steering: Collection[str], threads: int
) -> None:
    if kind == "reward":
        from stars_local.reward.resolve import open_reward

        model = open_reward(path)
        if model.info.sha256 in steering:
            raise UsageError(
                f"--judge reward:{path} is the model that steers (sha256 "
                f"{model.info.sha256[:12]}): give one that had no part in the answers"
            )
        _add(judges, model.info.name, model)
    elif kind == "refusal":
        _add(judges, RefusalJudge().info.name, RefusalJudge())
    elif kind == "perplexity":
        from stars_local.catalog.same_file import the_file_that_came
        from stars_local.llama.judging import TextLikelihood

        likelihood = TextLikelihood(the_file_that_came(Path(path)), n_threads=threads)
        judges.unloads.append(likelihood.unload)
        judge = LogprobJudge(likelihood)
        _add(judges, judge.info.name, judge)
    else:
        from stars_local.catalog.same_file import the_file_that_came
        from stars_local.llama.judging import NextWords

        words = NextWords(the_file_that_came(Path(path)), n_threads=threads)
        judges.unloads.append(words.unload)
        name = _free(judges, f"llm {words.info.name}", words.info.sha256)
        judges.pairs[name] = words


def _add(judges: Judges, name: str, model: RewardModel) -> None:
    judges.single[_free(judges, name, model.info.sha256)] = model


def _free(judges: Judges, name: str, sha256: str) -> str:
    """A name that no judge has yet: two models may call themselves alike."""
    known = dict(judges.taken)
    known |= {each: model.info.sha256 for each, model in judges.single.items()}
    known |= {each: model.info.sha256 for each, model in judges.pairs.items()}
    longer = f"{name} {sha256[:6]}"
    if sha256 in (known.get(name), known.get(longer)):
        raise UsageError(f"{name} is a judge already: leave it out")
    return longer if name in {STEERING, *known} else name
