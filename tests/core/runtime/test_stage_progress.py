"""Shares of a stage add up to one, and the time left follows from the work of this session."""

import pickle

import pytest

from core.runtime import stage_progress
from core.runtime.stage_progress import StageProgress, format_seconds


class Clock:
    """A clock that the tests advance."""

    def __init__(self):
        self.now = 0.0

    def perf_counter(self):
        return self.now


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(stage_progress, "time", clock)
    return clock


def test_nested_parts_fill_their_share():
    progress = StageProgress()
    with progress.part(units=4):
        with progress.part(1):
            assert progress.share == 0
        assert progress.share == pytest.approx(1 / 4)
        with progress.part(2, units=10):
            progress.advance(5)
            assert progress.share == pytest.approx(2 / 4)
            with progress.part(2, units=2):
                progress.advance()
                assert progress.share == pytest.approx(2.2 / 4)
        assert progress.share == pytest.approx(3 / 4)
    assert progress.share == 1


def test_a_part_never_exceeds_its_share():
    progress = StageProgress()
    with progress.part(units=2):
        with progress.part(units=3):
            progress.advance(7)
            assert progress.share == pytest.approx(0.5)
            with progress.part(9, units=2):
                progress.advance(2)
        assert progress.share == pytest.approx(0.5)


def test_a_part_that_raises_is_not_complete():
    progress = StageProgress()
    with pytest.raises(ZeroDivisionError), progress.part(units=4):
        progress.advance()
        raise ZeroDivisionError
    assert progress.share == 0.25


def test_tracked_items_count_by_their_work():
    progress, shares = StageProgress(), []
    for item in progress.track(["aaa", "b"], work=len):
        shares.append(progress.share)
        if item == "aaa":
            progress.advance(2)
            shares.append(progress.share)
    assert shares == pytest.approx([0, 2 / 4, 3 / 4]) and progress.share == pytest.approx(1)
    assert list(StageProgress().track([])) == []


def test_the_time_left_follows_from_the_rate_after_the_first_step(clock):
    progress = StageProgress()
    with progress.part(units=10):
        clock.now = 100  # a slow first step, such as a compilation
        progress.advance()
        assert progress.seconds_left is None
        clock.now = 102
        progress.advance()
        assert progress.seconds_left == pytest.approx(8 * 2)


def test_skipped_work_does_not_change_the_rate(clock):
    progress = StageProgress()
    with progress.part(units=3):
        with progress.part(units=10):
            progress.skip(4)
            progress.advance()
            clock.now = 2
            progress.advance()
            assert progress.seconds_left == pytest.approx(24 * 2)
        clock.now = 10
        with progress.part(units=10):
            progress.skip()
        assert progress.share == pytest.approx(2 / 3)
        assert progress.seconds_left == pytest.approx(10 * 10 / 5)


def test_a_copy_in_another_process_keeps_its_place():
    progress = StageProgress("[1/2] train task")
    with progress.part(units=4, name="network 1/4"):
        progress.advance()
        copy = pickle.loads(pickle.dumps(progress))
        copy.advance()
        assert (copy.label, copy.share) == ("[1/2] train task", 0.5) and progress.share == 0.25


@pytest.mark.parametrize(
    "seconds, words",
    [(0, "0.0 s"), (9.94, "9.9 s"), (9.96, "10 s"), (99.4, "99 s"), (99.6, "2 min"), (5900, "98 min"), (6300, "1.8 h")],
)
def test_durations_are_told_in_the_unit_that_suits_them(seconds, words):
    assert format_seconds(seconds) == words
