"""How much longer a `tokenizer.json` may make a text, bounded before anything reads the file.

34 steps that replace "z" by "zz" fill a small file, make 16 GiB of one letter, and end the whole
process where memory ends. The bounds below are on the product of what the steps can do, in bytes
of UTF-8, whatever the text; known tokenizers stay below (ALBERT's is the largest, at 1,089).
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from stars_local.core.errors import RewardError
from stars_local.core.strict_json import parse_json

MAX_REPLACING = 64.0  # by steps that replace texts
MAX_GROWTH = 2048.0  # by all steps
MAX_PREPENDED_BYTES = 1 << 10
MAX_STEPS = 64
# most bytes for one: a ligature of Arabic makes NFKC's 11, "İ" in lower case makes Lowercase's
_GROWTHS = {"NFC": 3.0, "NFD": 3.0, "NFKC": 11.0, "NFKD": 11.0, "BertNormalizer": 3.0}
_GROWTHS |= {"Lowercase": 1.5, "ByteLevel": 2.0}


def check_growth(path: Path) -> None:
    """RewardError for a `tokenizer.json` that can make texts too long, or is no JSON object."""
    try:
        found = parse_json(path.read_text(encoding="utf-8"), unique=True)
    except (OSError, ValueError) as error:
        raise RewardError(f"cannot read the tokenizer {path}: {error}") from error
    if not isinstance(found, dict):
        raise RewardError(f"cannot read the tokenizer {path}: it is no JSON object")
    steps = [*_steps(found.get("normalizer")), *_steps(found.get("pre_tokenizer"))]
    replacing = growth = 1.0
    n_prepended = 0
    for step in steps[:MAX_STEPS]:
        n_prepended += _n_bytes(step.get("prepend"))
        replaced = _replacing(step)
        replacing *= replaced
        growth *= replaced * _mapping(step)
    if len(steps) > MAX_STEPS:
        wrong = f"{len(steps)} steps, at most {MAX_STEPS}"
    elif n_prepended > MAX_PREPENDED_BYTES:
        wrong = f"{n_prepended} bytes put before a text, at most {MAX_PREPENDED_BYTES}"
    elif replacing > MAX_REPLACING:
        wrong = f"texts replaced by {replacing:.3g} times as many bytes, at most {MAX_REPLACING:g}"
    elif growth > MAX_GROWTH:
        wrong = f"texts made {growth:.3g} times as long, at most {MAX_GROWTH:g}"
    else:
        return
    raise RewardError(f"the tokenizer {path} is refused: {wrong}: use another reward model")


def _steps(tree: Any) -> Iterator[dict[str, Any]]:
    """All objects of a tree but the patterns; steps need not name their type."""
    waiting = [tree]
    while waiting:
        found = waiting.pop()
        if isinstance(found, dict):
            yield found
            waiting += [each for key, each in found.items() if key != "pattern"]
        elif isinstance(found, list):
            waiting += found


def _replacing(step: dict[str, Any]) -> float:
    """Of a Replace step; a pattern that is empty or no plain text may match between letters."""
    n_new = _n_bytes(step.get("content"))
    pattern = step.get("pattern")
    n_old = _n_bytes(pattern.get("String")) if isinstance(pattern, dict) else 0
    return max(1.0, n_new / n_old) if n_old > 0 else 1.0 + n_new


def _mapping(step: dict[str, Any]) -> float:
    """Of a step that maps letters by a table, of Unicode's or of its own."""
    if "precompiled_charsmap" in step:
        return _longest_in(step["precompiled_charsmap"])
    kind = step.get("type")
    if isinstance(kind, str) and kind in _GROWTHS:
        return _GROWTHS[kind]
    if "trim_offsets" in step:
        return _GROWTHS["ByteLevel"]
    return _GROWTHS["BertNormalizer"] if "clean_text" in step else 1.0


def _longest_in(charsmap: Any) -> float:
    """Bytes of the longest text that SentencePiece's table of letters puts for anything: the
    table is the trie's length in 4 bytes, the trie of 4-byte units, and texts that end in NUL."""
    try:
        table = base64.b64decode(charsmap if isinstance(charsmap, str) else "")
    except (binascii.Error, ValueError):
        return 1.0  # the tokenizers library refuses it
    texts = table[4 + int.from_bytes(table[:4], "little") // 4 * 4 :]
    return max(1.0, *(float(len(text)) for text in texts.split(b"\0")))


def _n_bytes(text: Any) -> int:
    return len(text.encode("utf-8", "surrogatepass")) if isinstance(text, str) else 0
