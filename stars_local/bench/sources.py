"""What the benchmarks run on: a text of our own, and quantised files made from the model given."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from stars_local.core.records import Prompt
from stars_local.llama.engine import LlamaModel

CHARS_A_TOKEN = 6  # more than a token of the story has
STORY = (
    "The harbour was quiet when Mara untied the boat. Her grandfather had painted it blue the year "
    "she was born, and every spring since then they had scraped and painted it again, so that by "
    "now it was more paint than wood. She rowed past the last lamp of the pier and let the oars "
    "rest. Somewhere behind the islands a ferry sounded its horn twice. She had promised to be "
    "back before the bakery opened, but the water was so still that every star stood in it a "
    "second time, and she could not make herself turn round. She thought of the letter in her "
    "coat. It had come on Tuesday, with a stamp she did not know, and she had read it so often "
    "that the folds were wearing through."
)


def long_text(n_chars: int) -> str:
    """The story again and again, up to a number of characters."""
    return (STORY + " ") * (n_chars // len(STORY) + 1)


def text_of(model: LlamaModel, n_tokens: int) -> str:
    """The story again and again, up to a number of tokens of this model."""
    text = long_text(n_tokens * CHARS_A_TOKEN)
    while (n_over := len(model.encode(Prompt("bench", text=text))) - n_tokens) > 0:
        text = text[:-n_over]  # a token has at least one character
    return text


def quants(
    source: Path, types: tuple[str, ...], folder: Path, say: Callable[[str], None]
) -> dict[str, Path]:
    """Files of these types made from `source`, kept in `folder` for the next run."""
    from stars_local.llama.digest import file_sha256
    from stars_local.llama.quantise import quantise

    made = {}
    mark = file_sha256(source)[:12]
    for quant in types:
        path = folder / f"{source.stem.rpartition('.')[0]}.{mark}.{quant}.gguf"
        if not path.is_file():
            say(f"making {quant} from {source.name}")
            quantise(source, path, quant)
        made[quant] = path
    return made
