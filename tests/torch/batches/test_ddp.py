"""Two ranks on one machine (gloo, CPU), and runs that are taken up again on other ranks."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("torch", reason="torch is not installed: ranks are torch's")
pytest.importorskip("lightning", reason="lightning is not installed: it starts the ranks")

from campaign import restarts

pytestmark = pytest.mark.slow


def test_two_ranks_cover_an_epoch_and_share_no_sample_also_with_plain_loaders(
    tmp_path: Path,
) -> None:
    outcome = restarts.coverage(tmp_path, 4, 1)
    assert not outcome.failures, outcome.failures
    assert outcome.seen["train epochs"] == 8


def test_killed_run_resumes_with_other_workers_at_the_same_sample(tmp_path: Path) -> None:
    outcome = restarts.resume(tmp_path, 1, 1)
    assert not outcome.failures, outcome.failures


# The second run starts in the middle of an epoch; with one sample left of it, which two ranks
# cannot share; and stops where one is left.
@pytest.mark.parametrize("stops", [(7, 2), (12, 4), (10, 1)])
def test_stopped_run_resumes_on_other_ranks_at_the_same_sample(
    tmp_path: Path, stops: tuple[int, int]
) -> None:
    outcome = restarts.stopped_on_ranks(tmp_path, [stops])
    assert not outcome.failures, outcome.failures
