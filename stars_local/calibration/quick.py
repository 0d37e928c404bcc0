"""How small a quick calibration is, for those who must have room for one."""

from __future__ import annotations

N_PROMPTS = 24
N_DRAWS = 2  # of a segment
N_SLOTS = 6  # prompts at once, at least, in the context of one prompt
PROMPT_TOKENS = 96  # more than any shipped prompt has, its template included
ANSWER_TOKENS = 96
