"""Renders a chat template, in the helper process and in Jinja's sandbox.

A template is a program from whoever made the model file. The sandbox keeps it from reaching
Python's internals; the limits of the helper process keep it from hanging or filling memory.
The environment is that of Hugging Face's chat templates, because templates are written for it.
"""

from __future__ import annotations

import json
from datetime import datetime
from functools import lru_cache
from typing import Any, NoReturn

import jinja2
from jinja2 import nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from stars_local.llama.refusal import Refusal

MAX_OUTPUT_CHARS = 4 << 20


class _GenerationBlocks(Extension):
    """`{% generation %}` marks the assistant's part for training masks; here it is nothing."""

    tags = {"generation"}  # noqa: RUF012 - Jinja's own interface

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def _raise_exception(message: object) -> NoReturn:
    raise Refusal(str(message), "raised")


def _strftime_now(pattern: str) -> str:
    return datetime.now().strftime(pattern)


def _tojson(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    return json.dumps(
        value,
        ensure_ascii=ensure_ascii,
        indent=indent,
        separators=separators,
        sort_keys=sort_keys,
    )


@lru_cache(maxsize=8)
def _compiled(template: str) -> jinja2.Template:
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_GenerationBlocks, loopcontrols]
    )
    environment.filters["tojson"] = _tojson
    environment.globals["raise_exception"] = _raise_exception
    environment.globals["strftime_now"] = _strftime_now
    return environment.from_string(template)


def render_template(template: str, messages: list[dict[str, str]], bos: str, eos: str) -> str:
    """The conversation as text, ending where the assistant's answer begins.

    Raises Refusal, of kind "raised" where the template itself refuses the conversation.
    """
    chunks: list[str] = []
    n_chars = 0
    try:
        for chunk in _compiled(template).generate(
            messages=messages,
            add_generation_prompt=True,
            bos_token=bos,
            eos_token=eos,
            tools=None,
            documents=None,
        ):
            n_chars += len(chunk)
            if n_chars > MAX_OUTPUT_CHARS:
                raise Refusal(f"it renders more than {MAX_OUTPUT_CHARS} characters")
            chunks.append(chunk)
    except jinja2.TemplateSyntaxError as error:
        raise Refusal(f"syntax error in line {error.lineno}: {error.message}") from error
    except jinja2.TemplateError as error:
        raise Refusal(str(error.message)) from error
    return "".join(chunks)
