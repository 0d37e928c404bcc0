"""docs/cli.md says what the code does."""

from __future__ import annotations

from pathlib import Path

from tests.support.option_table import option_table
from tests.unit.test_output import KEYS

PAGE = (Path(__file__).parents[2] / "docs" / "cli.md").read_text(encoding="utf-8")


def test_the_table_of_options_is_fresh() -> None:
    fresh = option_table()
    assert fresh in PAGE, "print it anew: python -m tests.support.option_table"


def test_every_key_of_the_object_is_explained() -> None:
    rows = [line.split("|")[1] for line in PAGE.splitlines() if line.startswith("| `")]
    explained = " ".join(rows)
    assert [key for key in KEYS if f"`{key}`" not in explained] == []
