"""What a run was made of, as a table: a column a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from stars_local.evals.judges import STEERING
from stars_local.evals.tables import Table

_N_DIGITS = 12  # of a SHA-256
_OPTIONS = ("max_new_tokens", "segment_size", "max_attempts", "temperature", "seed")
Run = Mapping[str, Any]


def run_table(manifests: Mapping[str, Run], n_answers: Mapping[str, int]) -> Table:
    """Models, prompts, settings and machine of each run; rows that no run has are left out.

    n_answers: how many answers there are of each run.
    """
    columns = [_facts(manifest, n_answers[name]) for name, manifest in manifests.items()]
    keys = dict.fromkeys(key for column in columns for key in column)
    rows = [[key, *(column.get(key, "–") for column in columns)] for key in keys]
    return [["run", *manifests], *rows]


def n_wanted(manifest: Run) -> int:
    """How many answers a run has when it is finished."""
    return len(manifest["run"]["prompt_ids"]) * len(manifest["run"]["arms"])


def _facts(manifest: Run, n_answers: int) -> dict[str, str]:
    run = manifest["run"]
    arms: Mapping[str, Run] = run["arms"]
    n_prompts, n_all = len(run["prompt_ids"]), n_wanted(manifest)
    facts = {
        "answers": f"{n_answers} of {n_all}"
        + ("" if n_answers == n_all else ": unfinished, whole cohorts only"),
        "prompts": f"{n_prompts}, file {_digest(run.get('prompts'))}",
        "responses begin with": run.get("prefill", ""),
        "prompts end with": run.get("suffix", ""),
        "turn": _by_arms(arms, "turn"),
        "model": _by_arms({name: _model(params) for name, params in arms.items()}, "model"),
        "steered by": _steering(run),
        "judges": ", ".join(_judge(run, key) for key in ("judges", "judges_of_pairs")).strip(", "),
        "prompts drawn together": str(run["width"]),
    }
    facts |= {key.replace("_", " "): _by_arms(arms, key) for key in _OPTIONS}
    versions = run.get("versions", {})
    facts["versions"] = ", ".join(f"{name} {version}" for name, version in versions.items())
    facts |= {f"machine: {key}": str(value) for key, value in manifest.get("machine", {}).items()}
    return {key: value for key, value in facts.items() if value}


def _digest(sha256: str | None) -> str:
    return "of unrecorded content" if sha256 is None else f"sha256 {sha256[:_N_DIGITS]}"


def _model(params: Run) -> dict[str, str]:
    if "model_sha256" not in params:
        return {}
    adapters = params.get("adapters", "{}")
    digest = _digest(params["model_sha256"])
    return {"model": digest if adapters == "{}" else f"{digest} with {adapters}"}


def _steering(run: Run) -> str:
    rewards = _by_arms(run["arms"], "reward")
    axis, digest = run.get("steering"), _digest(run["judges"].get(STEERING))
    return f"{rewards}{'' if axis is None else f' ({axis})'}, {digest}".strip(", ")


def _judge(run: Run, key: str) -> str:
    words = " of pairs" if key == "judges_of_pairs" else ""
    found: Mapping[str, str] = run.get(key, {})
    others = {name: digest for name, digest in found.items() if name != STEERING}
    return ", ".join(f"{name}{words} ({_digest(digest)})" for name, digest in others.items())


def _by_arms(arms: Mapping[str, Run], key: str) -> str:
    """A value that all arms share, or each with the arms that have it but the commonest."""
    names: dict[str, list[str]] = {}
    for name, params in arms.items():
        if params.get(key) is not None:
            names.setdefault(str(params[key]), []).append(name)
    groups: Sequence[tuple[str, list[str]]] = sorted(names.items(), key=lambda item: -len(item[1]))
    if not groups:
        return ""
    (first, _), *others = groups
    return "; ".join([first, *(f"{value} ({', '.join(mine)})" for value, mine in others)])
