"""Fetches a file from an address, and goes on where an earlier try stopped.

What has come so far waits in `NAME.part`; beside it `NAME.part.json` says of which version of
which address it is, so that a file that changed on the server is fetched anew and never mixed.
"""

from __future__ import annotations

import json
import os
import re
import time
import urllib.error
import urllib.request
from dataclasses import dataclass
from http.client import HTTPException, HTTPMessage, InvalidURL
from pathlib import Path
from typing import IO, Any
from urllib.parse import urlsplit

from stars_local.catalog.sources import WebSource
from stars_local.catalog.space import need_room
from stars_local.core.errors import NetworkError
from stars_local.core.progress import OnProgress
from stars_local.core.strict_json import parse_json

MAX_TRIES = 5
TIMEOUT_S = 60.0
_CHUNK_BYTES = 1 << 20
_MAX_SHOWN = 200
_SHA256 = re.compile(r'"?([0-9a-f]{64})"?')
_DIGITS = r"([0-9]{1,18})"  # more than a disk holds, and than int() may be asked to read
_LENGTH, _RANGE = re.compile(_DIGITS), re.compile(rf"bytes {_DIGITS}-[0-9]+/[0-9]+")


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follows to http and https only, and keeps the hash that a model hub tells on the way."""

    def __init__(self) -> None:
        self.sha256: str | None = None

    def redirect_request(
        self, req: Any, fp: IO[bytes], code: int, msg: str, headers: HTTPMessage, newurl: str
    ) -> urllib.request.Request | None:
        """As the base class, which would follow to ftp as well. Raises NetworkError."""
        if urlsplit(newurl).scheme not in ("http", "https"):
            raise NetworkError(
                f"{req.full_url} leads to {newurl[:_MAX_SHOWN]!r}: only http and https are followed"
            )
        match = _SHA256.fullmatch(headers.get("X-Linked-Etag", ""))
        if match is not None:
            self.sha256 = match[1]
        return super().redirect_request(req, fp, code, msg, headers, newurl)


@dataclass(slots=True)
class _Unfinished:
    """A download that came to a stop: which version it is of, how long that is, and its hash."""

    tag: str | None
    n_bytes: int | None
    sha256: str | None


def fetch_from_web(
    source: WebSource, part: Path, on_progress: OnProgress, *, pause_s: float = 1.0
) -> str | None:
    """Download into `part`, which may hold the beginning already; its name is the caller's.

    Returns the sha256 that the server announces, None where it does not. A connection that
    breaks is tried again up to `MAX_TRIES` times without progress, after pause_s, then twice
    that, and so on. Raises NetworkError, ModelError where the disk has no room, OSError where
    it cannot be written; what has come stays for the next call.
    """
    tries = 0
    while True:
        before = _size(part)
        try:
            return _once(source, part, on_progress)
        except urllib.error.HTTPError as error:
            why = f"{error.code} {error.reason}"
            if error.code == 416:
                forget(part)  # the file there is shorter now
            elif error.code not in (408, 429) and error.code < 500:
                hint = "check the address"
                if error.code in (401, 403):
                    hint = "it wants a permission: set HF_TOKEN where it is the model hub's"
                raise NetworkError(f"{source.url}: {why}: {hint}") from error
        except (InvalidURL, ValueError) as error:  # of a redirect too: trying again is no use
            raise NetworkError(f"{source.url}: not an address to ask: {error}") from error
        except (urllib.error.URLError, HTTPException, TimeoutError, ConnectionError) as error:
            why = str(error)
        tries = 1 if _size(part) > before else tries + 1
        if tries >= MAX_TRIES:
            raise NetworkError(
                f"{source.url}: {why} ({MAX_TRIES} tries): pull again to go on from "
                f"{_size(part)} bytes"
            )
        time.sleep(pause_s * 2 ** (tries - 1))


def forget(part: Path) -> None:
    """Remove what was fetched so far."""
    part.unlink(missing_ok=True)
    _note(part).unlink(missing_ok=True)


def _once(source: WebSource, part: Path, on_progress: OnProgress) -> str | None:
    known = _read_note(part, source.url)
    start = _size(part) if known.tag is not None else 0
    if start and start == known.n_bytes:
        return known.sha256  # all had come, and only its check and renaming were left
    request = urllib.request.Request(source.url, headers={"User-Agent": "stars-local"})
    token = os.environ.get("HF_TOKEN")
    if source.on_hub and token:
        # a redirect leads to another host, which has no business with it
        request.add_unredirected_header("Authorization", f"Bearer {token}")
    if start and known.tag is not None:
        request.add_header("Range", f"bytes={start}-")
        request.add_header("If-Range", known.tag)
    redirects = _Redirects()
    with urllib.request.build_opener(redirects).open(request, timeout=TIMEOUT_S) as answer:
        match = _RANGE.fullmatch(answer.headers.get("Content-Range", ""))
        if answer.status != 206:
            start = 0
        elif match is None or int(match[1]) != start:
            forget(part)
            raise ConnectionError("the server answered with another range than was asked for")
        length = _LENGTH.fullmatch(answer.headers.get("Content-Length", ""))
        total = None if length is None else start + int(length[1])
        if total is not None:
            need_room(part.parent, total - start, source.file_name)
        tag = answer.headers.get("ETag")
        if tag is not None and tag.startswith("W/"):
            tag = None  # a weak tag does not promise the same bytes
        if start and tag not in (None, known.tag):
            forget(part)
            raise ConnectionError("the server went on with another version of the file")
        if not start:
            forget(part)  # before its note changes: bytes must never stand under another's tag
        _write_note(part, source.url, _Unfinished(tag, total, redirects.sha256))
        with part.open("r+b" if start else "wb") as file:
            file.seek(start)
            file.truncate()
            _copy(answer, file, start, total, source.file_name, on_progress)
    return redirects.sha256


def _copy(
    answer: Any, file: IO[bytes], done: int, total: int | None, name: str, on_progress: OnProgress
) -> None:
    try:
        while chunk := answer.read(_CHUNK_BYTES):
            file.write(chunk)
            done += len(chunk)
            if total is not None and done > total:
                raise ConnectionError("more came than was announced")
            on_progress(f"downloading {name}", done, done if total is None else total)
    finally:
        file.flush()
        os.fsync(file.fileno())
    if total is not None and done < total:
        raise ConnectionError(f"broken off at {done} of {total} bytes")


def _size(part: Path) -> int:
    return part.stat().st_size if part.is_file() else 0


def _note(part: Path) -> Path:
    return part.with_name(f"{part.name}.json")


def _write_note(part: Path, url: str, known: _Unfinished) -> None:
    content = {"url": url, "tag": known.tag, "n_bytes": known.n_bytes, "sha256": known.sha256}
    _note(part).write_text(json.dumps(content), "utf-8")


def _read_note(part: Path, url: str) -> _Unfinished:
    try:
        found = parse_json(_note(part).read_bytes())
        if found["url"] == url and isinstance(found["tag"], str):
            size, digest = found["n_bytes"], found["sha256"]
            return _Unfinished(
                found["tag"],
                size if type(size) is int else None,
                digest if isinstance(digest, str) else None,
            )
    except (OSError, ValueError, KeyError, TypeError):
        pass  # no use: the download begins anew
    return _Unfinished(None, None, None)
