"""Work in processes: in order, bounded, and a death or a hang costs one item."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest

from hicmae import processes
from shards.building.workers import Lost, run_in_order


def square_slowly(item: int) -> int:
    """The first items take longest, so that results come in the wrong order."""
    time.sleep(0.05 * max(0, 4 - item))
    return item * item


def die_or_hang(item: str) -> str:
    """Do what the item says."""
    if item == "segfault":
        os.kill(os.getpid(), signal.SIGSEGV)
    if item == "exit":
        os._exit(3)
    if item == "hang":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # like a decoder that loops in C
        time.sleep(600)
    return item.upper()


def note_start(item: tuple[Path, int]) -> int:
    """Leave a mark that the item was begun."""
    folder, number = item
    (folder / str(number)).touch()
    return number


def test_results_come_in_the_order_of_the_items() -> None:
    found = list(run_in_order(square_slowly, range(8), workers=3, deadline_seconds=60))
    assert found == [(item, item * item) for item in range(8)]


@pytest.mark.slow
def test_a_death_or_a_hang_costs_that_item_alone() -> None:
    items = ["a", "segfault", "b", "hang", "exit", "c", "segfault", "d"]
    found = dict(
        enumerate(
            outcome
            for _, outcome in run_in_order(die_or_hang, items, workers=2, deadline_seconds=2)
        )
    )
    assert [found[place] for place in (0, 2, 5, 7)] == ["A", "B", "C", "D"]
    lost = {place: found[place] for place in (1, 3, 4, 6)}
    assert all(isinstance(item, Lost) for item in lost.values())
    assert {place: item.cause for place, item in lost.items()} == {  # type: ignore[union-attr]
        1: "crash",
        3: "deadline",
        4: "crash",
        6: "crash",
    }
    assert "SIGSEGV" in lost[1].message  # type: ignore[union-attr]
    assert "status 3" in lost[4].message  # type: ignore[union-attr]
    assert "no sign of life for 2 s; given up; where" in lost[3].message  # type: ignore[union-attr]


def take_long(item: int) -> int:
    """Longer than nothing may be heard of it, and say so."""
    for _ in range(item * 10):
        time.sleep(0.1)
        processes.show_life()
    return item


@pytest.mark.slow
def test_a_long_item_that_goes_on_is_waited_for() -> None:
    found = list(run_in_order(take_long, [5, 0], workers=1, deadline_seconds=2))
    assert found == [(5, 5), (0, 0)]


@pytest.mark.slow
def test_few_items_are_under_way_ahead_of_the_one_that_is_waited_for(tmp_path: Path) -> None:
    results = run_in_order(
        note_start, [(tmp_path, number) for number in range(50)], workers=2, deadline_seconds=60
    )
    next(results)
    time.sleep(1.0)
    assert len(list(tmp_path.iterdir())) <= 10
    results.close()  # type: ignore[attr-defined]


def test_no_items_are_no_work() -> None:
    assert list(run_in_order(square_slowly, [], workers=None, deadline_seconds=1)) == []


def test_many_more_workers_than_cores_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "_MOST_WORKERS", 2)
    monkeypatch.setattr(processes, "num_cores", lambda: 0)
    with pytest.raises(ValueError, match=r"workers = 3 \(at most 2 here"):
        list(run_in_order(square_slowly, range(4), workers=3, deadline_seconds=60))


def broken(item: int) -> int:
    """A bug, as opposed to bad input."""
    raise ZeroDivisionError(f"item {item}")


def test_a_bug_is_not_hidden() -> None:
    with pytest.raises(ZeroDivisionError, match="item 0"):
        list(run_in_order(broken, [0], workers=1, deadline_seconds=60))


def end_once(item: tuple[Path, str]) -> str:
    """Be ended by a signal from outside, the first time."""
    folder, name = item
    if name == "ended" and not (folder / name).exists():
        (folder / name).touch()
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(60)
    if name == "always ended":
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(60)
    return name


def test_who_is_ended_from_outside_has_another_try(tmp_path: Path) -> None:
    items = [(tmp_path, name) for name in ("a", "ended", "always ended", "b")]
    found = [
        outcome for _, outcome in run_in_order(end_once, items, workers=1, deadline_seconds=60)
    ]
    assert found[:2] == ["a", "ended"]
    assert found[3] == "b"
    lost = found[2]
    assert isinstance(lost, Lost)
    assert lost.cause == "crash"


def fill_memory(num_mib: int) -> int:
    """Allocate so much and use it."""
    try:
        return len(bytearray(num_mib << 20)) >> 20
    except MemoryError:
        return -1


def test_a_worker_that_wants_too_much_memory_is_told_so() -> None:
    found = run_in_order(
        fill_memory, [64, 8192, 64], workers=1, deadline_seconds=60, memory_bytes=4 << 30
    )
    assert [outcome for _, outcome in found] == [64, -1, 64]
