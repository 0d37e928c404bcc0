"""The library: aligned text in five lines.

    from stars_local import Aligned

    with Aligned.open() as aligned:
        for text in aligned.stream("How do I apologise to a friend?", seed=0):
            print(text, end="", flush=True)

`Aligned.demo()` runs the same lines on shipped doubles, with no weights. One object serves one
answer at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from stars_local.core.closing import Closing
from stars_local.core.driver import Driver, Task
from stars_local.core.errors import UsageError
from stars_local.core.events import Event, Finished, Kept
from stars_local.core.ports import LanguageModel, RewardModel
from stars_local.core.records import Message, Prompt, Result

TaskMaker = Callable[[Prompt, int], Task]


class Aligned(Closing):
    """A language model whose every segment a reward model accepted.

    language_model, reward_model: any implementation of the ports. make_task(prompt, seed): the
    method and its limits. on_close: frees what was opened. After `stream`, `result` holds the
    finished answer with its segments and counts.
    """

    def __init__(
        self,
        language_model: LanguageModel,
        reward_model: RewardModel | None,
        make_task: TaskMaker,
        on_close: Callable[[], None] = lambda: None,
    ) -> None:
        self._driver = Driver(language_model, reward_model)
        self._make_task = make_task
        self._on_close = on_close
        self.result: Result | None = None

    @classmethod
    def open(cls, **options: Any) -> Aligned:
        """Load models by the options of the command line, underscores for hyphens.

        For example `model`, `reward`, `method`, `segment_size`, `max_new_tokens`, `width`. Raises
        UsageError for an unknown option or a value out of range, ModelError or RewardError for
        files, CalibrationError where no calibration of the pair is at hand.
        """
        from stars_local import compose
        from stars_local.config import configure
        from stars_local.method_settings import spec_of
        from stars_local.settings import OPTIONS

        unknown = sorted(set(options) - set(OPTIONS))
        if unknown:
            raise UsageError(f"no option {unknown[0]!r}: use one of {', '.join(OPTIONS)}")
        settings = configure(options, {}, None).settings
        models = compose.open_models(settings, scores=spec_of(settings).scores)
        try:
            thresholds = compose.find_thresholds(settings, models)
        except BaseException:
            models.language.unload()
            raise

        def make_task(prompt: Prompt, seed: int) -> Task:
            return compose.make_task(prompt, settings, models, thresholds=thresholds, seed=seed)

        return cls(models.language, models.reward, make_task, models.language.unload)

    @classmethod
    def demo(cls) -> Aligned:
        """The same on doubles: a model that mumbles three syllables, and a taste for one."""
        from stars_local.core.acceptance import TiltRule
        from stars_local.core.doubles import EnumerableModel, TableReward
        from stars_local.core.methods import Context, Segmentation, StarsParams, stars
        from stars_local.core.seeds import SeedSource
        from stars_local.core.thresholds import Threshold

        model = EnumerableModel(("la ", "mi ", "ko "), lambda ids: (0.33, 0.32, 0.3, 0.05))
        reward = TableReward(lambda text: text.count("la") / max(1, len(text.split())))
        params = StarsParams(Threshold(0.6, 0.5, 24), TiltRule(0.05), Segmentation(6))

        def make_task(prompt: Prompt, seed: int) -> Task:
            context = Context(SeedSource(seed, prompt.id), 24, width=4)
            return Task(prompt, lambda c: stars(c, params), "stars", context)

        return cls(model, reward, make_task)

    def stream(self, prompt: str | Sequence[tuple[str, str]], *, seed: int = 0) -> Iterator[str]:
        """Yield accepted text as it becomes final; prompt: text, or (role, content) turns."""
        for event in self.events(prompt, seed=seed):
            if isinstance(event, Kept | Finished) and event.printable:
                yield event.printable

    def events(self, prompt: str | Sequence[tuple[str, str]], *, seed: int = 0) -> Iterator[Event]:
        """Yield everything that happens: every attempt with its reward and fate."""
        self.result = None
        turns = [("user", prompt)] if isinstance(prompt, str) else prompt
        messages = tuple(Message(role, content) for role, content in turns)
        for event in self._driver.stream(self._make_task(Prompt("prompt", messages), seed)):
            if isinstance(event, Finished):
                self.result = event.result
            yield event

    def close(self) -> None:
        """Free the models; harmless when repeated."""
        self._on_close()
