"""Installs this bundle's wheels into a new virtual environment, then the models, offline.

    tar -xf BUNDLE.tar install.py && python3 install.py BUNDLE.tar ENVIRONMENT

Standard library only: nothing else is there yet.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import re
import subprocess
import sys
import sysconfig
import tarfile
import tempfile
import venv
from pathlib import Path

WHEEL = re.compile(r"wheels/[A-Za-z0-9_][A-Za-z0-9_.+-]{0,180}\.whl")
MAX_MANIFEST_BYTES = 4 << 20


def main(arguments: list[str]) -> int:
    """Install; 0 done, 1 refused, 2 wrong arguments, 130 interrupted."""
    try:
        return install(arguments)
    except KeyboardInterrupt:
        print("install.py: interrupted: run it again to begin anew", file=sys.stderr)
        return 130


def install(arguments: list[str]) -> int:
    """What `main` says, but for Ctrl-C."""
    if len(arguments) < 2:
        print(
            "usage: install.py BUNDLE.tar ENVIRONMENT [options of bundle install]", file=sys.stderr
        )
        return 2
    bundle, environment, *options = arguments
    if not Path(bundle).is_file():  # a pipe would hang
        return failed(f"{bundle}: no bundle that can be read: there is no such file")
    with tempfile.TemporaryDirectory() as folder:
        try:
            n_wheels, fit = unpack_wheels(Path(bundle), Path(folder))
        except Exception as error:  # whatever tarfile and json make of a file that is damaged
            return failed(f"{bundle}: no bundle that can be read: {error!r}")
        if n_wheels == 0:
            return failed(f"{bundle} holds no wheels: create it with --wheels")
        mine, (pythons, platforms) = (this_python(), this_platform()), fit
        here = " on ".join(mine)
        if (pythons and mine[0] not in pythons) or (platforms and mine[1] not in platforms):
            wanted = f"{' or '.join(pythons) or 'any'} on {' or '.join(platforms) or 'any'}"
            return failed(
                f"the wheels are for {wanted}, and this is {here}: run install.py by such a "
                "Python, or gather the wheels on a machine like this one"
            )
        try:
            venv.create(environment, with_pip=True)
        except (OSError, ValueError, ImportError, subprocess.SubprocessError) as error:
            return failed(
                f"{environment} cannot be made ({error}): name a folder that can be written, and "
                "see that this Python has venv and ensurepip (Debian: the package python3-venv)"
            )
        programs = Path(environment) / ("Scripts" if os.name == "nt" else "bin")
        pip = [str(programs / "python"), "-m", "pip", "install", "--no-index", "--quiet"]
        done = subprocess.run([*pip, "--find-links", folder, "stars-local"], check=False)
        if done.returncode != 0:
            return failed(
                "pip could not install the wheels (what it said is above): this is "
                f"{here}, and the bundle's wheels may be for another"
            )
    command = [str(programs / "stars-local"), "bundle", "install", bundle, *options]
    try:
        return subprocess.run(command, check=False).returncode
    except OSError as error:
        return failed(f"{command[0]} cannot be run: {error}")


def this_python() -> str:
    """This Python as the tags of wheels name it, as `cp311`."""
    kind = {"cpython": "cp", "pypy": "pp"}.get(sys.implementation.name, sys.implementation.name)
    free = "t" if sysconfig.get_config_var("Py_GIL_DISABLED") else ""
    return f"{kind}{sys.version_info[0]}{sys.version_info[1]}{free}"


def this_platform() -> str:
    """This system and its processor, without versions, as `linux-x86_64`."""
    if sys.platform == "darwin":  # whose own word names what this Python was built for
        return f"macosx-{platform.machine()}"
    return sysconfig.get_platform()


def failed(why: str) -> int:
    """Say why in a line; the exit code."""
    print(f"install.py: {why}", file=sys.stderr)
    return 1


def unpack_wheels(bundle: Path, folder: Path) -> tuple[int, tuple[list[str], list[str]]]:
    """Write the wheels whose bytes are those of the manifest.

    Their number, and the Pythons and platforms that they are for: an empty list is any.
    """
    with tarfile.open(bundle, "r:") as tar:
        members = {member.name: member for member in tar}
        manifest = tar.extractfile("manifest.json")
        listed = json.loads(manifest.read(MAX_MANIFEST_BYTES))  # type: ignore[union-attr]
        digests = {item["name"]: item["sha256"] for item in listed["items"]}
        told = listed.get("wheels_for")
        fit = (told["pythons"], told["platforms"]) if told else ([], [])
        names = [name for name in members if name.startswith("wheels/")]
        for name in names:
            if not WHEEL.fullmatch(name) or not members[name].isreg() or name not in digests:
                sys.exit(f"{bundle}: {name!r} is none of its wheels: do not use it")
            data = tar.extractfile(members[name]).read()  # type: ignore[union-attr]
            if hashlib.sha256(data).hexdigest() != digests[name]:
                sys.exit(f"{bundle}: {name} is damaged: fetch the bundle again")
            (folder / name.partition("/")[2]).write_bytes(data)
    return len(names), fit


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
