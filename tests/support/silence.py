"""A process that runs the commands, and can be forbidden every socket: `python -m` this module.

    python -m tests.support.silence FOLDER [--forbid] [--break python|native]

Each command's exit code goes to stdout as a line of JSON. `--forbid` raises in Python code and
kills the process in native code (and in its children) where a socket is made; `--break` makes
one, to see that it is noticed.
"""

from __future__ import annotations

import ctypes
import json
import os
import platform
import socket
import struct
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

# socket(2) by machine, and the audit architecture of its system calls
_SYSTEM_CALLS = {"x86_64": (41, 0xC000003E), "aarch64": (198, 0xC00000B7)}
_PR_SET_SECCOMP, _PR_SET_NO_NEW_PRIVS, _MODE_FILTER = 22, 38, 2
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


def commands(folder: Path) -> Iterator[tuple[list[str], str]]:
    """Arguments and standard input of everything that a person does after the models came."""
    from tests.support.tiny_gguf import write_tiny
    from tests.support.tiny_reward import write_tiny_reward

    model = write_tiny(folder / "tiny.gguf", "llama")
    reward = write_tiny_reward(folder / "tiny-reward")
    prompts, checks = folder / "prompts.jsonl", folder / "checks.jsonl"
    for path, n in ((prompts, 24), (checks, 8)):
        path.write_text("".join(f'{{"prompt": "{path.stem} {i}"}}\n' for i in range(n)))
    small = [
        *("--model", str(model), "--n-ctx", "256", "--threads", "1", "--seed", "0"),
        *("--max-new-tokens", "8", "--segment-size", "4"),
    ]
    steer = [*("--reward", str(reward)), "--width", "2", "--provider", "cpu"]
    given = ["--alpha", "0.5", "--beta", "0.5", "--reward-threshold", "0.5"]
    yield ["--version"], ""
    yield ["generate", "hello", "--method", "vanilla", *small], ""
    yield ["generate", "hello", "--json", *small, *steer, *given], ""
    yield ["chat", *small, *steer, *given], "hello\n/why\n/save c.jsonl\n/retry\n"
    yield ["chat", "--resume", *small, *steer, *given], "again\n/load c.jsonl\n"
    out = ["--prompts", str(prompts), "--out", str(folder / "run")]
    yield ["eval", *out, "--limit", "3", *small, *steer, *given], ""
    yield ["report", str(folder / "run"), "--out", str(folder / "page")], ""
    pair = ["--prompts", str(prompts), "--check-prompts", str(checks)]
    calibration = ["--out", str(folder / "c.json"), "--attempts", "2", "--slots", "4"]
    yield ["calibrate", *pair, *calibration, *small, *steer], ""
    folder_of_models = ["--models-dir", str(folder / "models")]
    yield ["models", "import", str(model), *folder_of_models], ""
    yield ["models", "verify", *folder_of_models], ""
    yield ["models", "list", *folder_of_models], ""
    yield ["models", "info", str(model)], ""
    yield ["reward", "check", str(reward)], ""
    yield ["doctor", "--model", str(model), "--reward", str(reward), *folder_of_models], ""
    source = write_tiny(folder / "source.gguf", "llama")
    made = ["--types", "Q8_0", "--threads", "1", "--out", str(folder / "quants")]
    yield ["quants", "make", str(source), *made], ""
    compared = [str(source), str(folder / "quants" / "source.Q8_0.gguf"), "--limit", "3"]
    into = ["--out", str(folder / "compared"), "--prompts", str(prompts), "--cohort", "3"]
    of_source = small[2:]
    yield ["quants", "compare", *compared, *into, *of_source, *steer, *given], ""
    bundle, installed = str(folder / "stars.tar"), folder / "installed"
    held = ["--model", str(model), "--reward", str(reward)]
    yield ["bundle", "create", bundle, *held], ""
    yield ["bundle", "verify", bundle], ""
    yield ["bundle", "install", bundle, "--models-dir", str(installed)], ""
    from_bundle = [*small, *steer, *given]
    from_bundle[1] = str(installed / "tiny.gguf")
    from_bundle[from_bundle.index("--reward") + 1] = str(installed / "tiny-reward")
    yield ["generate", "hello", *from_bundle], ""
    timed = ["--model", str(model), "--reward", str(reward), "--only", "rollback"]
    yield ["bench", *timed, "--runs", "1", "--threads", "1"], ""


def main(arguments: list[str]) -> int:
    """Run all; 0 if every command ended well."""
    folder = Path(arguments[0])
    os.chdir(folder)
    for name in ("XDG_DATA_HOME", "XDG_CACHE_HOME", "HOME"):
        os.environ[name] = str(folder / name.lower())
    from typer.testing import CliRunner

    from stars_local.cli.app import app

    prepared = list(commands(folder))
    if "--forbid" in arguments and not forbid_sockets():
        print(json.dumps({"note": "native code is not covered on this system"}))
    if "python" in arguments:
        socket.create_server(("127.0.0.1", 0)).close()
    elif "native" in arguments:
        ctypes.CDLL(None).socket(socket.AF_INET, socket.SOCK_STREAM, 0)
    failed = 0
    for args, typed in prepared:
        result = CliRunner().invoke(app, args, input=typed)
        failed += result.exit_code != 0
        said = "" if result.exit_code == 0 else f"{result.stderr} {result.exception!r}"
        print(json.dumps({"command": args, "code": result.exit_code, "said": said}), flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
