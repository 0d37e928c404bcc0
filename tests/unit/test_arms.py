"""Arms as people write them, and one language model open at a time."""

from __future__ import annotations

import ctypes
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stars_local import arms, compose
from stars_local.arm_specs import FILES, parse_arm, read_arms
from stars_local.arms import Opened, arm_settings, make_arms, steering_models
from stars_local.config import configure
from stars_local.core.doubles import TableReward
from stars_local.core.errors import ConfigError, UsageError
from stars_local.core.records import Message, Prompt
from stars_local.evals.turns import second_prompts
from stars_local.llama.engine import LlamaModel
from stars_local.settings import OPTIONS, Settings
from tests.cli.test_generate import Language, language
from tests.support.tiny_gguf import write_tiny

FLAGS = configure({"segment_size": 7, "alpha": 0.25}, {})


@given(
    files=st.dictionaries(
        st.sampled_from(FILES), st.text("abc/.=-", min_size=1).filter(lambda v: v[0] != "=")
    ),
    own=st.dictionaries(st.sampled_from(["alpha", "max_attempts", "beta"]), st.just("1")),
    seed=st.randoms(use_true_random=False),
)
def test_an_arm_written_on_the_command_line_is_read_back(
    files: dict[str, str], own: dict[str, str], seed: Any
) -> None:
    items = [f"{key}={value}" for key, value in {**files, **own}.items()]
    seed.shuffle(items)
    text = ":".join(filter(None, ["stars", ",".join(items)]))
    spec = parse_arm(text)
    assert spec.name == text
    assert dict(spec.values) == files
    kept = [item for item in items if item.partition("=")[0] in own]
    assert spec.method == ":".join(filter(None, ["stars", ",".join(kept)]))


def test_a_weighted_reward_keeps_its_commas() -> None:
    spec = parse_arm("stars:reward=harmless=0.7,helpful=0.3,alpha=0.3,model=x")
    assert dict(spec.values) == {"reward": "harmless=0.7,helpful=0.3", "model": "x"}
    assert spec.method == "stars:alpha=0.3"


@pytest.mark.parametrize("text", ["stars:model=", "stars:model", "stars:lora=a,lora=b"])
def test_a_file_is_given_once_and_whole(text: str) -> None:
    with pytest.raises(UsageError, match=r"no value|given twice"):
        parse_arm(text)


def test_what_an_arm_says_outweighs_a_flag() -> None:
    found = arm_settings(FLAGS, ["stars", "stars:alpha=0.5,model=m,lora=l,reward=r"])
    first, second = found.values()
    assert (first.segment_size, first.alpha, first.lora) == (7, 0.25, None)
    assert (second.segment_size, second.alpha) == (7, 0.5)
    assert (second.model, second.lora, second.reward) == ("m", "l", "r")
    assert (first.width, first.model) == (1, Settings().model)


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "arms.toml"
    path.write_text(text)
    return path


def test_every_option_of_an_arm_may_stand_in_a_file(tmp_path: Path) -> None:
    path = written(
        tmp_path,
        """
        [[arm]]
        name = "short ones"
        method = "stars:max_attempts=3"
        segment-size = 4
        model = "b.gguf"
        stop = ["x", "y"]
        reward_threshold = inf
        [[arm]]
        name = "plain"
        method = "vanilla"
        """,
    )
    found = arm_settings(FLAGS, [], read_arms(path))
    short, plain = found["short ones"], found["plain"]
    assert (short.segment_size, short.max_attempts, short.alpha) == (4, 3, 0.25)
    assert (short.model, short.stop, short.reward_threshold) == ("b.gguf", ("x", "y"), float("inf"))
    assert (plain.segment_size, plain.stop, plain.method) == (7, (), "vanilla")


HEAD = "[[arm]]\nname = 'a'\nmethod = 'stars'\n"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "begin each with"),
        ("x = 1", "unknown key 'x'"),
        ("arm = [1]", "arm 1 is no table"),
        ("[[arm]]\nmethod = 'stars'", "arm 1: no name"),
        ("[[arm]]\nname = 'a'", "arm 'a': no method"),
        ("[[arm]]\nname = 'a'\nmethod = 'starz'", "arm 'a'.*did you mean 'stars'"),
        (HEAD + "segment_sice = 3", "'segment_sice': the nearest is 'segment_size'"),
        (HEAD + "modle = 'x'", "'modle': the nearest is 'model'"),
        (HEAD + "segment_size = 0", "arm 'a': segment_size is 0"),
        (HEAD + "seed = 0", "seed belongs to the whole run"),
        (HEAD + "alpha = 0.1\n'al-pha' = 1", "'al_pha'"),
        (HEAD + "segment_size = 3\nsegment-size = 4", "stands there twice"),
    ],
)
def test_a_wrong_file_says_where(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        read_arms(written(tmp_path, text))


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (HEAD + "n = 3", "arm 'a': --n belongs to --method best-of-n"),
        (HEAD.replace("'stars'", "'stars:alpha=0'") + "alpha = 1", "alpha is given twice"),
        (HEAD + HEAD, "the arm 'a' is given twice"),
    ],
)
def test_contradictions_are_refused(tmp_path: Path, more: str, words: str) -> None:
    specs = read_arms(written(tmp_path, more))
    with pytest.raises(UsageError, match=words):
        arm_settings(FLAGS, [], specs)


def test_no_key_is_left_out_but_those_of_the_run(tmp_path: Path) -> None:
    for name in set(OPTIONS) - {"method"}:
        with pytest.raises(ConfigError) as found:
            read_arms(written(tmp_path, HEAD + f"{name} = {{}}"))
        assert ("belongs to the whole run" in str(found.value)) == (name in ("seed", "system"))
        assert "unknown key" not in str(found.value)


# -- models ----------------------------------------------------------------------------------


@pytest.fixture(name="opens")
def _opens(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, Language]]:
    """The language models opened, in order."""
    opens: list[tuple[str, Language]] = []

    def open_language_model(settings: Settings, **_: object) -> Language:
        assert all(model.unloaded for _, model in opens), "two models are open at once"
        opens.append((settings.model, language()))
        return opens[-1][1]

    monkeypatch.setattr(compose, "open_language_model", open_language_model)
    monkeypatch.setattr(compose, "open_reward_model", lambda _: TableReward({}))
    return opens


def test_each_model_is_opened_once_for_all_its_arms(opens: list[tuple[str, Language]]) -> None:
    named = arm_settings(FLAGS, ["vanilla:model=a", "vanilla:model=b", "best-of-n:model=a"])
    opened = Opened(2)
    found = make_arms(named, opened, lambda *_: None, 0)
    assert [arm.name for arm in found] == list(named)
    assert [name for name, _ in opens] == ["a", "b"]
    assert found[0].group == found[2].group != found[1].group
    opened.close()
    assert [model.unloaded for _, model in opens] == [1, 1]


def test_a_reward_of_an_arms_own_scores_every_answer(opens: list[tuple[str, Language]]) -> None:
    named = arm_settings(FLAGS, ["vanilla", "best-of-n:reward=other", "best-of-n"])
    opened = Opened(2)
    make_arms(named, opened, lambda *_: None, 0)
    found = steering_models(named, opened)
    assert list(found) == ["steering", "steering other"]
    rewards = [opened.get(settings).reward for settings in named.values()]
    assert rewards == [found["steering"], found["steering other"], found["steering"]]
    assert len(opens) == 1, "another reward model does not open the language model again"


def test_every_cohort_of_every_arm_begins_in_a_cleared_context(
    opens: list[tuple[str, Language]], monkeypatch: pytest.MonkeyPatch
) -> None:
    cleared: list[object] = []
    monkeypatch.setattr(arms, "clear", lambda models: cleared.append(models.language))
    named = arm_settings(FLAGS, ["vanilla", "vanilla:model=b"])
    for made in make_arms(named, Opened(2), lambda *_: None, 0):
        for _ in range(2):
            made.open_driver(1)
    assert len(cleared) == 4 and cleared[0] is cleared[1] is not cleared[2] is cleared[3]


def test_clearing_leaves_no_cell_of_what_was_before(tmp_path: Path) -> None:
    import llama_cpp

    path = write_tiny(tmp_path / "tiny.gguf", "llama")
    with LlamaModel(path, n_ctx=64, n_seq_max=4, n_threads=1) as model:
        with model.borrowed_context() as context:
            memory = llama_cpp.llama_get_memory(context)
            tokens = (ctypes.c_int32 * 3)(5, 6, 7)
            assert llama_cpp.llama_decode(context, llama_cpp.llama_batch_get_one(tokens, 3)) == 0
            assert llama_cpp.llama_memory_seq_pos_max(memory, 0) == 2
        arms.clear(compose.Models(model, TableReward({}), 1))
        with model.borrowed_context() as context:
            assert llama_cpp.llama_memory_seq_pos_max(memory, 0) == -1


def test_second_turns_have_room_for_the_answers_before_them(
    opens: list[tuple[str, Language]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Language, "lends", True)
    flags = configure({"max_new_tokens": 64, "width": 1}, {})
    (settings,) = arm_settings(flags, ["vanilla"]).values()
    asked = (Prompt("p", (Message("user", "word " * 100),)),)
    opened = Opened(2, [asked, second_prompts(asked, {"p": ("word " * 50,)})])
    before = opened.layout(settings)
    opened.turn = 1
    after = opened.layout(settings)
    assert not before.unified and not after.unified
    assert before.n_ctx >= 100 + 64 and after.n_ctx >= 150 + 64 + 64 + 8
    assert len(opens) == 1 and opens[0][1].unloaded == 1, "both are counted before any draw"
    with pytest.raises(UsageError, match=r"with the longest answer before it.*trained for"):
        Opened(2, [asked, second_prompts(asked, {"p": ("word " * 4000,)})]).layout(settings)
