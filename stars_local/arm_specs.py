"""The arms of an evaluation as people write them: behind `--method`, or in a TOML file.

    --method stars:model=other.gguf,alpha=0.3

    [[arm]]
    name = "other, gentle"
    method = "stars"
    model = "other.gguf"
    alpha = 0.3

A weighted reward may follow `reward=`: `stars:reward=harmless=0.7,helpful=0.3,alpha=0.3`. Files
whose names hold a comma are for the TOML file. Paths are those of the working directory.
"""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stars_local.config import parse_file
from stars_local.core.errors import ConfigError, UsageError
from stars_local.core.methods.registry import MethodParams, parse_method
from stars_local.settings import OPTIONS, read_value

FILES = ("model", "lora", "reward")
# every arm has the run's prompts and its randomness: these are no arm's own
_OF_THE_RUN = ("seed", "system")
_TABLE = "arm"
_KEYS = ("name", *(key for key in OPTIONS if key not in _OF_THE_RUN))
_PARAMS = {field.name for field in dataclasses.fields(MethodParams)}


@dataclass(frozen=True, slots=True)
class ArmSpec:
    """An arm. values: its own options by name, which outweigh the run's; where: it stands,
    empty for a flag."""

    name: str
    method: str
    values: Mapping[str, Any]
    where: str = ""


def parse_arm(text: str) -> ArmSpec:
    """Read `NAME[:KEY=VALUE,...]`, where model, lora and reward may stand among the method's
    parameters; the arm is named as it is written. Raises UsageError."""
    name, _, rest = text.partition(":")
    values: dict[str, str] = {}
    own: list[str] = []
    is_reward = False
    for item in filter(None, rest.split(",")):
        key, equals, value = item.partition("=")
        key = key.strip()
        if is_reward and "=" in values["reward"] and key not in {*_PARAMS, *OPTIONS}:
            values["reward"] += f",{item}"
            continue
        is_reward = key == "reward"
        if key not in FILES:
            own.append(item)
            continue
        if key in values:
            raise UsageError(f"method {text!r}: {key} is given twice")
        if not equals or not value:
            raise UsageError(f"method {text!r}: {key} has no value: give {OPTIONS[key].metavar}")
        values[key] = value
    return ArmSpec(text, f"{name}:{','.join(own)}" if own else name, values)


def read_arms(path: Path) -> list[ArmSpec]:
    """The arms of a file, in its order. Raises ConfigError that names the arm and the key, of an
    unknown key with the nearest right one."""
    found = parse_file(path)
    wrong = next((key for key in found if key != _TABLE), None)
    if wrong is not None:
        raise ConfigError(f"{path}: unknown key {str(wrong)[:60]!r}: begin each arm with [[arm]]")
    tables = found.get(_TABLE)
    if not isinstance(tables, list) or not tables:
        raise ConfigError(f"{path}: no arms: begin each with [[arm]]")
    return [_read_arm(path, number, table) for number, table in enumerate(tables, start=1)]


def _read_arm(path: Path, number: int, table: object) -> ArmSpec:
    where = f"{path}: arm {number}"
    if not isinstance(table, Mapping):
        raise ConfigError(f"{where} is no table: begin each arm with [[arm]]")
    given: dict[str, object] = {}
    for key, raw in table.items():
        name = str(key).replace("-", "_")
        if name in _OF_THE_RUN:
            raise ConfigError(f"{where}: {name} belongs to the whole run: give --{name}")
        if name not in _KEYS:
            near = difflib.get_close_matches(name[:60], _KEYS, n=1, cutoff=0.0)[0]
            raise ConfigError(f"{where}: unknown key {name[:60]!r}: the nearest is {near!r}")
        if name in given:
            raise ConfigError(f"{where}: {name} stands there twice")
        given[name] = raw
    title, method = given.pop("name", None), given.pop("method", None)
    if not isinstance(title, str) or not title.strip():
        raise ConfigError(f"{where}: no name: give name = 'TEXT', which the results show")
    where = f"{path}: arm {title[:60]!r}"
    if not isinstance(method, str):
        raise ConfigError(f"{where}: no method: give method = 'NAME[:PARAM=VALUE,...]'")
    try:
        parse_method(method)
        values = {key: read_value(key, raw, key) for key, raw in given.items()}
    except UsageError as error:
        raise ConfigError(f"{where}: {error}") from error
    return ArmSpec(title, method, values, where)
