"""Which Pythons and platforms a set of wheels fits, told from the tags in their names (PEP 427)."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from stars_local.catalog.pip import package_name
from stars_local.core.errors import UsageError

_ANY = ("py3", "none", "any")
_TEXT = re.compile(r"[A-Za-z0-9_.-]{1,40}")
_LINUX = re.compile(r"(?:many|musl)?linux(?:\d+|_\d+_\d+)?_(.+)")
_MACOS = re.compile(r"macosx_\d+_\d+_(.+)")
_BOTH = ("arm64", "x86_64")  # what `universal2` means


@dataclass(frozen=True, slots=True)
class Fit:
    """Pythons as `cp311`, platforms as `linux-x86_64`; an empty tuple is any."""

    pythons: tuple[str, ...]
    platforms: tuple[str, ...]

    def __str__(self) -> str:
        pythons = " or ".join(self.pythons) or "any Python"
        return f"{pythons} on {' or '.join(self.platforms) or 'any platform'}"


def fit_of(names: Iterable[str]) -> Fit | None:
    """Where all packages of some wheels can be installed; None for no wheels.

    names: of the wheels, without folders; one that has no tags fits anywhere. Raises UsageError
    where no Python or no platform is left.
    """
    pythons: dict[str, set[str] | None] = {}
    platforms: dict[str, set[str] | None] = {}
    for name in names:
        parts = name.removesuffix(".whl").split("-")
        python, abi, platform = parts[-3:] if len(parts) in (5, 6) else _ANY
        package = package_name(parts[0])
        _join(pythons, package, _pythons(python, abi))
        _join(platforms, package, _platforms(platform))
    if not pythons:
        return None
    return Fit(_common("Python", pythons), _common("platform", platforms))


def fit_from(value: object) -> Fit:
    """A fit as a bundle's manifest has it; ValueError for anything else."""
    if not isinstance(value, dict) or set(value) != {"pythons", "platforms"}:
        raise ValueError("wheels_for: no pythons and platforms")
    return Fit(_texts(value["pythons"]), _texts(value["platforms"]))


def _texts(value: object) -> tuple[str, ...]:
    if (
        not isinstance(value, list)
        or not all(isinstance(text, str) and _TEXT.fullmatch(text) for text in value)
        or value != sorted(set(value))
    ):
        raise ValueError("wheels_for: no sorted list of names")
    return tuple(value)


def _join(found: dict[str, set[str] | None], package: str, more: set[str] | None) -> None:
    """What any of a package's wheels fits, the package does; None is all."""
    known = found.setdefault(package, more)
    found[package] = None if known is None or more is None else known | more


def _common(what: str, found: Mapping[str, set[str] | None]) -> tuple[str, ...]:
    left: set[str] | None = None
    for package, each in sorted(found.items()):
        if each is not None:
            both = each if left is None else left & each
            if not both:
                raise UsageError(
                    f"the wheels fit no one {what}: those of {package} are for "
                    f"{', '.join(sorted(each))}, others for {', '.join(sorted(left or each))}"
                )
            left = both
    return () if left is None else tuple(sorted(left))


def _pythons(python: str, abi: str) -> set[str] | None:
    if python.startswith("py") or abi == "abi3":
        return None
    return set((abi if abi.startswith("cp") else python).split("."))


def _platforms(tag: str) -> set[str] | None:
    """As `sysconfig.get_platform()` begins and ends: without versions of a system or its libc."""
    found: set[str] = set()
    for each in tag.split("."):
        if each == "any":
            return None
        if linux := _LINUX.fullmatch(each):
            found.add(f"linux-{linux[1]}")
        elif macos := _MACOS.fullmatch(each):
            kinds = _BOTH if macos[1] == "universal2" else (macos[1],)
            found |= {f"macosx-{kind}" for kind in kinds}
        else:
            found.add(each.replace("win_", "win-", 1))
    return found
