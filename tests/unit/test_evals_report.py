"""Summary and report: the numbers are those of the lines; the page is whole and safe."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from stars_local.core.errors import DataError
from stars_local.evals.records import RESULTS, read_lines, to_text
from stars_local.evals.report import write_report
from stars_local.evals.runner import run
from stars_local.evals.summary import summarise
from tests.support.toy_runs import plan


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("run")
    list(run(plan(12), made))
    return made


def test_the_summary_counts_what_the_lines_say(folder: Path) -> None:
    lines = list(read_lines(folder / RESULTS))
    summary = summarise(lines, {"p0": {"label": "safe"}})
    for name, arm in summary["arms"].items():
        mine = [line for line in lines if line["arm"] == name]
        assert arm["n"] == 12
        kept = sum(line["n_kept_tokens"] for line in mine)
        decoded = sum(line["n_decoded_tokens"] for line in mine)
        assert arm["decoded_per_kept"]["value"] == pytest.approx(decoded / kept)
        n_segments = sum(len(line["segments"]) for line in mine)
        assert sum(arm["attempts_distribution"].values()) == n_segments
        assert arm["refusals"]["safe"]["n"] == 1
    assert summary["arms"]["vanilla"]["attempts"]["value"] == 1.0
    assert summary["arms"]["best-of-n"]["attempts"]["value"] == 3.0
    assert {(p["first"], p["second"]) for p in summary["pairs"]} == {
        ("stars", "vanilla"),
        ("best-of-n", "vanilla"),
        ("best-of-n", "stars"),
    }
    for pair in summary["pairs"]:
        if pair["second"] == "vanilla":
            assert pair["win_rate"]["value"] > 0.5, "steering raises its own reward"
    json.dumps(summary, allow_nan=False)


class _Balanced(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)


def test_the_page_needs_nothing_else_and_runs_nothing(folder: Path, tmp_path: Path) -> None:
    evil = "<script>alert(1)</script> & <img src=http://x/y>"
    other = tmp_path / "run"
    list(run(plan(12), other))
    lines = list(read_lines(other / RESULTS))
    for line in lines:
        line["text"] = line["attempts"][0]["text"] = evil
    (other / RESULTS).write_text("".join(map(to_text, lines)))
    page, markdown, data = write_report([other], tmp_path / "out")
    text = page.read_text()
    parser = _Balanced()
    parser.feed(text)
    assert parser.tags.count("svg") == 6
    assert not {"script", "img", "link", "iframe"} & set(parser.tags)
    assert not re.findall(r"(?:src|href)=['\"](?!#)", text.replace('xlink:href="#', ""))
    assert "&lt;script&gt;" in text
    assert "| vanilla | 12 |" in markdown.read_text()
    assert set(json.loads(data.read_text())["summary"]["arms"]) == {"vanilla", "stars", "best-of-n"}


def test_a_report_of_nothing_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError):
        write_report([tmp_path], tmp_path)
