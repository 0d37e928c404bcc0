"""Settings: every source is read alike, the nearer source wins, and origins are kept."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stars_local.config import FLAG, configure, flag_of, read_config_file, to_toml
from stars_local.core.errors import ConfigError, UsageError
from stars_local.settings import OPTIONS, Kind, Settings, read_value

SAMPLES: dict[Kind, tuple[object, object, object]] = {
    Kind.INTEGER: (3, 4, 5),
    Kind.NUMBER: (0.25, 0.5, 0.75),
    Kind.TEXT: ("a", "b", "c"),
    Kind.LIST: (("a",), ("b",), ("c", "d")),
    Kind.WIDTH: (2, 3, 4),
}


def samples(name: str) -> tuple[object, object, object]:
    """Three legal values of an option."""
    option = OPTIONS[name]
    if option.choices:
        return option.choices[0], option.choices[1], option.choices[-1]
    if name == "budget":
        return 1.5, 2.5, 3.5
    if name == "method":
        return "stars", "vanilla", "stars:ended_at_r_star=true"
    return SAMPLES[option.kind]


def as_text(value: object) -> str:
    """A value as an environment variable has it."""
    return "\n".join(value) if isinstance(value, tuple) else str(value)


def write_toml(path: Path, name: str, value: object) -> Path:
    """A file with one key."""
    shown = list(value) if isinstance(value, tuple) else value
    path.write_text(f"{name} = {shown!r}\n")
    return path


def beside_of(name: str) -> dict[str, str]:
    """What an option needs beside it, as an environment: its method, or its target."""
    if name == "threshold_from":
        return {"STARS_LOCAL_REWARD_THRESHOLD": "1.5"}
    owners = {"n": "best-of-n", "k": "blockwise", "price": "stopping", "budget": "adaptive"}
    return {"STARS_LOCAL_METHOD": owners[name]} if name in owners else {}


@pytest.mark.parametrize("name", OPTIONS)
def test_flag_over_environment_over_file_over_default(name: str, tmp_path: Path) -> None:
    low, middle, high = samples(name)
    file = write_toml(tmp_path / "c.toml", name, low)
    environment = {f"STARS_LOCAL_{name.upper()}": as_text(middle)}
    flags = {name: list(high) if isinstance(high, tuple) else str(high)}

    beside = beside_of(name)
    assert configure({}, {}).origins[name] == "default"
    layers = [
        (configure({}, beside, file), low, str(file)),
        (configure({}, {**beside, **environment}, file), middle, "environment"),
        (configure(flags, {**beside, **environment}, file), high, FLAG),
    ]
    for configured, value, origin in layers:
        assert getattr(configured.settings, name) == value
        assert configured.origins[name] == origin
        chosen = {k for k, v in configured.origins.items() if v != "default"}
        assert chosen == {name, *(key.removeprefix("STARS_LOCAL_").lower() for key in beside)}


@pytest.mark.parametrize("name", [name for name, o in OPTIONS.items() if o.low is not None])
def test_the_low_end_of_every_range(name: str) -> None:
    option = OPTIONS[name]
    assert option.low is not None
    outside = option.low if option.above else option.low - 1
    number = int(outside) if option.kind in (Kind.INTEGER, Kind.WIDTH) else outside
    with pytest.raises(UsageError, match=flag_of(name)) as caught:
        configure({name: str(number)}, beside_of(name))
    assert str(number) in str(caught.value)
    if not option.above:
        assert (
            getattr(configure({name: str(option.low)}, beside_of(name)).settings, name)
            == option.low
        )


@pytest.mark.parametrize("name", [name for name, o in OPTIONS.items() if o.high is not None])
def test_the_high_end_of_every_range(name: str) -> None:
    option = OPTIONS[name]
    assert option.high is not None
    with pytest.raises(UsageError, match=flag_of(name)):
        configure({name: str(option.high + 1)}, {})
    assert getattr(configure({name: str(option.high)}, {}).settings, name) == option.high


@pytest.mark.parametrize(
    ("name", "raw"),
    [
        ("segment_size", "two"),
        ("segment_size", "1.5"),
        ("segment_size", True),
        ("segment_size", 1.0),
        ("beta", "nan"),
        ("beta", math.nan),
        ("beta", "inf"),
        ("beta", 10**400),
        ("schedule", "RAMP"),
        ("stop", [""]),
        ("stop", 3),
        ("stop", [3]),
        ("width", "wide"),
        ("system", "\udcff"),
        ("stop", ["\udcff"]),
        ("system", 3),
    ],
)
def test_wrong_values_name_place_and_remedy(name: str, raw: object) -> None:
    with pytest.raises(UsageError, match=r"^here is .*: give .+") as caught:
        read_value(name, raw, "here")
    assert "\n" not in str(caught.value)


def test_zero_is_a_seed_and_minus_infinity_a_threshold() -> None:
    settings = configure({"seed": "0", "reward_threshold": "-inf"}, {}).settings
    assert settings.seed == 0
    assert settings.reward_threshold == -math.inf


def test_the_authors_yaml_keys(tmp_path: Path) -> None:
    file = tmp_path / "stars.yaml"
    file.write_text(
        "segment_size: 15\nmax_attempts: 10\nalpha: 0.5\nbeta: 0.7\nreward_threshold: 8.5\n"
    )
    settings = configure({}, {}, file).settings
    assert (settings.segment_size, settings.max_attempts) == (15, 10)
    assert (settings.alpha, settings.beta, settings.reward_threshold) == (0.5, 0.7, 8.5)


@pytest.mark.parametrize(
    ("file_name", "text", "message"),
    [
        ("a.toml", "segmentsize = 3", "unknown key 'segmentsize': the nearest .* 'segment_size'"),
        ("a.yaml", "max_attemps: 3", "'max_attempts'"),
        ("a.yaml", "3: 3", "unknown key '3'"),
        ("a.toml", "[stars]\nalpha = 1", "unknown key 'stars'"),
        ("a.toml", "[seed]\nalpha = 1", "seed in .* is a table"),
        ("a.toml", "segment-size = 3\nsegment_size = 4", "twice"),
        ("a.toml", "segment_size = ", "not TOML"),
        ("a.yaml", "a: [", "not YAML"),
        ("a.yaml", "- 3", "found list"),
        ("a.yaml", "segment_size: 0", "segment_size in .* is 0"),
        ("a.yaml", "!!python/object/apply:os.getcwd []", "not YAML"),
        ("a.toml", "a = " + "[" * 100_000, "not TOML"),
    ],
)
def test_wrong_files_fail_in_one_line(
    file_name: str, text: str, message: str, tmp_path: Path
) -> None:
    file = tmp_path / file_name
    file.write_text(text)
    with pytest.raises(ConfigError, match=message) as caught:
        configure({}, {}, file)
    assert str(file) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    binary = tmp_path / "b.toml"
    binary.write_bytes(b"\xff\xfe")
    large = tmp_path / "l.toml"
    large.write_bytes(b"#" * 1_000_001)
    for file in (tmp_path, tmp_path / "absent.toml", binary, large):
        with pytest.raises(ConfigError, match=str(file)):
            read_config_file(file)


def test_hyphens_and_empty_values_in_files(tmp_path: Path) -> None:
    file = tmp_path / "a.yaml"
    file.write_text("segment-size: 7\nseed:\n")
    configured = configure({}, {}, file)
    assert configured.settings.segment_size == 7
    assert not configured.given("seed")
    empty = tmp_path / "empty.yaml"
    empty.write_text("")
    assert configure({}, {}, empty).settings == Settings()


def test_a_wrong_environment_value_names_the_variable() -> None:
    with pytest.raises(ConfigError, match="STARS_LOCAL_WIDTH is 'x'"):
        configure({}, {"STARS_LOCAL_WIDTH": "x"})


def test_contradictions_are_refused() -> None:
    with pytest.raises(UsageError, match="--grammar and --json-schema"):
        configure({"grammar": "a", "json_schema": "b"}, {})
    with pytest.raises(UsageError, match="--price and --budget"):
        configure({"method": "stopping", "price": "1", "budget": "2"}, {})
    with pytest.raises(UsageError, match="no calibrated target: give --reward-threshold"):
        configure({"threshold_from": "prompt"}, {})
    with pytest.raises(UsageError, match="a schedule other than quantile"):
        given = {"reward_threshold": "1", "schedule": "quantile"}
        configure({"threshold_from": "prompt", **given}, {})
    assert configure({"threshold_from": "prompt", "method": "vanilla"}, {})


texts = st.text(st.characters(exclude_categories=["Cs"]), min_size=1)


@given(
    flags=st.fixed_dictionaries(
        {},
        optional={
            "stop": st.lists(texts, min_size=1),
            "system": texts,
            "beta": st.floats(0, 1e300).map(repr),
            "reward_threshold": st.floats(allow_nan=False).map(repr),
            "seed": st.integers(0, 2**63 - 1).map(str),
            "width": st.one_of(st.just("auto"), st.integers(1, 254).map(str)),
        },
    )
)
def test_the_printed_configuration_reads_back(
    flags: dict[str, object], tmp_path_factory: pytest.TempPathFactory
) -> None:
    configured = configure(flags, {})
    file = tmp_path_factory.mktemp("c") / "printed.toml"
    file.write_bytes(to_toml(configured).encode())
    again = configure({}, {}, file)
    assert dataclasses.asdict(again.settings) == dataclasses.asdict(configured.settings)


def test_the_printed_configuration_tells_every_origin() -> None:
    lines = to_toml(configure({"alpha": "0.5"}, {"STARS_LOCAL_BETA": "1"})).splitlines()
    assert len(lines) == len(OPTIONS)
    found = {line.lstrip("# ").split(" ")[0]: line.rsplit("  # ", 1)[1] for line in lines}
    assert found["alpha"] == "flag"
    assert found["beta"] == "environment"
    assert found["top_k"] == "default"
    assert found["reward_threshold"] == "default: from the calibration"


def test_the_printed_configuration_has_no_control_characters() -> None:
    printed = to_toml(configure({"system": "\x1b[2J\x9b\x7f\u202e", "stop": ["\r\n"]}, {}))
    assert not {"\x1b", "\x9b", "\x7f", "\u202e", "\r"} & set(printed)


def test_every_option_is_explained() -> None:
    for each in dataclasses.fields(Settings):
        option = OPTIONS[each.name]
        assert option.help.endswith(".")
        assert (each.default is None) == bool(option.unset)
        if each.default is not None and option.kind is not Kind.LIST:
            assert read_value(each.name, each.default, "default") == each.default
