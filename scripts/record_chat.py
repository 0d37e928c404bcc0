"""Draw docs/chat.svg: the screen of `stars-local chat` at one moment of a real run.

    .venv/bin/python scripts/record_chat.py docs/chat.svg

The models are asked a question, the live view shows the answer on a console that records, and
the picture is what stands on the screen when the chosen segment's rejected attempt was judged.
"""

from __future__ import annotations

import argparse
import io
import tempfile
from pathlib import Path

from rich.console import Console
from rich.text import Text

from stars_local.chat.session import Session, write_whole
from stars_local.chat.talk import Talk, TurnsLeft
from stars_local.cli.chat import opened
from stars_local.cli.chat_pages import banner
from stars_local.cli.live import LiveView
from stars_local.config import configure
from stars_local.core.events import Finished, Judged
from stars_local.core.records import Outcome

COLUMNS = 80
QUESTION = "How do I stay calm before a difficult conversation?"


def main() -> None:
    """Run one answer and write the picture."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("file", type=Path)
    parser.add_argument("--question", default=QUESTION)
    parser.add_argument("--seed", default="0")
    parser.add_argument(
        "--segment", type=int, default=3, help="earliest segment to stop at, from 1"
    )
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE")
    args = parser.parse_args()
    given = dict(item.split("=", 1) for item in args.set)
    configured = configure({"seed": args.seed, **given}, {})
    console = Console(
        file=io.StringIO(), record=True, width=COLUMNS, force_terminal=True, color_system="standard"
    )
    with (
        tempfile.TemporaryDirectory() as folder,
        Session.create(Path(folder)) as session,
        opened(configured) as desk,
    ):
        models = desk.models
        reward = None if models.reward is None else models.reward.info
        console.print(banner(models.language.info, reward, desk.settings.method, desk.thresholds))
        console.print(Text(f"> {args.question}"))
        view = LiveView(console, show_rejected=True, animate=False)
        talk = Talk(session, models.language, models.reward)
        for event in talk.ask(args.question, desk.make_task, seed=desk.seed):
            if isinstance(event, TurnsLeft):
                continue
            view.show(event)
            rejected = isinstance(event, Judged) and event.attempt.outcome is Outcome.REJECTED
            late = isinstance(event, Judged) and event.attempt.segment + 1 >= args.segment
            if (rejected and late) or isinstance(event, Finished):
                console.print(view.transient())
                break
    picture = console.export_svg(title="stars-local chat", unique_id="chat")
    write_whole(args.file, picture.encode())
    args.file.chmod(0o644)


if __name__ == "__main__":
    main()
