"""A process that runs the commands, and can be forbidden every socket: `python -m` this module.

    python -m tests.support.silence FOLDER [--forbid] [--break python|native]

Each command's exit code goes to stdout as a line of JSON. `--forbid` raises in Python code and
kills the process in native code (and in its children) where a socket is made; `--break` makes
one, to see that it is noticed. Native code may make local ones (AF_UNIX): the C library asks a
daemon for users' names by them, and they reach no other machine.
"""

from __future__ import annotations

import ctypes
import json
import os
import platform
import shutil
import socket
import struct
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

# socket(2) by machine, and the audit architecture of its system calls
_SYSTEM_CALLS = {"x86_64": (41, 0xC000003E), "aarch64": (198, 0xC00000B7)}
_PR_SET_SECCOMP, _PR_SET_NO_NEW_PRIVS, _MODE_FILTER = 22, 38, 2
# what a library may take for a test, in which it is more silent than elsewhere
SUPPRESS = ("CI", "GITHUB_ACTIONS", "TF_BUILD", "GITLAB_CI", "PYTEST_CURRENT_TEST")
_LOAD, _EQUAL, _RETURN = 0x20, 0x15, 0x06
_KILL, _ALLOW = 0x80000000, 0x7FFF0000


def _audit(event: str, arguments: tuple[Any, ...]) -> None:
    if event.startswith("socket.") and event != "socket.gethostname":
        raise PermissionError(f"a socket: {event} {arguments!r}")


def forbid_sockets() -> bool:
    """From now on no socket can be made; whether native code is covered too."""
    sys.addaudithook(_audit)
    known = _SYSTEM_CALLS.get(platform.machine())
    if sys.platform != "linux" or known is None:
        return False
    call, architecture = known
    program = [  # (code, where true, where false, value); offsets as in struct seccomp_data
        (_LOAD, 0, 0, 4),
        (_EQUAL, 0, 5, architecture),
        (_LOAD, 0, 0, 0),
        (_EQUAL, 0, 3, call),
        (_LOAD, 0, 0, 16),  # the family: who asks for a user's name may ask a local daemon
        (_EQUAL, 1, 0, socket.AF_UNIX),
        (_RETURN, 0, 0, _KILL),
        (_RETURN, 0, 0, _ALLOW),
    ]
    code = b"".join(struct.pack("HBBI", *each) for each in program)
    buffer = ctypes.create_string_buffer(code)
    head = ctypes.create_string_buffer(
        struct.pack("HxxxxxxP", len(program), ctypes.addressof(buffer))
    )
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl.argtypes = [ctypes.c_int, *[ctypes.c_ulong] * 4]
    return (
        libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0
        and libc.prctl(_PR_SET_SECCOMP, _MODE_FILTER, ctypes.addressof(head), 0, 0) == 0
    )


def pack(folder: Path) -> list[list[str]]:
    """Write what the other machine has; the commands that carry it here, in one bundle."""
    from tests.support.tiny_gguf import write_tiny
    from tests.support.tiny_reward import write_tiny_reward

    there = folder / "there"
    there.mkdir()
    bundle, held = str(folder / "stars.tar"), []
    for seed, name in enumerate(("tiny", "source")):
        held += ["--model", str(write_tiny(there / f"{name}.gguf", "llama", seed=seed))]
    held += ["--reward", str(write_tiny_reward(there / "tiny-reward"))]
    for name, n in (("prompts", 24), ("checks", 8)):
        path = there / f"{name}.jsonl"
        path.write_text("".join(f'{{"prompt": "{name} {i}"}}\n' for i in range(n)))
        held += ["--prompts", str(path)]
    return [
        ["bundle", "create", bundle, *held],
        ["bundle", "verify", bundle],
        ["bundle", "install", bundle],
    ]


def commands(folder: Path) -> Iterator[tuple[list[str], str]]:
    """Arguments and standard input of everything that a person does after the bundle came: by
    the names that its models have now, for nothing else is left of them."""
    models = Path(os.environ["STARS_LOCAL_MODELS_DIR"])
    sets = Path(os.environ["XDG_DATA_HOME"]) / "stars-local" / "prompts"
    prompts, checks = str(sets / "prompts.jsonl"), str(sets / "checks.jsonl")
    small = [
        *("--model", "tiny", "--n-ctx", "256", "--threads", "1", "--seed", "0"),
        *("--max-new-tokens", "8", "--segment-size", "4"),
    ]
    steer = [*("--reward", "tiny-reward"), "--width", "2", "--provider", "cpu"]
    given = ["--alpha", "0.5", "--beta", "0.5", "--reward-threshold", "0.5"]
    yield ["--version"], ""
    yield ["generate", "hello", "--method", "vanilla", *small], ""
    yield ["generate", "hello", "--json", *small, *steer, *given], ""
    yield ["chat", *small, *steer, *given], "hello\n/why\n/save c.jsonl\n/retry\n"
    yield ["chat", "--resume", *small, *steer, *given], "again\n/load c.jsonl\n"
    out = ["--prompts", prompts, "--out", str(folder / "run")]
    yield ["eval", *out, "--limit", "3", *small, *steer, *given], ""
    varied = ["--prompts", prompts, "--out", str(folder / "swept"), "--vary", "alpha=0.1"]
    yield ["sweep", *varied, "--limit", "2", *small, *steer, *given], ""
    yield ["report", str(folder / "run"), "--out", str(folder / "page")], ""
    pair = ["--prompts", prompts, "--check-prompts", checks]
    calibration = ["--out", str(folder / "c.json"), "--attempts", "2", "--slots", "4"]
    yield ["calibrate", *pair, *calibration, *small, *steer], ""
    yield ["models", "import", str(models / "tiny.gguf"), "--models-dir", str(folder / "more")], ""
    yield ["models", "verify"], ""
    yield ["models", "list"], ""
    yield ["models", "licences"], ""
    yield ["models", "info", "tiny"], ""
    yield ["reward", "check", "tiny-reward"], ""
    yield ["doctor", "--model", "tiny", "--reward", "tiny-reward"], ""
    made = ["--types", "Q8_0", "--threads", "1", "--out", str(folder / "quants")]
    yield ["quants", "make", "source", *made], ""
    files = [str(models / "source.gguf"), str(folder / "quants" / "source.Q8_0.gguf")]
    into = ["--out", str(folder / "compared"), "--prompts", prompts, "--cohort", "3"]
    of_source = small[2:]
    yield ["quants", "compare", *files, "--limit", "3", *into, *of_source, *steer, *given], ""
    timed = ["--model", "tiny", "--reward", "tiny-reward", "--only", "rollback"]
    yield ["bench", *timed, "--runs", "1", "--threads", "1"], ""


def run(app: Any, args: list[str], typed: str) -> bool:
    """Run one command and tell how it ended; whether that was badly."""
    from typer.testing import CliRunner

    result = CliRunner().invoke(app, args, input=typed)
    said = "" if result.exit_code == 0 else f"{result.stderr} {result.exception!r}"
    print(json.dumps({"command": args, "code": result.exit_code, "said": said}), flush=True)
    return result.exit_code != 0


def main(arguments: list[str]) -> int:
    """Run all; 0 if every command ended well."""
    folder = Path(arguments[0])
    os.chdir(folder)
    for name in ("XDG_DATA_HOME", "XDG_CACHE_HOME", "HOME"):
        os.environ[name] = str(folder / name.lower())
    os.environ["STARS_LOCAL_MODELS_DIR"] = str(folder / "installed")
    for name in SUPPRESS:
        os.environ.pop(name, None)
    from stars_local.cli.app import app

    packing = pack(folder)
    if "--forbid" in arguments and not forbid_sockets():
        print(json.dumps({"note": "native code is not covered on this system"}))
    if "python" in arguments:
        socket.create_server(("127.0.0.1", 0)).close()
    elif "native" in arguments:
        ctypes.CDLL(None).socket(socket.AF_INET, socket.SOCK_STREAM, 0)
    failed = sum(run(app, args, "") for args in packing)
    shutil.rmtree(folder / "there")
    failed += sum(run(app, args, typed) for args, typed in commands(folder))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
