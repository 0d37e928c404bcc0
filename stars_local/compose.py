"""Puts a run together from its settings: the one module that names concrete adapters.

    with open_models(settings) as models:
        thresholds = find_thresholds(settings, models)
        task = make_task(user_prompt(text, settings), settings, thresholds, models)
        for event in open_driver(models).stream(task): ...

Heavy libraries are imported by the functions that need them.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from types import TracebackType
from typing import TYPE_CHECKING, Any

from stars_local.calibration import quick, store
from stars_local.calibration.records import Calibration, CalibrationKey, find_calibration
from stars_local.core.driver import Driver, Task
from stars_local.core.errors import CalibrationError, UsageError
from stars_local.core.methods import Context
from stars_local.core.methods.registry import Parts, build, parse_method
from stars_local.core.overlap import overlaps
from stars_local.core.ports import RewardModel
from stars_local.core.progress import OnProgress
from stars_local.core.records import Message, Prompt, Result
from stars_local.core.seeds import SeedSource
from stars_local.core.thresholds import Schedule
from stars_local.core.widths import Acceptances, AutoWidth, FixedWidth, WidthPolicy
from stars_local.llama.limits import MAX_SEQUENCES
from stars_local.method_settings import Thresholds, method_params, name_of, spec_of
from stars_local.output import result_object
from stars_local.sampling_settings import sampling
from stars_local.settings import AUTO, Settings

if TYPE_CHECKING:
    from stars_local.llama.engine import LlamaModel
    from stars_local.llama.speed import StepCosts

# of `--width auto`: to measure 24 and 32 as well would double the time of the first start
WIDEST_AUTO = 16
_LEAST_SEQUENCES = 2 + quick.N_DRAWS  # a trunk, a kept loser, and the draws of a calibration


@dataclass(frozen=True, slots=True)
class Models:
    """The open models of a run; the reward model is None where no method asks for rewards.
    score_chunk: see `core.methods.Context`. seen: all verdicts so far, for the adaptive width."""

    language: LlamaModel
    reward: RewardModel | None
    score_chunk: int = 1
    seen: Acceptances = field(default_factory=Acceptances)

    def __enter__(self) -> Models:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.language.unload()

    @property
    def scoring(self) -> RewardModel:
        """The reward model of a run that must have one."""
        if self.reward is None:
            raise UsageError("no reward model is open: choose a method that uses one")
        return self.reward


def open_models(
    settings: Settings,
    *,
    scores: bool = True,
    n_sequences: int | None = None,
    unified: bool = True,
) -> Models:
    """Load the language model and, where `scores`, the reward model, side by side; see
    `open_language_model`. Whatever fails, nothing stays loaded."""

    def load() -> LlamaModel:
        return open_language_model(settings, n_sequences=n_sequences, unified=unified)

    if not scores:
        return Models(load(), None)
    with ThreadPoolExecutor(max_workers=2) as pool:
        pending = pool.submit(open_reward_model, settings)
        language = load()
        try:
            reward = pending.result()
        except BaseException:
            language.unload()
            raise
    return Models(language, reward, score_chunk(reward))


def open_language_model(
    settings: Settings, *, n_sequences: int | None = None, unified: bool = True
) -> LlamaModel:
    """Load the GGUF file that the settings name. ModelError too where it lies in the models
    folder and is not the file that came there.

    n_sequences: trunks and branches at once, by default those of one prompt, or fewer where the
    width is left to us and the memory is short. unified: one cache
    for all of them, else a stream of `n_ctx` tokens for each.
    """
    from stars_local.catalog.resolve import resolve
    from stars_local.catalog.same_file import the_file_that_came
    from stars_local.llama.engine import LlamaModel

    least = 0
    if n_sequences is None:
        n_sequences = sequences_of_one_prompt(settings)
        least = _LEAST_SEQUENCES if settings.width == AUTO else 0
    return LlamaModel(
        the_file_that_came(resolve(settings.model)),
        n_ctx=0 if settings.n_ctx is None else settings.n_ctx,
        n_threads=0 if settings.threads is None else settings.threads,
        n_gpu_layers=settings.gpu_layers,
        n_seq_max=n_sequences,
        n_seq_min=least,
        unified=unified,
        loras={} if settings.lora is None else {settings.lora: 1.0},
    )


def sequences_of_one_prompt(settings: Settings) -> int:
    """The trunk, the loser kept to be forced, and the attempts that may be alive together; at
    least those of a quick calibration."""
    widest = WIDEST_AUTO if settings.width == AUTO else int(settings.width)
    together = [widest, *(n for n in (settings.n, settings.k) if n is not None)]
    return min(MAX_SEQUENCES, max(2 + max(together), quick.N_SLOTS * (2 + quick.N_DRAWS)))


def open_reward_model(settings: Settings) -> RewardModel:
    """Load the reward model, or the weighted ones, that the settings name."""
    from stars_local.reward.resolve import open_reward

    return open_reward(
        settings.reward,
        gates=settings.gate,
        provider=settings.provider,
        threads=settings.threads,
        render=render_chat,
    )


def render_chat(prompt: Prompt, template: str, bos: str, eos: str) -> list[tuple[str, bool]]:
    """A conversation by a Jinja chat template: pieces of text, each with whether it is the
    template's own. Raises ModelError for a template that fails, DataError for a bad role."""
    from stars_local.llama.template import Control, Kept, render

    pieces = render(prompt, template, bos=bos, eos=eos)
    return [(p.text, isinstance(p, Control)) for p in pieces if not isinstance(p, Kept)]


def score_chunk(reward: RewardModel) -> int:
    """Texts to score together: a whole round where the device gains from it and the law allows
    it, else one at a time, so that texts after the winner are never scored."""
    on_gpu = getattr(reward, "provider", "cpu") == "cuda"
    return 0 if on_gpu and reward.batch_invariant else 1


def user_prompt(text: str, settings: Settings, prompt_id: str = "prompt") -> Prompt:
    """A conversation of one turn, with the system message of the settings."""
    system = () if settings.system is None else (Message("system", settings.system),)
    return Prompt(prompt_id, (*system, Message("user", text)))


OnMissing = Callable[[CalibrationKey], Calibration]


def find_thresholds(
    settings: Settings,
    models: Models,
    on_missing: OnMissing | None = None,
    least_prompts: int = 0,
) -> Thresholds | None:
    """alpha, beta and reward_threshold as given, the rest from the calibration of these models.

    None for methods that need none of it. on_missing: called where a calibration is needed and
    none is at hand, or a quick one from fewer than `least_prompts`; without it that is a
    CalibrationError.
    """
    spec = spec_of(settings)
    if not spec.needs_threshold and not spec.needs_spread:
        return None
    alpha, beta, r_star = settings.alpha, settings.beta, settings.reward_threshold
    by_hand = None not in (alpha, beta, r_star) and settings.schedule != Schedule.QUANTILE
    has_spread = "spread" in parse_method(settings.method)[1]
    if (by_hand or not spec.needs_threshold) and (has_spread or not spec.needs_spread):
        return Thresholds(alpha, beta, r_star)
    key = calibration_key(settings, models)
    found = find_calibration(key, store.calibration_folders())
    rough = found is not None and found.quick and found.predicted.n_prompts < least_prompts
    if (found is None or rough) and on_missing is not None:
        found = on_missing(key)
    if found is None:
        raise CalibrationError(
            f"no calibration of {settings.reward} for {settings.model} with segments of "
            f"{settings.segment_size} tokens: run 'stars-local calibrate', or give --alpha, "
            "--beta and --reward-threshold"
        )
    return Thresholds(
        found.alpha if alpha is None else alpha,
        found.beta if beta is None else beta,
        found.reward_threshold if r_star is None else r_star,
        found.quantiles,
        found.within_spread,
        key.file_name,
        found.key.segment_size,
        found.spreads,
    )


def calibration_key(settings: Settings, models: Models) -> CalibrationKey:
    """What a calibration of these models is filed under."""
    return store.calibration_key(
        models.language.info,
        models.scoring.info,
        models.language.chat_template,
        settings.segment_size,
    )


def random_seed() -> int:
    """A seed for a run that was given none."""
    return secrets.randbelow(2**32)


def make_task(
    prompt: Prompt,
    settings: Settings,
    models: Models,
    *,
    thresholds: Thresholds | None,
    seed: int,
    turn: int = 0,
    keep: bool = False,
) -> Task:
    """One answer to draw. thresholds: None for methods that have none. keep: leave the cells
    of the prompt for the next turn of its conversation."""
    widths = width_policy(settings, models)
    context = Context(
        SeedSource(seed, prompt.id, turn),
        settings.max_new_tokens,
        width=widths.next_width(),
        score_chunk=models.score_chunk,
    )
    name = name_of(settings)
    return Task(
        prompt,
        build(name, method_params(settings, thresholds), Parts(widths=widths)),
        name,
        context,
        sampling(settings),
        stop_strings(settings.stop, models) if prompt.text is None else settings.stop,
        settings.max_decoded_tokens,
        settings.max_seconds,
        keep,
        overlaps(
            settings.overlap,
            language_on_gpu=getattr(models.language, "on_gpu", False),
            reward_on_gpu=getattr(models.reward, "provider", "cpu") != "cpu",
        ),
    )


def stop_strings(given: tuple[str, ...], models: Models) -> tuple[str, ...]:
    """Those given, and what else ends an answer of this model in a conversation."""
    from stars_local.llama.template import conversation_stops

    return conversation_stops(given, models.language.chat_template)


def width_policy(settings: Settings, models: Models) -> WidthPolicy:
    """A fixed width, or the one that adapts to what steps cost here; 1 where nothing is scored."""
    if not spec_of(settings).scores:
        return FixedWidth(1)
    if settings.width != AUTO:
        return FixedWidth(int(settings.width))
    costs = measured_steps(models).round_costs(settings.segment_size)
    if models.score_chunk == 0:  # a round is scored at once
        from stars_local.reward.timing import scoring_seconds

        a_round = scoring_seconds(models.scoring)
        costs = {width: cost + a_round for width, cost in costs.items()}
    return AutoWidth(costs, models.seen)


def measured_steps(
    models: Models, on_progress: OnProgress | None = None, widest: int | None = None
) -> StepCosts:
    """Seconds of a decode step by width up to `widest`, by default that of `--width auto` in this
    context, measured once, while no prompt is open."""
    from stars_local.llama.disk_cache import cache_folder
    from stars_local.llama.speed import step_costs

    if widest is None:
        widest = max(1, min(WIDEST_AUTO, models.language.capacity[1] - 2))
    return step_costs(models.language, cache_folder() / "speed", widest, on_progress)


def open_driver(models: Models, *, n_slots: int = 1) -> Driver:
    """A driver over these models."""
    return Driver(models.language, models.reward, n_slots=n_slots)


def describe(result: Result, params: Mapping[str, object], models: Models) -> dict[str, Any]:
    """The JSON object of an answer."""
    reward = None if models.reward is None else models.reward.info
    given: Any = params["stop"]
    used = {**params, "stop": stop_strings(tuple(given), models)}
    return result_object(result, params=used, model=models.language.info, reward_model=reward)
