"""`generate` over the doubles: what is printed, what is refused, how it ends."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from stars_local import compose
from stars_local.cli.app import app
from stars_local.cli.generate import MAX_PROMPT_BYTES, read_prompt
from stars_local.cli.terminal import TextWriter, neutralise
from stars_local.core.doubles import EnumerableModel, TableReward
from stars_local.core.errors import CalibrationError, UsageError
from stars_local.core.methods.registry import METHODS
from stars_local.core.ports import Order
from stars_local.core.records import Proposal
from stars_local.settings import Settings
from tests.support.laws import Gated

runner = CliRunner()
CALIBRATED = ["--alpha", "0.5", "--beta", "0.5", "--reward-threshold", "2"]
SHORT = ["--segment-size", "3", "--max-new-tokens", "12", "--width", "2", "--seed", "0"]


class Language(EnumerableModel):
    """The enumerable double as `compose` hands it out."""

    unloaded = 0
    chat_template = None
    lends = False
    attention = "none"
    capacity = (4096, 24)
    n_ctx_train = 4096

    def unload(self) -> None:
        """Count instead of freeing."""
        self.unloaded += 1


class Interrupting(Language):
    """Sends this process a Ctrl-C while it draws its third round."""

    n_rounds = 0

    def propose(self, orders: Sequence[Order]) -> list[tuple[Proposal, ...]]:
        """Draw, interrupted in the third round."""
        self.n_rounds += 1
        if self.n_rounds == 3:
            os.kill(os.getpid(), signal.SIGINT)
        return super().propose(orders)


def language(kind: type[Language] = Language, **options: Any) -> Language:
    """A model of four tokens, one of them hostile, that ends one time in ten."""
    return kind(("a", "b", "é", "\x1b[2J"), lambda _: (0.4, 0.3, 0.1, 0.1, 0.1), **options)


@pytest.fixture(name="model")
def _model(monkeypatch: pytest.MonkeyPatch) -> Language:
    return use(monkeypatch, language())


def use(monkeypatch: pytest.MonkeyPatch, model: Language) -> Language:
    """Hand out doubles in place of the adapters."""
    reward = TableReward(lambda text: float(text.count("a")))
    monkeypatch.setattr(compose, "open_language_model", lambda *_, **__: model)
    monkeypatch.setattr(compose, "open_reward_model", lambda _: reward)
    return model


def run(*args: str, **options: Any) -> Any:
    """`stars-local generate` with a seed and short segments."""
    return runner.invoke(app, ["generate", *SHORT, *CALIBRATED, *args], **options)


def test_plain_text_and_nothing_else(model: Language) -> None:
    result = run("hello")
    found = json.loads(run("hello", "--json").stdout)
    assert result.exit_code == 0
    assert result.stderr == ""
    assert found["text"] != ""
    assert result.stdout == found["text"] + "\n"
    assert model.unloaded == 2


def test_a_prompt_on_standard_input_is_the_same_prompt(model: Language) -> None:
    wanted = run("grüße").stdout
    for args, given in (((), "grüße\n"), (("-",), "grüße\r\n"), ((), "\ufeffgrüße")):
        assert run(*args, input=given).stdout == wanted


def test_the_object_keeps_its_books(model: Language) -> None:
    found = json.loads(run("hello", "--json").stdout, parse_constant=pytest.fail)
    segments = found["segments"]
    assert found["method"] == "stars"
    assert found["seed"] == 0
    assert "".join(segment["text"] for segment in segments) == found["text"]
    assert sum(segment["n_tokens"] for segment in segments) == found["n_kept_tokens"]
    parts = ("n_kept_tokens", "n_rejected_tokens", "n_spare_tokens")
    assert sum(found[part] for part in parts) == found["n_decoded_tokens"]
    params = found["params"]
    assert (params["alpha"], params["beta"], params["reward_threshold"]) == (0.5, 0.5, 2.0)
    assert params["segment_size"] == 3
    assert found["reward_model"]["axis"] == "table"


def test_events_are_the_attempts_and_then_the_object(model: Language) -> None:
    lines = [json.loads(line) for line in run("hello", "--events").stdout.split("\n")[:-1]]
    *attempts, last = lines
    assert {line["event"] for line in attempts} == {"attempt"}
    found = json.loads(run("hello", "--json").stdout)
    assert last.pop("event") == "result"
    assert {**last, "elapsed_s": 0} == {**found, "elapsed_s": 0}
    kept = [line for line in attempts if line["outcome"] in ("accepted", "forced")]
    assert [line["text"] for line in kept] == [s["text"] for s in found["segments"]]
    spare = sum(line["n_tokens"] for line in attempts if line["outcome"] == "spare")
    assert spare == found["n_spare_tokens"]
    judged = [line for line in attempts if line["outcome"] in ("accepted", "rejected")]
    assert len(judged) == sum(segment["n_attempts"] for segment in found["segments"])


def test_events_say_every_axis_and_whether_the_gates_passed(
    model: Language, monkeypatch: pytest.MonkeyPatch
) -> None:
    gated = Gated(lambda text: float(text.count("a")), lambda text: text.count("a") >= 4)
    monkeypatch.setattr(compose, "open_reward_model", lambda _: gated)
    lines = [json.loads(line) for line in run("hello", "--events").stdout.splitlines()]
    judged = [line for line in lines if line.get("outcome") in ("accepted", "rejected")]
    assert {line["passed"] for line in judged} == {True, False}
    for line in judged:
        assert line["axes"] == {"table": line["reward"]}
        assert line["passed"] == (line["reward"] >= 4)
        assert line["passed"] or line["probability"] == 0.0


def test_vanilla_needs_no_reward_model(model: Language, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compose, "open_reward_model", pytest.fail)
    result = runner.invoke(app, ["generate", *SHORT, "--method", "vanilla", "--json", "hi"])
    found = json.loads(result.stdout)
    assert found["reward_model"] is None
    assert found["n_rm_calls"] == 0
    assert {segment["reward"] for segment in found["segments"]} == {None}


@pytest.mark.parametrize("name", METHODS)
def test_every_method_answers(name: str, model: Language) -> None:
    own = {"stopping": "spread=0.5", "adaptive": "spread=0.5"}
    method = f"{name}:{own[name]}" if name in own else name
    result = run("hi", "--json", "--method", method)
    found = json.loads(result.stdout, parse_constant=pytest.fail)
    assert result.exit_code == 0
    assert found["method"] == name
    assert found["params"]["method"] == method
    parts = ("n_kept_tokens", "n_rejected_tokens", "n_spare_tokens")
    assert sum(found[part] for part in parts) == found["n_decoded_tokens"]


def test_flags_without_effect_are_said_so_on_stderr(model: Language) -> None:
    quiet = runner.invoke(app, ["generate", *SHORT[:4], "--method", "vanilla", "--seed", "0", "x"])
    loud = run("x", "--method", "vanilla")
    assert (quiet.exit_code, quiet.stderr) == (0, "")
    assert loud.stdout == quiet.stdout
    named = {line.split()[1] for line in loud.stderr.splitlines()}
    assert named == {"--width", "--alpha", "--beta", "--reward-threshold"}


def test_a_threshold_of_minus_infinity_is_vanilla(model: Language) -> None:
    plain = runner.invoke(app, ["generate", *SHORT, "--method", "vanilla", "--json", "hi"])
    free = run("hi", "--json", "--reward-threshold", "-inf")
    assert json.loads(free.stdout)["text"] == json.loads(plain.stdout)["text"]
    assert json.loads(free.stdout)["params"]["reward_threshold"] == "-inf"


def test_a_seed_is_random_unless_given_and_always_recorded(model: Language) -> None:
    def found(*args: str) -> Any:
        return json.loads(runner.invoke(app, ["generate", *CALIBRATED, "x", *args]).stdout)

    short = ["--json", "--max-new-tokens", "40", "--width", "1"]
    first, second = found(*short), found(*short)
    assert first["seed"] != second["seed"]
    again = found(*short, "--seed", str(first["seed"]))
    assert again["text"] == first["text"]


def test_ctrl_c_keeps_what_was_accepted(monkeypatch: pytest.MonkeyPatch) -> None:
    limits = ["--max-new-tokens", "60", "--width", "1", "--reward-threshold", "-inf"]
    use(monkeypatch, language())
    whole = run("hi", "--json", *limits)
    use(monkeypatch, language(Interrupting))
    before = signal.getsignal(signal.SIGINT)
    plain = run("hi", *limits)
    assert signal.getsignal(signal.SIGINT) is before
    use(monkeypatch, language(Interrupting))
    result = run("hi", "--json", *limits)
    found = json.loads(result.stdout)
    assert (plain.exit_code, result.exit_code) == (130, 130)
    assert found["finish_reason"] == "interrupted"
    assert len(found["segments"]) == 2
    assert found["segments"] == json.loads(whole.stdout)["segments"][:2]
    assert plain.stdout == found["text"] + "\n"


@pytest.mark.parametrize(
    ("args", "reason"),
    [
        (("--max-new-tokens", "1"), "length"),
        (("--max-decoded-tokens", "1"), "budget"),
        (("--max-seconds", "0.000001"), "deadline"),
    ],
)
def test_limits_end_an_answer_by_name(args: tuple[str, ...], reason: str, model: Language) -> None:
    result = run("hi", "--json", *args, "--reward-threshold", "1000")
    assert result.exit_code == 0
    assert json.loads(result.stdout)["finish_reason"] == reason


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize(
    ("args", "reason"),
    [
        (("--max-decoded-tokens", "7"), "budget"),
        (("--max-seconds", "0.000001"), "deadline"),
        (("--max-new-tokens", "2"), "length"),
        (("--stop", "b", "--stop", "a"), "stop_string"),
    ],
)
def test_every_method_ends_by_every_limit(
    name: str, args: tuple[str, ...], reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    endless = Language(("a", "b"), lambda _: (0.5, 0.5, 0.0))
    use(monkeypatch, endless)
    own = ":spread=0.5" if name in ("stopping", "adaptive") else ""
    scored = [*CALIBRATED, "--width", "2"] if METHODS[name].scores else []
    given = ["--method", f"{name}{own}", "--seed", "0", "--segment-size", "3", *scored]
    result = runner.invoke(app, ["generate", "hi", "--json", *given, *args])
    found = json.loads(result.stdout)
    assert (result.exit_code, found["finish_reason"]) == (0, reason)
    assert found["n_decoded_tokens"] <= (7 if reason == "budget" else 10**6)
    if reason == "stop_string":
        assert found["text"] == ""
        assert found["params"]["stop"][:2] == ["b", "a"]


def test_stop_strings_are_not_printed(model: Language) -> None:
    found = json.loads(run("hi", "--json", "--stop", "b", "--max-new-tokens", "200").stdout)
    assert found["finish_reason"] == "stop_string"
    assert "b" not in found["text"]


@pytest.mark.parametrize(
    ("args", "code", "message"),
    [
        (("--segment-size", "0"), 2, "--segment-size is '0'"),
        (("--max-attempts", "0"), 2, "--max-attempts is '0'"),
        (("--beta", "-1"), 2, "--beta is '-1'"),
        (("--width", "0"), 2, "--width is '0'"),
        (("--width", "255"), 2, "--width is '255'"),
        (("--n-ctx", "0"), 2, "--n-ctx is '0'"),
        (("--seed", "-1"), 2, "--seed is '-1'"),
        (("--stop", ""), 2, "--stop is ['']"),
        (("--system", "\udcff"), 2, "--system is"),
        (("--json", "--events"), 2, "--json and --events"),
        (("--grammar", "a", "--json-schema", "b"), 2, "--grammar and --json-schema"),
        (("--grammar", "no such file"), 1, "--grammar 'no such file': cannot read"),
        (("--grammar", "\x00"), 1, "cannot read"),
        (("--config", "no-such.toml"), 2, "no-such.toml: cannot read the configuration"),
        (("--segment_size", "3"), 2, "No such option"),
        (("another",), 2, "unexpected extra argument"),
        (("--method", "star"), 2, "did you mean 'stars'"),
        (("--method", "stars:segment_size=4"), 2, "segment_size is given twice"),
        (("--method", "stars:alfa=1"), 2, "no parameter 'alfa'"),
        (("--method", "stars:alpha=2"), 2, "alpha"),
        (("--n", "4"), 2, "--n belongs to --method best-of-n"),
    ],
)
def test_wrong_flags_are_one_line(
    args: tuple[str, ...], code: int, message: str, model: Language
) -> None:
    result = run("hi", *args)
    assert result.exit_code == code
    assert result.stderr.startswith("stars-local: ")
    assert message in result.stderr
    assert result.stderr.count("\n") == 1
    assert result.stdout == ""


def test_without_a_calibration_one_is_measured_and_kept(
    model: Language, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    args = ["generate", *SHORT, "hi", "--json"]
    first, second = runner.invoke(app, args), runner.invoke(app, args)
    assert "measuring one, once" in first.stderr
    assert "95 %" in first.stderr
    assert second.stderr == ""
    found, again = json.loads(first.stdout), json.loads(second.stdout)
    (file,) = (tmp_path / "stars-local" / "calibrations").iterdir()
    kept = json.loads(file.read_text())
    assert kept["quick"] is True
    for name in ("alpha", "beta", "reward_threshold"):
        assert found["params"][name] == kept[name]
    assert found["params"]["thresholds"] == file.name
    assert again["text"] == found["text"]
    given = json.loads(runner.invoke(app, [*args, "--alpha", "0.125"]).stdout)["params"]
    assert (given["alpha"], given["beta"]) == (0.125, kept["beta"])


def test_a_library_user_without_a_calibration_is_told_the_remedy(model: Language) -> None:
    models = compose.Models(model, TableReward({}))  # type: ignore[arg-type]
    with pytest.raises(CalibrationError, match="give --alpha, --beta and --reward-threshold"):
        compose.find_thresholds(Settings(segment_size=31), models)


def test_a_prompt_longer_than_the_context(monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, language(n_ctx=8))
    result = run("too long for eight tokens")
    assert result.exit_code == 1
    assert "n_ctx is 8" in result.stderr
    assert result.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (b"abc\xff", "byte 0xff at offset 3"),
        (b"\xc3", "not valid UTF-8"),
        (b"", "the prompt is empty"),
        (b" \n", "the prompt is empty"),
        (b"x" * (MAX_PROMPT_BYTES + 1), "longer than"),
    ],
)
def test_wrong_standard_input_is_one_line(raw: bytes, message: str, model: Language) -> None:
    result = run(input=raw)
    assert result.exit_code in (1, 2)
    assert message in result.stderr
    assert result.stderr.count("\n") == 1


def test_a_prompt_is_never_awaited_from_a_terminal() -> None:
    class Terminal:
        def read(self) -> bytes:
            raise AssertionError

    with pytest.raises(UsageError, match="there is no prompt"):
        read_prompt(None, Terminal(), from_terminal=True)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="not valid UTF-8"):
        read_prompt("\udcff", Terminal(), from_terminal=True)  # type: ignore[arg-type]


def test_parameters_behind_the_method_are_options(model: Language) -> None:
    method = ["--method", "stars:max_attempts=1,threshold_from=prompt"]
    found = json.loads(run("hi", "--json", *method, "--force", "last").stdout)
    assert found["method"] == "stars"
    assert found["params"]["max_attempts"] == 1
    assert found["params"]["threshold_from"] == "prompt"
    assert {segment["n_attempts"] for segment in found["segments"]} == {1}


def test_print_config_needs_no_prompt_and_no_model(tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    file.write_text("alpha: 0.25\nbeta: 0.5\nsegment_size: 9\n")
    environment = {"STARS_LOCAL_BETA": "0.75"}
    args = ["generate", "--config", str(file), "--segment-size", "4", "--print-config"]
    shown = runner.invoke(app, args, env=environment).stdout
    values = {line.split(" ")[0]: line for line in shown.splitlines()}
    assert values["alpha"].endswith(f"# {file}")
    assert values["beta"].split("  ")[0] == "beta = 0.75"
    assert values["segment_size"].endswith("# flag")
    assert values["max_attempts"].endswith("# default")


def test_a_terminal_gets_no_escape_sequence() -> None:
    class Screen:
        encoding = "ascii"

        def __init__(self, is_terminal: bool) -> None:
            self.shown = ""
            self.is_terminal = is_terminal

        def isatty(self) -> bool:
            return self.is_terminal

        def write(self, text: str) -> None:
            self.shown += text

        def flush(self) -> None:
            pass

    screen, pipe = Screen(True), Screen(False)
    for stream in (screen, pipe):
        TextWriter(stream).write("a\x1b[2Jé\n")  # type: ignore[arg-type]
    assert "\x1b" not in screen.shown
    assert pipe.shown == "a\x1b[2J?\n"


def test_neutral_text_has_no_controls_but_newline_and_tab() -> None:
    everything = "".join(map(chr, range(0x250)))
    neutral = neutralise(everything)
    left = {c for c in neutral if ord(c) < 0x20 or 0x7F <= ord(c) < 0xA0}
    assert left == {"\n", "\t"}
    assert neutral.endswith(everything[0xA0:])


def test_models_are_loaded_side_by_side_and_freed_when_one_fails(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = language()
    monkeypatch.setattr(compose, "open_language_model", lambda *_, **__: model)

    def fail(_: Settings) -> TableReward:
        raise UsageError("no reward")

    monkeypatch.setattr(compose, "open_reward_model", fail)
    with pytest.raises(UsageError, match="no reward"):
        compose.open_models(Settings())
    assert model.unloaded == 1
