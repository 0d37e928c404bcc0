"""From settings to how tokens are drawn: grammar and JSON schema are read here."""

from __future__ import annotations

from stars_local.config import inline_or_file
from stars_local.core.records import Sampling
from stars_local.settings import Settings


def sampling(settings: Settings) -> Sampling:
    """How tokens are drawn; grammar and JSON schema are read here. Raises GrammarError."""
    return Sampling(
        temperature=settings.temperature,
        top_k=settings.top_k,
        top_p=settings.top_p,
        min_p=settings.min_p,
        repeat_penalty=settings.repeat_penalty,
        grammar=_grammar(settings),
    )


def _grammar(settings: Settings) -> str | None:
    if settings.grammar is not None:
        return inline_or_file(settings.grammar, "--grammar", "::=")
    if settings.json_schema is None:
        return None
    from stars_local.llama.grammar import schema_to_gbnf

    return schema_to_gbnf(inline_or_file(settings.json_schema, "--json-schema", "{"))
