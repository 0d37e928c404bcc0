from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stars_local.preferences.text_format import assemble_pair, render_prompt, render_response

CLS, SEP = 101, 102
ids = st.lists(st.integers(1000, 2000), max_size=40)


def assemble(prompt: list[int], response: list[int], limit: int, prompt_limit: int) -> list[int]:
    return assemble_pair(
        prompt,
        response,
        max_tokens=limit,
        max_prompt_tokens=prompt_limit,
        cls_id=CLS,
        sep_id=SEP,
    )


def test_a_conversation_is_rendered_in_hh_style() -> None:
    messages = [("system", "Be kind."), ("user", " Hi \n"), ("assistant", "Hello"), ("user", "?")]
    assert render_prompt(messages) == (
        "System: Be kind.\n\nHuman: Hi\n\nAssistant: Hello\n\nHuman: ?"
    )


def test_raw_text_has_no_label_and_no_messages_no_prompt() -> None:
    assert render_prompt([("text", "The film was ")]) == "The film was"
    assert render_prompt([]) == ""


def test_an_unknown_role_is_named() -> None:
    with pytest.raises(ValueError, match="'tool'"):
        render_prompt([("tool", "x")])


def test_a_response_loses_surrounding_white_space_only() -> None:
    assert render_response("  a  b\n") == "a  b"


@given(ids, ids, st.integers(8, 60), st.data())
def test_the_newest_tokens_are_kept_and_the_limit_holds(
    prompt: list[int], response: list[int], limit: int, data: st.DataObject
) -> None:
    prompt_limit = data.draw(st.integers(0, limit - 4))
    found = assemble(prompt, response, limit, prompt_limit)
    assert len(found) <= limit
    assert found[0] == CLS
    assert found[-1] == SEP
    border = found.index(SEP)
    kept_prompt, kept_response = found[1:border], found[border + 1 : -1]
    assert kept_prompt == prompt[len(prompt) - min(len(prompt), prompt_limit) :]
    room = limit - 3 - len(kept_prompt)
    assert kept_response == response[len(response) - min(len(response), room) :]


@given(st.integers(-2, 12), st.integers(-2, 12))
def test_limits_that_leave_no_room_for_a_response_are_refused(limit: int, prompt: int) -> None:
    if 0 <= prompt < limit - 3:
        assert len(assemble([5] * 20, [6] * 20, limit, prompt)) == limit
    else:
        with pytest.raises(ValueError, match="max_prompt_tokens"):
            assemble([5] * 20, [6] * 20, limit, prompt)
