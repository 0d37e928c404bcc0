"""The errors that this package raises on purpose.

    StarsError                    anything a person can act on; exit code 1
    |-- UsageError                an option or argument makes no sense; exit code 2
    |   `-- ConfigError           a configuration file or environment value is wrong
    |-- DataError                 an input file (prompts, pairs, sessions) cannot be read
    |-- ModelError                a language model cannot be loaded or used
    |   |-- PromptTooLongError    the prompt does not fit the context
    |   `-- OutOfCellsError       no room in the KV cache for a batch; state unchanged
    |-- RewardError               a reward model cannot be loaded or used
    |   `-- RewardValueError      a reward is NaN or infinite
    |-- GrammarError              a grammar or JSON schema is refused
    |-- CalibrationError          a calibration is missing or belongs to other files
    `-- NetworkError              a pull failed

Every message is one line: what happened, the values, and what to do about it. Errors of
other libraries are translated at the border, in the adapter that calls them.
"""

from __future__ import annotations


class StarsError(Exception):
    """Base of every error raised on purpose; the message is one complete line."""

    exit_code = 1


class UsageError(StarsError):
    """An option or argument makes no sense."""

    exit_code = 2


class ConfigError(UsageError):
    """A configuration file or environment value is wrong."""


class DataError(StarsError):
    """An input file cannot be read."""


class ModelError(StarsError):
    """A language model cannot be loaded or used."""


class PromptTooLongError(ModelError):
    """The prompt does not fit the context."""


class OutOfCellsError(ModelError):
    """No room in the KV cache for a batch; the state before the call is unchanged."""


class RewardError(StarsError):
    """A reward model cannot be loaded or used."""


class RewardValueError(RewardError):
    """A reward is NaN or infinite."""


class GrammarError(StarsError):
    """A grammar or JSON schema is refused."""


class CalibrationError(StarsError):
    """A calibration is missing or belongs to other files."""


class NetworkError(StarsError):
    """A download failed."""
