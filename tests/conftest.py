"""What every test gets: a cache directory of the test run's own, and time."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import settings

# on a machine that does other work an example takes as long as it takes
settings.register_profile("unhurried", parent=settings(), deadline=None)
settings.load_profile("unhurried")


@pytest.fixture(autouse=True, scope="session")
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Remembered digests and verdicts neither come from nor go to the person's own cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield
