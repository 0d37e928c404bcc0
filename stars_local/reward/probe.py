"""Try a model file in a child process before this one loads it.

An ONNX file or a tokenizer from elsewhere may crash the native code that parses it, and take
the whole process along. A child that only loads them and runs two tiny batches finds out; its
verdict is remembered by the files' SHA-256 and the versions that read them.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import subprocess
import sys
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path

from stars_local.core.errors import RewardError, StarsError

_PACKAGE_ROOT = Path(__file__).resolve().parents[2]
_PROGRAM = "import sys; from stars_local.reward.probe import main; main(sys.argv[1:])"
_BASE_LIMIT_S = 60.0
_BYTES_PER_S = 20 << 20  # a slow disk and a slow CPU
_SPARE_BYTES = 4 << 30  # for ONNX Runtime and two tiny batches, besides the weights


def probe(model_file: Path, tokenizer_file: Path, digests: Sequence[str]) -> None:
    """RewardError if the files cannot be loaded and run, or if trying to ends the child.

    digests: the SHA-256 of all files of the model. Only success is remembered.
    """
    versions = [_version("onnxruntime-gpu", "onnxruntime"), _version("tokenizers")]
    remembered = _remembered(" ".join([*versions, *digests]))
    if remembered.is_file():
        return
    limit_s = _BASE_LIMIT_S + model_file.stat().st_size / _BYTES_PER_S
    try:
        child = subprocess.run(
            [
                sys.executable,
                "-c",
                _PROGRAM,
                str(model_file.resolve()),
                str(tokenizer_file.resolve()),
            ],
            capture_output=True,
            timeout=limit_s,
            cwd=_PACKAGE_ROOT,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise RewardError(
            f"{model_file}: loading it took over {limit_s:.0f} s in a trial: use another file"
        ) from None
    except OSError as error:
        raise RewardError(f"cannot start a trial of {model_file}: {error}") from error
    try:
        verdict = json.loads(child.stdout.decode(errors="replace").strip().splitlines()[-1])
    except (ValueError, IndexError):
        raise RewardError(
            f"{model_file}: loading it ended a trial process with code {child.returncode}: "
            "the file is damaged or hostile, use another one"
        ) from None
    if verdict is not True:
        raise RewardError(str(verdict))
    # A verdict that cannot be kept costs the next start a second, nothing else
    with contextlib.suppress(OSError):
        remembered.parent.mkdir(parents=True, exist_ok=True)
        remembered.touch()


def main(arguments: Sequence[str]) -> None:
    """The child's program: loads, runs, and prints true or the reason why not, as JSON."""
    model_file, tokenizer_file = map(Path, arguments)
    try:
        _limit_memory(4 * model_file.stat().st_size + _SPARE_BYTES)
        _try_out(model_file, tokenizer_file)
    except StarsError as error:
        print(json.dumps(str(error)))
    except BaseException as error:  # a panic inside the tokenizers library is no Exception
        print(json.dumps(f"{model_file.parent}: {type(error).__name__}: {error}"[:400]))
    else:
        print("true")


def _limit_memory(n_bytes: int) -> None:
    """A graph of a few bytes can ask for all the memory there is."""
    import resource

    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    if hard != resource.RLIM_INFINITY:
        n_bytes = min(n_bytes, hard)
    with contextlib.suppress(ValueError, OSError):  # a system that knows no such limit
        resource.setrlimit(resource.RLIMIT_DATA, (n_bytes, hard))


def _try_out(model_file: Path, tokenizer_file: Path) -> None:
    from stars_local.reward.session import Session
    from stars_local.reward.templates import load_tokenizer, pad_right

    tokenizer = load_tokenizer(tokenizer_file)
    tokenizer.encode("A text, to see.", add_special_tokens=False)
    session = Session(model_file, "cpu", 1)
    for rows in ([[1]], [[1, 2, 3], [1]]):
        session.run(*pad_right(rows, 0))
    if session.takes_past:
        _, new = session.run_on(session.no_past(), *pad_right([[1, 2]], 0))
        session.run_on([each[0] for each in new], *pad_right([[3], [1]], 0))


def _remembered(key: str) -> Path:
    """The file that stands for a good verdict."""
    import platformdirs

    name = hashlib.sha256(key.encode()).hexdigest()
    return Path(platformdirs.user_cache_dir("stars-local")) / "reward-probes" / name


def _version(*packages: str) -> str:
    for package in packages:
        try:
            return f"{package}={metadata.version(package)}"
        except metadata.PackageNotFoundError:
            continue
    return f"{packages[0]}=?"
