"""Calibrating a pair of open models: plans, prompts, and the folder the answer goes to.

Between the measuring (`stars_local.calibration.calibrator`), which knows ports only, and those who
want a calibration: the command `calibrate`, and `chat` and `generate` where none is at hand.
"""

from __future__ import annotations

import datetime
import platform
from collections.abc import Sequence
from dataclasses import replace
from importlib import metadata

from stars_local.calibration.calibrator import Calibrator, Plan, calibrate_pair
from stars_local.calibration.quick import ANSWER_TOKENS, N_PROMPTS
from stars_local.calibration.records import Calibration, CalibrationKey, write_calibration
from stars_local.calibration.store import user_folder
from stars_local.core.ports import LanguageModel, RewardModel
from stars_local.core.progress import OnProgress
from stars_local.core.records import Prompt
from stars_local.data import CALIBRATION, shipped_prompts


def quick_plan(plan: Plan) -> Plan:
    """The same aim on few prompts and shorter answers: under a minute. Short ones: more rounds."""
    tokens = min(plan.max_new_tokens, ANSWER_TOKENS)
    return replace(plan, n_rounds=min(4, max(2, 128 // tokens)), max_new_tokens=tokens)


def calibrate(
    lm: LanguageModel,
    rm: RewardModel,
    key: CalibrationKey,
    plan: Plan,
    prompts: Sequence[Prompt],
    checks: Sequence[Prompt],
    on_progress: OnProgress,
    *,
    quick: bool = False,
) -> Calibration:
    """Measure, check and describe; nothing is written."""
    made = {
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "base_model": lm.info.name,
        "quant": lm.info.quant,
        "reward_model": rm.info.name,
        "seed": str(plan.seed),
        "temperature": str(plan.sampling.temperature),
        "top_k": str(plan.sampling.top_k),
        "stars-local": metadata.version("stars-local"),
        "llama-cpp-python": metadata.version("llama-cpp-python"),
        "system": f"{platform.system()} {platform.machine()}",
    }
    calibrator = Calibrator(lm, rm, plan, on_progress)
    return calibrate_pair(calibrator, key, prompts, checks, quick=quick, made=made)


def calibrate_quickly(
    lm: LanguageModel,
    rm: RewardModel,
    key: CalibrationKey,
    plan: Plan,
    on_progress: OnProgress,
    n_prompts: int = N_PROMPTS,
) -> Calibration:
    """A calibration from few shipped prompts, kept in this machine's folder."""
    prompts = shipped_prompts(CALIBRATION)[:n_prompts]
    found = calibrate(lm, rm, key, quick_plan(plan), prompts, (), on_progress, quick=True)
    write_calibration(found, user_folder() / key.file_name)
    return found
