"""Generators that run ahead in a thread."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest

from ecstfl_cli.media import prefetch
from ecstfl_cli.media.prefetch import prefetched


def test_items_keep_their_order_and_an_error_comes_after_them() -> None:
    def items() -> Iterator[int]:
        yield from range(5)
        raise ValueError("broken")

    got: list[int] = []
    with pytest.raises(ValueError, match="broken"):
        got.extend(prefetched(items(), 2))
    assert got == list(range(5))


def test_it_is_never_further_ahead_than_asked() -> None:
    made = []

    def items() -> Iterator[int]:
        for i in range(100):
            made.append(i)
            yield i

    running = prefetched(items(), 3)
    assert next(running) == 0
    time.sleep(0.2)
    assert len(made) <= 1 + 3 + 1
    running.close()


def test_closing_ends_the_thread_and_closes_the_generator() -> None:
    closed = threading.Event()

    def items() -> Iterator[int]:
        try:
            while True:
                yield 1
        finally:
            closed.set()

    before = threading.active_count()
    running = prefetched(items(), 2)
    next(running)
    running.close()
    assert closed.is_set()
    assert threading.active_count() == before


def test_closing_does_not_wait_for_what_hangs(monkeypatch: pytest.MonkeyPatch) -> None:
    """As a stream does until its network limit comes."""
    monkeypatch.setattr(prefetch, "ENDS_WITHIN", 0.1)
    comes, closed = threading.Event(), threading.Event()

    def items() -> Iterator[int]:
        try:
            yield 0
            comes.wait()
            yield 1
        finally:
            closed.set()

    running = prefetched(items(), 1)
    assert next(running) == 0
    running.close()
    assert not closed.is_set()
    comes.set()
    assert closed.wait(10)
