"""Running a generator ahead in a thread, so that the next step does not wait for it."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterable, Iterator
from contextlib import suppress
from typing import TypeVar

Item = TypeVar("Item")
_END = object()
# Seconds. A stream that hangs ends when its network limit comes; nobody waits for that.
ENDS_WITHIN = 2.0


def prefetched(items: Iterable[Item], ahead: int) -> Iterator[Item]:
    """The same items in the same order, made in a thread that is at most `ahead` of them ahead.

    An exception of the iterable is raised after the items before it. When this generator ends or is closed, the thread
    ends and the iterable is closed, too: at once, or where it hangs as soon as it gives something.
    """
    waiting: queue.Queue = queue.Queue(maxsize=max(1, ahead))
    stop = threading.Event()

    def put(value: object) -> bool:
        while not stop.is_set():
            with suppress(queue.Full):
                waiting.put(value, timeout=0.1)
                return True
        return False

    def work() -> None:
        failure: BaseException | None = None
        try:
            for item in items:
                if not put((item,)):
                    break
        except BaseException as error:
            failure = error
        finally:
            close = getattr(items, "close", None)
            if close:
                close()
            put((_END, failure))

    thread = threading.Thread(target=work, name="prefetch", daemon=True)
    thread.start()
    try:
        while True:
            got = waiting.get()
            if got[0] is _END:
                if got[1] is not None:
                    raise got[1]
                return
            yield got[0]
    finally:
        stop.set()
        thread.join(ENDS_WITHIN)
