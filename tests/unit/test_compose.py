"""From settings to models, tasks and parameters."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from stars_local import compose
from stars_local.calibration import quick
from stars_local.cli.calibrate import plan_of
from stars_local.config import configure
from stars_local.core.boundaries import BoundaryKind
from stars_local.core.doubles import TableReward
from stars_local.core.errors import CalibrationError, DataError, GrammarError, UsageError
from stars_local.core.methods import Force
from stars_local.core.records import Message, Prompt
from stars_local.core.thresholds import Schedule
from stars_local.core.widths import AutoWidth, FixedWidth
from stars_local.llama import disk_cache
from stars_local.llama.engine import LlamaModel
from stars_local.method_settings import Thresholds, method_params, recorded_params
from stars_local.reward import timing
from stars_local.reward.combine import CombinedReward, Term
from stars_local.sampling_settings import sampling
from stars_local.settings import MAX_WIDTH, Settings
from tests.support.tiny_gguf import write_tiny

FOUND = Thresholds(0.25, 0.5, 2.0, (1.0, 2.0), 0.75, "some.json", 16, (0.9, 0.6))


def test_parameters_come_from_options_thresholds_and_the_method() -> None:
    settings = configure(
        {
            "method": "stars:min_tokens=2,segment_size=9",
            "schedule": "quantile",
            "boundary": "sentence",
            "force": "last",
        },
        {},
    ).settings
    params = method_params(settings, FOUND)
    assert params.segment_size == settings.segment_size == 9
    assert params.min_tokens == 2
    assert params.schedule is Schedule.QUANTILE
    assert params.boundary is BoundaryKind.SENTENCE
    assert params.force is Force.LAST
    assert (params.alpha, params.beta, params.reward_threshold) == (0.25, 0.5, 2.0)
    assert params.quantiles == (1.0, 2.0)
    assert params.spread == 0.75
    assert (params.quantile_size, params.spreads) == (16, (0.9, 0.6))
    assert method_params(Settings(), None).boundary is None


def test_recorded_parameters_are_those_that_were_used() -> None:
    steered = recorded_params(Settings(), FOUND)
    assert (steered["alpha"], steered["beta"], steered["thresholds"]) == (0.25, 0.5, "some.json")
    assert "seed" not in steered
    plain = recorded_params(Settings(method="vanilla"), None)
    names = ("alpha", "beta", "reward_threshold", "thresholds")
    assert [plain[name] for name in names] == [None] * 4


def test_a_system_message_leads_the_conversation() -> None:
    assert compose.user_prompt("hi", Settings()).messages == (Message("user", "hi"),)
    messages = compose.user_prompt("hi", Settings(system="")).messages
    assert [message.role for message in messages] == ["system", "user"]


def test_sampling_options_reach_the_sampler() -> None:
    settings = Settings(temperature=0.5, top_k=3, top_p=0.5, min_p=0.25, repeat_penalty=2.0)
    found = sampling(settings)
    assert (found.temperature, found.top_k, found.top_p) == (0.5, 3, 0.5)
    assert (found.min_p, found.repeat_penalty, found.grammar) == (0.25, 2.0, None)


def test_grammars_are_rules_or_files(tmp_path: Path) -> None:
    file = tmp_path / "g.gbnf"
    file.write_text('root ::= "a"')
    for given in ('root ::= "a"', str(file)):
        assert sampling(Settings(grammar=given)).grammar == 'root ::= "a"'
    schema = tmp_path / "s.json"
    schema.write_text('{"type": "boolean"}')
    for given in ('{"type": "boolean"}', str(schema)):
        grammar = sampling(Settings(json_schema=given)).grammar
        assert grammar is not None
        assert "true" in grammar


def test_grammar_files_that_cannot_be_read(tmp_path: Path) -> None:
    binary, large = tmp_path / "b", tmp_path / "l"
    binary.write_bytes(b"\xff")
    large.write_bytes(b" " * 1_000_001)
    for file in (tmp_path / "absent", tmp_path, binary):
        with pytest.raises(DataError, match="--grammar"):
            sampling(Settings(grammar=str(file)))
    with pytest.raises(GrammarError, match="larger"):
        sampling(Settings(grammar=str(large)))


class OnCuda(TableReward):
    """A reward model on a GPU."""

    provider = "cuda"


def test_rounds_are_scored_whole_only_where_that_gains_and_is_lawful() -> None:
    assert compose.score_chunk(TableReward({})) == 1
    assert compose.score_chunk(OnCuda({})) == 0
    assert compose.score_chunk(OnCuda({}, batch_invariant=False)) == 1


def test_models_that_are_combined_gain_from_rounds_only_together() -> None:
    terms = (Term("a", "table", 1.0), Term("b", "table", 0.5))
    on_cuda = CombinedReward({"a": OnCuda({}), "b": OnCuda({})}, terms)
    mixed = CombinedReward({"a": OnCuda({}), "b": TableReward({})}, terms)
    dependent = CombinedReward({"a": OnCuda({}), "b": OnCuda({}, batch_invariant=False)}, terms)
    assert [compose.score_chunk(each) for each in (on_cuda, mixed, dependent)] == [0, 1, 1]


def test_sequences_cover_all_attempts_alive_together() -> None:
    quickly = quick.N_SLOTS * (2 + quick.N_DRAWS)
    assert compose.sequences_of_one_prompt(Settings(width=1)) == quickly
    assert compose.sequences_of_one_prompt(Settings(width=2, n=50)) == 52
    assert compose.sequences_of_one_prompt(Settings(width=MAX_WIDTH)) == 256
    assert compose.sequences_of_one_prompt(Settings(n=10_000)) == 256


@pytest.fixture(name="model", scope="module")
def _model(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LlamaModel]:
    path = write_tiny(tmp_path_factory.mktemp("tiny") / "tiny.gguf", "llama")
    settings = Settings(model=str(path), n_ctx=512, threads=1)
    with compose.open_language_model(settings) as model:
        yield model


def test_a_model_has_the_context_that_was_asked_for(model: LlamaModel) -> None:
    assert model.info.n_ctx == 512
    assert model.n_threads == 1


def test_widths(model: LlamaModel) -> None:
    models = compose.Models(model, TableReward({}))
    policy = compose.width_policy(Settings(), models)
    assert isinstance(policy, AutoWidth)
    policy.observe(accepted=True)
    assert models.seen.n_accepted == 1, "what one answer saw, the next one knows"
    assert compose.width_policy(Settings(width=3), models) == FixedWidth(3)
    assert compose.width_policy(Settings(method="vanilla"), models) == FixedWidth(1)


def test_a_round_scored_at_once_adds_its_scoring_to_the_cost_of_every_width(
    model: LlamaModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(timing, "scoring_seconds", lambda _: 5.0)
    one_by_one, at_once = (
        compose.width_policy(Settings(), compose.Models(model, TableReward({}), chunk))
        for chunk in (1, 0)
    )
    assert isinstance(one_by_one, AutoWidth) and isinstance(at_once, AutoWidth)
    for width, cost in one_by_one.cost.items():
        assert at_once.cost[width] == pytest.approx(cost + 5.0)


def test_scoring_is_timed() -> None:
    assert 0 < timing.scoring_seconds(TableReward({})) < 1


class OnGpu(TableReward):
    """Says that it runs on a GPU."""

    provider = "cuda"


@pytest.mark.parametrize(
    ("setting", "reward", "wanted"),
    [
        ("auto", OnGpu({}), True),
        ("auto", TableReward({}), False),
        ("on", TableReward({}), True),
        ("off", OnGpu({}), False),
    ],
)
def test_overlap_follows_the_devices_or_the_setting(
    model: LlamaModel, setting: str, reward: TableReward, wanted: bool, monkeypatch: Any
) -> None:
    monkeypatch.setattr(model._native, "on_gpu", False)
    models = compose.Models(model, reward)
    settings = Settings(overlap=setting, width=2)
    task = compose.make_task(Prompt("p", text="x"), settings, models, thresholds=FOUND, seed=1)
    assert task.overlap is wanted


def test_the_first_start_says_how_far_its_measurement_is(
    model: LlamaModel, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(disk_cache, "cache_folder", lambda: tmp_path)
    models = compose.Models(model, TableReward({}))
    told: list[tuple[str, int, int]] = []
    for _ in range(2):  # the second time it is known
        costs = compose.measured_steps(models, lambda *progress: told.append(progress))
    assert [done for _, done, _ in told] == list(range(len(costs.by_width) + 1))
    assert told[-1][1] == told[-1][2]
    assert max(costs.by_width) == compose.WIDEST_AUTO


def test_a_base_model_stops_before_the_persons_turn(model: LlamaModel, tmp_path: Path) -> None:
    settings = Settings(model=str(write_tiny(tmp_path / "base.gguf", "llama", chat_template=None)))
    settings = replace(settings, stop=("x", "\nUser:"), n_ctx=64, width=1)
    with compose.open_language_model(settings) as base:
        for loaded, wanted in ((model, 2), (base, 4)):
            models = compose.Models(loaded, TableReward({}))

            def stops(prompt: Prompt, models: compose.Models = models) -> tuple[str, ...]:
                return compose.make_task(prompt, settings, models, thresholds=FOUND, seed=0).stop

            assert len(stops(compose.user_prompt("hi", settings))) == wanted
            assert stops(Prompt("p", text="raw text")) == settings.stop


def test_a_task_has_limits_seeds_and_turn(model: LlamaModel) -> None:
    settings = Settings(
        width=2, max_decoded_tokens=7, max_seconds=1.5, stop=("x",), max_new_tokens=9
    )
    models = compose.Models(model, TableReward({}), score_chunk=0)
    prompt = compose.user_prompt("hi", settings)
    task = compose.make_task(prompt, settings, models, thresholds=FOUND, seed=0, turn=3, keep=True)
    assert (task.max_decoded_tokens, task.max_seconds, task.stop) == (7, 1.5, ("x",))
    assert (task.context.seeds.seed, task.context.seeds.turn) == (0, 3)
    assert (task.context.width, task.context.score_chunk) == (2, 0)
    assert task.context.max_new_tokens == 9
    assert task.keep
    assert task.method_name == "stars"


def test_given_thresholds_need_no_calibration(model: LlamaModel) -> None:
    models = compose.Models(model, TableReward({}))
    settings = Settings(alpha=0.0, beta=0.0, reward_threshold=-math.inf)
    found = compose.find_thresholds(settings, models)
    assert found == Thresholds(0.0, 0.0, -math.inf)
    assert compose.find_thresholds(Settings(method="vanilla"), models) is None
    with_spread = Settings(method="stopping:spread=0.5")
    assert compose.find_thresholds(with_spread, models) == Thresholds()
    with pytest.raises(CalibrationError):
        compose.find_thresholds(Settings(method="stopping", segment_size=31), models)


def test_a_run_without_a_reward_model_says_so(model: LlamaModel) -> None:
    with pytest.raises(UsageError, match="no reward model is open"):
        _ = compose.Models(model, None).scoring


def test_a_calibration_is_planned_as_the_options_say() -> None:
    plan = plan_of(configure({"segment_size": "8", "alpha": "0.5"}, {}))
    assert (plan.segment_size, plan.alpha) == (8, 0.5)
    assert plan.max_new_tokens == plan_of(configure({}, {})).max_new_tokens


def test_random_seeds_differ() -> None:
    assert len({compose.random_seed() for _ in range(20)}) > 1
