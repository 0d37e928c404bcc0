"""Which groups run, how long they say to take, and the JSON that comes out."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from stars_local.bench import groups
from stars_local.bench.figures import Figure, summary
from stars_local.bench.groups import GROUPS, QUICK, Group, choose, n_turns
from stars_local.bench.plan import QUICK_SIZES, Bench, Sizes
from stars_local.cli import bench as command
from stars_local.cli.app import app
from stars_local.core.doubles import TableReward
from stars_local.core.errors import UsageError
from stars_local.llama.memory import anonymous_bytes
from tests.support.language_models import tiny_path
from tests.support.tiny_bench import tiny_bench

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("name", GROUPS)
def test_every_group_runs_and_takes_the_turns_it_announced(name: str, tmp_path: Path) -> None:
    ticks: list[None] = []
    bench = tiny_bench(tmp_path, TableReward({}), lambda: ticks.append(None))
    figures = list(GROUPS[name].figures(bench))
    assert len(ticks) == n_turns(bench, [name])
    assert len({(figure.name, figure.versus) for figure in figures}) == len(figures) > 0
    for figure in figures:
        assert figure.min <= figure.value <= figure.max or "interval" in figure.name
        assert figure.versus or figure.unit not in ("ratio", "share")


def test_groups_are_chosen_once_and_in_the_order_asked() -> None:
    assert choose(["cards", "engine", "cards"], quick=True) == ["cards", "engine"]
    assert choose(None, quick=True) == list(QUICK) == list(GROUPS)[:2]
    assert choose([], quick=False) == list(GROUPS)
    with pytest.raises(UsageError, match="no group 'nothing'"):
        choose(["nothing"], quick=False)


def test_the_help_page_names_every_group() -> None:
    assert ", ".join(GROUPS) == command._GROUPS


def test_a_quick_run_is_a_part_of_a_whole_one() -> None:
    whole = Sizes()
    for name in ("quants", "widths", "policies", "rates"):
        assert set(getattr(QUICK_SIZES, name)) < set(getattr(whole, name))
    assert whole.n_prompt + whole.n_answer == 192
    assert whole.n_lockstep % 15 == whole.n_lockstep % 30 == 0


def test_json_is_one_object_of_the_documented_shape(monkeypatch: pytest.MonkeyPatch) -> None:
    def figures(bench: Bench) -> Iterator[Figure]:
        bench.tick()
        yield summary("speed", "tokens/s", [float(n) for n in range(bench.runs)], "something")

    monkeypatch.setattr(groups, "GROUPS", {"fake": Group("a fake", figures, lambda bench: 1)})
    arguments = ["bench", "--model", str(tiny_path("llama")), "--only", "fake", "--runs", "5"]
    done = CliRunner().invoke(app, [*arguments, "--json"])
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert set(found) == {"machine", "versions", "figures"}
    assert found["figures"] == [
        {
            "name": "speed",
            "value": 2.0,
            "unit": "tokens/s",
            "versus": "something",
            "min": 0.0,
            "max": 4.0,
            "runs": 5,
        }
    ]
    plain = CliRunner().invoke(app, arguments)
    assert "speed of something" in plain.stdout.replace("\n", " ")
    assert "stars-local " in plain.stdout and "{" not in plain.stdout


@pytest.mark.skipif(not Path("/proc/self/status").is_file(), reason="no /proc here")
def test_memory_of_the_process_grows_with_what_it_holds() -> None:
    before = anonymous_bytes()
    held = bytearray(b"x" * 50_000_000)
    after = anonymous_bytes()
    assert before is not None
    assert after is not None
    assert after - before > 40_000_000
    assert len(held) == 50_000_000
