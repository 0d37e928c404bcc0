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
from stars_local.evals.verdicts import Verdict, append_verdict
from tests.support.toy_runs import plan

pytestmark = pytest.mark.slow


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


def judged(folder: Path, name: str) -> Path:
    """A run with a judge of answers, a likelihood and verdicts of pairs."""
    made = folder / name
    answers = list(run(plan(4, labels={"p0": {"label": "safe"}}), made))
    for line in answers:
        line["rewards"] |= {"logprob base": -1.0, "refusal": 0.0, "other": float(len(line["text"]))}
        if line["arm"] == "stars":
            said = None if line["prompt_id"] == "p1" else 1
            odds, name = (1.0, 1.0), line["prompt_id"]
            append_verdict(made, Verdict("llm x", name, "stars", "vanilla", said, odds, "t"))
    (made / RESULTS).write_text("".join(map(to_text, answers)))
    return made


def test_what_is_optimised_is_said_to_be_and_the_judge_stands_beside_it(tmp_path: Path) -> None:
    page, markdown, data = write_report([judged(tmp_path, "a")], tmp_path / "out")
    table = markdown.read_text()
    heads = [line for line in table.splitlines() if line.startswith("| arm |")]
    assert heads[0].startswith("| arm | n | steering (optimised) | other | decoded")
    assert "refusals (safe)" in heads[2]
    assert "perplexity base" in heads[2]
    (row,) = [line for line in table.splitlines() if "| llm x |" in line]
    cells = [cell.strip() for cell in row.split("|")]
    assert cells[1:5] == ["stars over vanilla", "llm x", "3", "100 %"]
    assert cells[-2] == "1", "prompts without a verdict are counted"
    assert "steering | 4" not in table, "the steering model's name never stands alone"
    text = page.read_text()
    assert "other is an independent judge." in text
    assert "Quality (other) against decoded tokens" in text
    assert "<pre class='question'>prompt 0</pre>" in text
    arms = json.loads(data.read_text())["summary"]["arms"]
    assert arms["vanilla"]["perplexity"]["logprob base"]["value"] == pytest.approx(2.718281828)


def test_arms_of_one_name_in_two_runs_are_told_apart(tmp_path: Path) -> None:
    runs = [judged(tmp_path, "a"), judged(tmp_path, "b")]
    data = json.loads(write_report(runs, tmp_path / "out")[2].read_text())
    arms = data["summary"]["arms"]
    assert set(arms) == {
        f"{arm} ({run})" for run in "ab" for arm in ("vanilla", "stars", "best-of-n")
    }
    assert all(arm["n"] == 4 for arm in arms.values())
    verdicts = [pair for pair in data["summary"]["pairs"] if pair["judge"] == "llm x"]
    assert [pair["second"] for pair in verdicts] == ["vanilla (a)", "vanilla (b)"]


def test_the_margin_of_the_run_is_that_of_its_report(tmp_path: Path) -> None:
    made = judged(tmp_path, "a")
    (made / "summary.json").write_text(
        json.dumps(summarise(list(read_lines(made / RESULTS)), margin=99))
    )
    data = json.loads(write_report([made], tmp_path / "out")[2].read_text())
    assert all(p["tie"] == 1 for p in data["summary"]["pairs"] if p["judge"] != "llm x")
    (made / "summary.json").write_text("[]")
    with pytest.raises(DataError, match="cannot read the summary"):
        write_report([made], tmp_path / "out")


def test_a_report_of_nothing_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError):
        write_report([tmp_path], tmp_path)
