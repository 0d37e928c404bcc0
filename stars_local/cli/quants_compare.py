"""`stars-local quants compare`: what each file lost, and what decoding gives back."""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from stars_local.cli.models_shared import AsJson
from stars_local.cli.options import with_settings
from stars_local.config import Configured
from stars_local.core.errors import ModelError, StarsError, UsageError

if TYPE_CHECKING:
    from stars_local.core.ports import RewardModel
    from stars_local.evals.prompts import PromptSet
    from stars_local.evals.records import Line

Say = Callable[[str, int, int], None]


@dataclass(frozen=True, slots=True)
class _Run:
    """What is the same for every file."""

    configured: Configured
    out: Path
    found: PromptSet
    labels: dict[str, dict[str, str]]
    judges: dict[str, RewardModel]
    text: str
    window: int
    max_windows: int
    cohort: int


@with_settings
def compare_command(
    configured: Configured,
    reference: Annotated[Path, typer.Argument(help="The file that the others came from.")],
    files: Annotated[list[Path], typer.Argument(help="The files to compare with it.")],
    out: Annotated[Path, typer.Option(help="The folder of the run; give it again to go on.")],
    prompts: Annotated[
        Path | None, typer.Option(help="Prompts. Default: shipped ones of our own writing.")
    ] = None,
    limit: Annotated[int | None, typer.Option(help="Most prompts.", min=3)] = None,
    judge: Annotated[
        list[str] | None, typer.Option(metavar="reward:DIR", help="An independent judge.")
    ] = None,
    text: Annotated[
        Path | None, typer.Option(help="Text for perplexity and KL. Default: a shipped one.")
    ] = None,
    window: Annotated[int, typer.Option(help="Tokens of a window.", min=8, max=512)] = 256,
    windows: Annotated[int, typer.Option(help="Most windows.", min=2)] = 40,
    cohort: Annotated[int, typer.Option(help="Prompts drawn together.", min=1, max=80)] = 8,
    as_json: AsJson = False,
) -> None:
    """Compare quantised files with their reference: fidelity, alignment, and what STARS restores.

    Goes on where it was stopped. A file that fails is left out, and the exit code is 1.
    """
    from stars_local.cli.judges import open_judges
    from stars_local.cli.progress import stages
    from stars_local.data import CHECK, prompts_path, reference_text, shipped_kinds
    from stars_local.evals.prompts import read_prompts
    from stars_local.evals.records import write_atomically
    from stars_local.quants.report import write_report
    from stars_local.quants.rows import advice

    source = prompts_path(CHECK) if prompts is None else prompts
    found = read_prompts(source, limit=limit, system=configured.settings.system)
    if prompts is None:
        labels = {key: {"label": kind} for key, kind in shipped_kinds(CHECK).items()}
    else:
        labels = {key: dict(each) for key, each in found.labels.items()}
    given = reference_text() if text is None else _read(text)
    wrong = next((each for each in judge or () if not each.startswith("reward:")), None)
    if wrong is not None:
        raise UsageError(f"--judge {wrong}: give reward:DIR, a folder with a reward model")
    judges = open_judges(judge or (), (), 0).single
    if not judges:
        print(
            "stars-local: no --judge: quality is told by refusal rules and the steering reward, "
            "which STARS optimises",
            file=sys.stderr,
        )
    run = _Run(configured, out, found, labels, judges, given, window, windows, cohort)
    with stages() as say:
        rows = _rows(run, reference, files, say)
    name = next(iter(judges), "steering")
    result = {"files": rows, "judge": name, "advice": advice(rows, name)}
    write_atomically(out / "comparison.json", json.dumps(result, indent=1, allow_nan=False) + "\n")
    write_report(result, out)
    if as_json:
        typer.echo(json.dumps(result, allow_nan=False))
    else:
        _show(result, out)
    failed = [row for row in rows if "error" in row]
    if failed:
        raise StarsError(
            f"{len(failed)} of {len(rows)} files failed, the first is {failed[0]['name']}: "
            f"{failed[0]['error']}"
        )


def _rows(run: _Run, reference: Path, files: Sequence[Path], say: Say) -> list[dict[str, Any]]:
    """A row a file, the reference's first; only one file and the reference are ever open."""
    from stars_local.llama.gguf_check import check_gguf

    for path in (reference, *files):
        if check_gguf(path).integer("split.count") > 1:
            raise ModelError(f"{path} is one part of several: join them first")
    fixed: list[Any] = []
    base_lines, first = _row(run, reference, reference, None, fixed, say)
    rows = [first]
    for path in files:
        try:
            rows.append(_row(run, reference, path, base_lines, fixed, say)[1])
        except StarsError as error:
            if error.exit_code == 2:
                raise
            rows.append({"name": path.stem, "error": str(error)})
    return rows


def _row(
    run: _Run, reference: Path, path: Path, base: list[Line] | None, fixed: list[Any], say: Say
) -> tuple[list[Line], dict[str, Any]]:
    from stars_local.core.files import sha256_of
    from stars_local.quants.listing import list_file
    from stars_local.quants.rows import answers_row

    listing, sha256 = list_file(path), sha256_of(path)
    fidelity = _fidelity(run, reference, path, sha256, say)
    lines = _answers(run, path, sha256, base is None, fixed, say)
    ours = lines if base is None else base
    kl = fidelity.pop("kl")
    return lines, {
        "name": path.stem,
        "sha256": sha256,
        **{key: value for key, value in listing.as_json().items() if key != "path"},
        **fidelity,
        "kl": kl,
        **answers_row(lines, ours, run.labels),
    }


def _fidelity(run: _Run, reference: Path, path: Path, sha256: str, say: Say) -> dict[str, Any]:
    """Measured once, and kept in the folder of the run."""
    import hashlib

    from stars_local.core.files import sha256_of
    from stars_local.evals.records import write_atomically
    from stars_local.llama.logits import LogitsModel
    from stars_local.quants.fidelity import measure
    from stars_local.quants.rows import plain

    about = [sha256_of(reference), sha256, run.text, str(run.window), str(run.max_windows)]
    key = hashlib.sha256("\n".join(about).encode()).hexdigest()[:16]
    kept = run.out / f"fidelity-{key}.json"
    if kept.exists():
        known: dict[str, Any] = json.loads(kept.read_text(encoding="utf-8"))
        return known
    threads = run.configured.settings.threads
    n_threads = 0 if threads is None else threads
    with (
        LogitsModel(reference, window=run.window, n_threads=n_threads) as ours,
        LogitsModel(path, window=run.window, n_threads=n_threads) as theirs,
    ):
        found = measure(
            ours,
            theirs,
            run.text,
            window=run.window,
            max_windows=run.max_windows,
            on_window=lambda done, total: say(f"{path.stem} fidelity", done, total),
        )
    row: dict[str, Any] = plain(found.as_json())
    run.out.mkdir(parents=True, exist_ok=True)
    write_atomically(kept, json.dumps(row) + "\n")
    return row


def _answers(
    run: _Run, path: Path, sha256: str, is_reference: bool, fixed: list[Any], say: Say
) -> list[Line]:
    """Draw what is missing of a file's arms; `fixed` takes the reference's thresholds."""
    from stars_local import arms
    from stars_local.cli.thresholds import thresholds_for
    from stars_local.evals.runner import run as draw
    from stars_local.quants.rows import APART, OWN, STARS, VANILLA

    settings = run.configured.settings
    seed = 0 if settings.seed is None else settings.seed
    named = arms.arm_settings(run.configured, [VANILLA, STARS])
    named = {k: dataclasses.replace(v, model=str(path)) for k, v in named.items()}
    opened = arms.Opened(run.cohort)
    try:
        if not fixed:
            fixed.append(thresholds_for(named[STARS], opened.get(named[STARS])))
        made = [
            arms.make_arm(VANILLA, named[VANILLA], opened, thresholds_for, seed),
            arms.make_arm(STARS, named[STARS], opened, lambda *_: fixed[0], seed),
        ]
        own = thresholds_for(named[STARS], opened.get(named[STARS]))
        if own != fixed[0]:  # the reference's own, or thresholds given by hand
            made.append(arms.make_arm(OWN, named[STARS], opened, lambda *_: own, seed))
        if not is_reference:
            made.append(arms.make_arm(APART, named[VANILLA], opened, thresholds_for, seed + 1))
        steering = opened.get(named[STARS]).scoring
        about = {"prompts": run.found.sha256, "steering": steering.info.axis}
        plan = arms.make_plan(made, run.found.prompts, steering, run.judges, run.cohort, about)
        total = len(made) * len(run.found.prompts)
        lines: list[Line] = []
        for line in draw(plan, run.out / f"{path.stem}-{sha256[:8]}"):
            lines.append(line)
            say(f"{path.stem} answers", len(lines), total)
        return lines
    finally:
        opened.close()


def _read(path: Path) -> str:
    from stars_local.core.errors import DataError

    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot read the text: {error}") from error


def _show(result: dict[str, Any], out: Path) -> None:
    for row in result["files"]:
        if "error" in row:
            typer.echo(f"{row['name']}: failed: {row['error']}")
            continue
        kl = row["kl"]["mean"]["value"]
        parts = [f"{row['name']}: {row['bpw']:.2f} bits/weight", f"ppl {row['ppl']['value']:.3f}"]
        parts.append(f"KL {kl:.4f}")
        for arm in ("vanilla", "stars", "stars-own"):
            if arm in row:
                mean = row[arm]["rewards"][result["judge"]]["value"]
                parts.append(f"{arm} {'–' if mean is None else f'{mean:.3f}'}")
        typer.echo("  ".join(parts))
    typer.echo(result["advice"])
    typer.echo(f"report: {out / 'report.html'}")
