"""Summary and report: the numbers are those of the lines; the page is whole and safe."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from stars_local.cli.eval import show_summary
from stars_local.core.errors import DataError
from stars_local.evals.records import RESULTS, read_lines, to_text
from stars_local.evals.report import write_report
from stars_local.evals.runner import run
from stars_local.evals.summary import summarise
from stars_local.evals.verdicts import Verdict, append_verdict
from tests.support.toy_runs import arm, plan

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("run")
    list(run(plan(12), made))
    return made


def test_the_summary_counts_what_the_lines_say(folder: Path) -> None:
    lines = list(read_lines(folder / RESULTS))
    summary = summarise(lines, {"p0": {"label": "safe"}})
    for name, found in summary["arms"].items():
        mine = [line for line in lines if line["arm"] == name]
        assert found["n"] == 12
        kept = sum(line["n_kept_tokens"] for line in mine)
        decoded = sum(line["n_decoded_tokens"] for line in mine)
        assert found["decoded_per_kept"]["value"] == pytest.approx(decoded / kept)
        n_segments = sum(len(line["segments"]) for line in mine)
        assert sum(found["attempts_distribution"].values()) == n_segments
        assert found["refusals"]["safe"]["n"] == 1
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
    assert "| arm | n | steering (optimised) | other | decoded | RM tokens |" in table
    assert "| arm | refusals (all) | refusals (safe) | perplexity base | words |" in table
    (row,) = [line for line in table.splitlines() if "| llm x |" in line]
    cells = [cell.strip() for cell in row.split("|")]
    assert cells[1:5] == ["stars over vanilla", "llm x", "3", "100 % [100, 100]"]
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


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str, dict[str, Any]]:
    """The page, the Markdown and the object of a judged run."""
    out = tmp_path_factory.mktemp("out")
    page, markdown, data = write_report([judged(out, "a")], out)
    return page.read_text(), markdown.read_text(), json.loads(data.read_text())


def test_all_three_forms_hold_the_same(written: tuple[str, str, dict[str, Any]]) -> None:
    page, markdown, data = written
    titles = ("Run", "Arms", "Pairs against vanilla", "Cost", "Texts", "Attempts")
    more = ("By segment position", "Reward by length", "By difficulty", "Other pairs", "Examples")
    places = [markdown.index(f"\n## {title}\n") for title in (*titles, *more)]
    assert places == sorted(places)
    assert all(f"<h2>{title}</h2>" in page for title in (*titles, *more))
    assert {"notes", "summary", "manifests", "examples"} == set(data)
    assert [each["prompt_id"] for each in data["examples"]] == ["p0", "p1", "p2", "p3"]
    for example in data["examples"]:
        assert [line["arm"] for line in example["answers"]] == ["vanilla", "stars", "best-of-n"]
        for line in example["answers"]:
            assert f"<pre>{line['text']}</pre>" in markdown
            last = line["attempts"][-1]
            assert f"attempt {last['index'] + 1} {last['outcome']}" in markdown
            assert f"attempt {last['index'] + 1} {last['outcome']}" in page
    for note in data["notes"]:
        assert f"- {note}\n" in markdown


def test_the_steering_reward_never_stands_unmarked(
    written: tuple[str, str, dict[str, Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    page, markdown, data = written
    show_summary(data["summary"])
    shown = capsys.readouterr().out
    assert "stars over vanilla by steering (optimised): " in shown
    assert "over vanilla by other: " in shown
    assert not re.search(r"by (refusal|logprob)", shown), "neither more nor fewer are a win"
    captions = re.findall("<figcaption>(.*?)</figcaption>", page)
    assert "Reward of kept segments by steering (optimised), by position" in captions
    for text in (shown, "\n".join(captions), markdown):
        assert not re.search(r"\bsteering (?!\(optimised\)|model|reward)", text)


def test_without_a_judge_of_answers_it_is_said_what_tells_quality(tmp_path: Path) -> None:
    made = tmp_path / "run"
    list(run(plan(3), made))
    notes = json.loads(write_report([made], tmp_path)[2].read_text())["notes"]
    assert "No independent judge took part: nothing here tells quality." in notes
    append_verdict(made, Verdict("llm x", "p0", "stars", "vanilla", 1, (1.0, 1.0), "t"))
    notes = json.loads(write_report([made], tmp_path)[2].read_text())["notes"]
    assert any("quality is told by the verdicts of llm x on pairs" in note for note in notes)
    assert not any("took part" in note for note in notes)


def test_the_baseline_comes_first_and_many_other_pairs_are_folded(tmp_path: Path) -> None:
    made = tmp_path / "run"
    again = [replace(arm("stars", seed=k), name=f"stars-{k}") for k in range(8)]
    list(run(plan(2, arms=(*again, arm("vanilla"))), made))
    append_verdict(made, Verdict("llm x", "p0", "vanilla", "stars-0", -1, (-1.0, -1.0), "t"))
    page, markdown, data = write_report([made], tmp_path)
    pairs = json.loads(data.read_text())["summary"]["pairs"]
    assert all(pair["first"] != "vanilla" for pair in pairs)
    assert pairs[-1]["first"] == "stars-0"
    assert pairs[-1]["win"] == 1.0, "who is turned round keeps its win"
    text = markdown.read_text()
    first, other = text.split("## Pairs against vanilla")[1].split("## Cost")[0], "## Other pairs"
    assert "<details>" not in first
    assert sum(" over vanilla |" in row for row in first.splitlines()) == 9
    assert text.split(other)[1].split("</details>")[0].count(" over stars-") == 28
    assert "<summary>28 rows</summary>" in page.read_text()


def test_progress_is_told_of_every_stage(tmp_path: Path) -> None:
    told: list[tuple[str, int, int]] = []
    made = judged(tmp_path, "a")
    write_report([made], tmp_path, lambda *stage: told.append(stage))
    ended = [stage for stage, done, total in told if done == total]
    assert ended == ["reading runs", "summing up arms", "comparing arms", "drawing"]


def test_text_of_models_is_no_markup_of_the_markdown(tmp_path: Path) -> None:
    made = tmp_path / "run"
    evil = "</pre></details><script>alert(1)</script>\n\n# not a title"
    lines = [{**each, "text": evil} for each in run(plan(2), made)]
    (made / RESULTS).write_text("".join(map(to_text, lines)))
    text = write_report([made], tmp_path)[1].read_text()
    assert "<script>" not in text
    assert text.count("<details>") == text.count("</details>") == 6
    assert text.count("<pre>") == text.count("</pre>")
