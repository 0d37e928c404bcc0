"""The table of options in docs/cli.md: `python -m tests.support.option_table` prints it."""

from __future__ import annotations

from stars_local.config import flag_of
from stars_local.settings import OPTIONS, Kind, Settings


def option_table() -> str:
    """Markdown rows by panel: flag, default, what it does and what it may be."""
    lines = ["| option | default | what |", "|---|---|---|"]
    panel = ""
    for name, option in OPTIONS.items():
        if option.panel != panel:
            panel = option.panel
            lines.append(f"| **{panel}** | | |")
        default = getattr(Settings(), name)
        shown = option.unset if default is None else "none" if default == () else f"`{default}`"
        what = option.help
        if option.kind not in (Kind.TEXT, Kind.LIST) or option.choices:
            what += f" {option.wanted[:1].upper()}{option.wanted[1:]}."
        elif option.kind is Kind.LIST:
            what += " May be given again."
        flag = f"`{flag_of(name)}`"
        lines.append(f"| {flag} | {shown} | {what} |")
    return "\n".join(lines)


if __name__ == "__main__":
    print(option_table())
