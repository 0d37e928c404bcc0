"""Settings from layers: flag over environment over file over default, origins kept.

A file is TOML, or YAML where its name ends in .yaml or .yml, with the names of the options
(hyphens read as underscores); the authors' own YAML files, with the keys `segment_size,
max_attempts, alpha, beta, reward_threshold`, are among them. An environment variable is the
name in capitals behind STARS_LOCAL_; in the environment a list is one item a line.
"""

from __future__ import annotations

import dataclasses
import difflib
import json
import math
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stars_local.core.errors import ConfigError, DataError, GrammarError, UsageError
from stars_local.core.methods.registry import METHODS, MethodParams, method_spec, parse_method
from stars_local.method_settings import check_target
from stars_local.settings import OPTIONS, Kind, Settings, read_value

ENVIRONMENT_PREFIX = "STARS_LOCAL_"
FLAG, METHOD, ENVIRONMENT, DEFAULT = "flag", "--method", "environment", "default"
CHAT = "/set"
# Options that one method or two look at: a wrong one is refused.
OWNED = ("n", "k", "price", "budget")
_SCORING = ("reward", "gate", "width", "overlap", "provider")
_PARAMS = frozenset(each.name for each in dataclasses.fields(MethodParams))
_MAX_FILE_BYTES = 1_000_000
_CONTROLS = re.compile(r"[\x00-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


@dataclass(frozen=True, slots=True)
class Configured:
    """Settings with the origin of each value: flag, --method, /set, environment, the file's
    path, default."""

    settings: Settings
    origins: Mapping[str, str]

    def given(self, name: str) -> bool:
        """Whether anyone chose this value."""
        return self.origins[name] != DEFAULT


def configure(
    flags: Mapping[str, object],
    environment: Mapping[str, str],
    file: Path | None = None,
) -> Configured:
    """Layer the sources over the defaults and check every value.

    flags: values by option name, those not given left out. Raises UsageError for a flag,
    ConfigError for the rest, each naming where the value stands.
    """
    origins = dict.fromkeys(OPTIONS, DEFAULT)
    values: dict[str, Any] = {}
    for name, raw in ({} if file is None else read_config_file(file)).items():
        values[name] = _config_value(name, raw, f"{name} in {file}")
        origins[name] = str(file)
    for name, option in OPTIONS.items():
        variable = ENVIRONMENT_PREFIX + name.upper()
        text = environment.get(variable)
        if text is not None:
            raw = text.split("\n") if option.kind is Kind.LIST else text
            values[name] = _config_value(name, raw, variable)
            origins[name] = ENVIRONMENT
    for name, raw in flags.items():
        values[name] = read_value(name, raw, flag_of(name))
        origins[name] = FLAG
    _fold_method(values, origins)
    configured = Configured(Settings(**values), origins)
    check_together(configured)
    return configured


def _fold_method(values: dict[str, Any], origins: dict[str, str]) -> None:
    """Parameters written behind a method's name are options too, and nearer than any."""
    text = values.get("method", Settings().method)
    for name, raw in parse_method(text)[1].items():
        if name not in OPTIONS:
            continue
        if origins[name] == FLAG:
            raise UsageError(f"{name} is given twice: in --method {text} and as {flag_of(name)}")
        values[name] = read_value(name, raw, f"{name} in --method")
        origins[name] = METHOD


def flag_of(name: str) -> str:
    """The flag of an option: `--segment-size` for `segment_size`."""
    return "--" + name.replace("_", "-")


def check_together(configured: Configured) -> None:
    """Refuse options that contradict each other."""
    settings = configured.settings
    if settings.grammar is not None and settings.json_schema is not None:
        raise UsageError("--grammar and --json-schema are both given: choose one")
    if settings.price is not None and settings.budget is not None:
        raise UsageError("--price and --budget are both given: choose one")
    check_target(settings)
    method = parse_method(settings.method)[0]
    for name in OWNED:
        owners = [each for each, spec in METHODS.items() if name in spec.reads]
        if configured.origins[name] in (FLAG, METHOD, CHAT) and method not in owners:
            raise UsageError(
                f"{flag_of(name)} belongs to --method {' or '.join(owners)}, not to {method}"
            )


def is_idle(name: str, method: str) -> bool:
    """Whether a method, written with or without parameters, does not look at an option."""
    spec = method_spec(parse_method(method)[0])
    return name not in spec.reads if name in _PARAMS else not spec.scores and name in _SCORING


def idle_flags(configured: Configured) -> list[str]:
    """The flags that a person gave and that the method does not look at."""
    method = configured.settings.method
    idle = (name for name in OPTIONS if is_idle(name, method))
    return [flag_of(name) for name in idle if configured.origins[name] == FLAG]


def read_config_file(path: Path) -> dict[str, object]:
    """The values of a file by option name; an unknown key is named with the nearest right one."""
    found = parse_file(path)
    values: dict[str, object] = {}
    for key, value in found.items():
        name = key.replace("-", "_") if isinstance(key, str) else str(key)
        if name not in OPTIONS:
            raise ConfigError(f"{path}: unknown key {name[:60]!r}{_nearest(name[:60])}")
        if name in values:
            raise ConfigError(f"{path}: {name} stands there twice")
        if value is not None:
            values[name] = value
    return values


def _nearest(name: str) -> str:
    near = difflib.get_close_matches(name, OPTIONS, n=1, cutoff=0.0)
    return f": the nearest option is {near[0]!r}" if near else ""


def parse_file(path: Path) -> dict[Any, object]:
    """The keys and values of a TOML or YAML file, unchecked. Raises ConfigError."""
    try:
        if path.stat().st_size > _MAX_FILE_BYTES:
            raise ConfigError(f"{path}: larger than {_MAX_FILE_BYTES} bytes: not a configuration")
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{path}: cannot read the configuration: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not UTF-8 text: byte {error.start} is wrong") from error
    if path.suffix.lower() in (".yaml", ".yml"):
        return _parse_yaml(path, text)
    try:
        return tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{path}: not TOML: {str(error)[:300]}") from error


def _parse_yaml(path: Path, text: str) -> dict[Any, object]:
    import yaml

    try:
        found = yaml.safe_load(text)
    # its constructors raise what they like: AttributeError for a wrong !!timestamp
    except (yaml.YAMLError, RecursionError, ValueError, AttributeError, TypeError) as error:
        words = " ".join(str(error).split())[:300]
        raise ConfigError(f"{path}: not YAML: {words}") from error
    if found is None:
        return {}
    if not isinstance(found, dict):
        raise ConfigError(f"{path}: expected 'name: value' lines, found {type(found).__name__}")
    return found


def _config_value(name: str, raw: object, where: str) -> Any:
    if isinstance(raw, Mapping):
        raise ConfigError(f"{where} is a table: give {OPTIONS[name].wanted}")
    try:
        return read_value(name, raw, where)
    except UsageError as error:
        raise ConfigError(str(error)) from error


def inline_or_file(value: str, flag: str, mark: str) -> str:
    """The value itself where it holds the mark of its language, else the file that it names.

    Raises DataError if the file cannot be read, GrammarError if no grammar is that long.
    """
    if mark in value:
        return value
    path = Path(value)
    try:
        if path.stat().st_size > _MAX_FILE_BYTES:
            raise GrammarError(f"{flag} {value}: larger than {_MAX_FILE_BYTES} bytes")
        return path.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
        raise DataError(f"{flag} {value!r}: cannot read the file: {why}") from error


def to_toml(configured: Configured) -> str:
    """Every value with its origin, as TOML that `configure` reads back."""
    lines = []
    for each in dataclasses.fields(configured.settings):
        value = getattr(configured.settings, each.name)
        origin = configured.origins[each.name]
        if value is None:
            line, origin = f"# {each.name} =", f"{origin}: {OPTIONS[each.name].unset}"
        else:
            line = f"{each.name} = {_toml_value(value)}"
        lines.append(f"{line:<44}  # {_printable(origin)}\n")
    return "".join(lines)


def _toml_value(value: object) -> str:
    if isinstance(value, tuple):
        return "[" + ", ".join(_toml_value(item) for item in value) + "]"
    if isinstance(value, float) and math.isinf(value):
        return "inf" if value > 0 else "-inf"
    # JSON's strings and finite numbers are TOML's, but for DEL
    return _printable(json.dumps(value, ensure_ascii=False))


def _printable(text: str) -> str:
    """Text without control characters, which a terminal would obey: escapes in their places."""
    return _CONTROLS.sub(lambda found: f"\\u{ord(found[0]):04x}", text)
