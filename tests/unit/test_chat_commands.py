"""What a chat line is: a question, a command, or a mistake with a remedy."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stars_local.chat.commands import COMMANDS, Command, parse, parse_save, parse_set
from stars_local.core.errors import UsageError


@given(st.text().filter(lambda text: not text.startswith("/")))
def test_text_without_a_slash_is_a_question_as_it_is(text: str) -> None:
    assert parse(text) == text


@given(st.text())
def test_two_slashes_begin_a_question_with_one(text: str) -> None:
    assert parse(f"//{text}") == f"/{text}"


@given(st.text())
def test_any_line_is_understood_or_refused(text: str) -> None:
    try:
        found = parse(f"/{text}")
    except UsageError:
        return
    assert isinstance(found, str) or found.name in COMMANDS


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_parses_with_what_it_takes(name: str) -> None:
    spec = COMMANDS[name]
    argument = "a b" if spec.argument else ""
    assert parse(f"/{name.upper()}  {argument} ") == Command(name, argument)
    if spec.required:
        with pytest.raises(UsageError, match="needs"):
            parse(f"/{name}")
    if not spec.argument:
        with pytest.raises(UsageError, match="takes nothing"):
            parse(f"/{name} more")


def test_a_wrong_name_is_answered_with_the_nearest() -> None:
    with pytest.raises(UsageError, match="did you mean /retry"):
        parse("/rety")
    with pytest.raises(UsageError, match="/help lists them"):
        parse("/zzzzzz")


def test_a_system_message_may_have_several_lines() -> None:
    assert parse("/system be\nkind") == Command("system", "be\nkind")
    assert parse("/system\nbe\nkind now") == Command("system", "be\nkind now")


@pytest.mark.parametrize(
    "argument",
    ["segment_size 8", "segment-size 8", "--segment-size 8", "segment_size=8", "segment_size = 8"],
)
def test_set_reads_names_as_flags_and_files_write_them(argument: str) -> None:
    assert parse_set(argument) == ("segment_size", "8")


def test_set_needs_a_value() -> None:
    with pytest.raises(UsageError, match="NAME VALUE"):
        parse_set("seed")
    assert parse_set("stop a=b") == ("stop", "a=b")


def test_save_takes_a_file_and_a_flag_in_any_order() -> None:
    assert parse_save("") == (None, False)
    assert parse_save("--kv") == (None, True)
    assert parse_save("'a b' --kv") == parse_save("--kv 'a b'") == ("a b", True)
    for wrong in ("a b", "'a"):
        with pytest.raises(UsageError, match="/save"):
            parse_save(wrong)
