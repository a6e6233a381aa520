"""What every test gets: caches of its own, and hypothesis without surprises."""

from __future__ import annotations

from importlib.util import find_spec

import pytest
from campaign.processes import server
from hypothesis import settings

# Timings of single examples vary with the machine's load; the example count bounds the whole.
settings.register_profile("project", deadline=None, derandomize=True, database=None)
settings.load_profile("project")

if find_spec("torch"):
    # Before anything starts the fork server: what it imports later is imported in every process.
    server()


@pytest.fixture(scope="session", autouse=True)
def own_user_cache(tmp_path_factory):
    """Keep what goes to the user's cache folder out of the home of whoever runs the tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("user_cache")))
        yield
