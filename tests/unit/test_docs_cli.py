"""docs/cli.md says what the code does."""

from __future__ import annotations

import inspect
from pathlib import Path

from stars_local.cli.eval import evaluate
from stars_local.cli.sweep import sweep
from stars_local.evals.sweep import FACTORS, Base, default_factors
from tests.support.option_table import option_table
from tests.unit.test_output import KEYS

PAGE = (Path(__file__).parents[2] / "docs" / "cli.md").read_text(encoding="utf-8")


def test_the_table_of_options_is_fresh() -> None:
    fresh = option_table()
    assert fresh in PAGE, "print it anew: python -m tests.support.option_table"


def test_a_sweep_is_told_with_its_own_flags_and_all_that_it_varies() -> None:
    section = PAGE.split("\n## `stars-local sweep`\n")[1].split("\n## ")[0]
    shared = set(inspect.signature(evaluate).parameters)
    flags = [name for name in inspect.signature(sweep).parameters if name not in shared]
    assert flags == ["vary", "grid", "recalibrate"]
    assert [name for name in flags if f"--{name}" not in section] == []
    rows = [line.split("|") for line in section.splitlines() if line.startswith("| `")]
    told = {
        name.strip(" `"): values.split(":")[0].strip()
        for row in rows
        for name, values in zip(row[1].split(";"), row[2].split(";"), strict=True)
    }
    factors = default_factors(Base("stars", 1.0, 1.0, 1.0, has_quantiles=True))
    assert set(told) == {*FACTORS, *factors}
    assert {name: told[name] for name in FACTORS} == {k: ", ".join(v) for k, v in FACTORS.items()}


def test_every_key_of_the_object_is_explained() -> None:
    rows = [line.split("|")[1] for line in PAGE.splitlines() if line.startswith("| `")]
    explained = " ".join(rows)
    assert [key for key in KEYS if f"`{key}`" not in explained] == []
