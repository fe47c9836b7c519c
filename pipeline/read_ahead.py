"""Making things on a thread of its own, a few ahead of whoever takes them."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Generator
from typing import Any, Generic, Self, TypeVar

Item = TypeVar("Item")


class ReadAhead(Generic[Item]):
    """Iterates over what `items` makes; at most `ahead` + 1 wait to be taken. Use as a context manager.

    What goes wrong in the thread is raised where the next item is taken, and again by every later attempt. When the
    block is left the thread has ended, and `items` is closed there.
    """

    def __init__(
        self, items: Generator[Item, None, None], ahead: int, name: str, prepare: Callable[[], None] | None = None
    ) -> None:
        """`prepare` is called on the thread before anything else: what a thread has of its own is set up there."""
        self.wait_seconds = 0.0
        """that takers have waited"""
        self._items, self._prepare = items, prepare
        self._queue: queue.Queue[Item | _Ended] = queue.Queue(maxsize=ahead)
        self._left = threading.Event()
        self._thread = threading.Thread(target=self._work, name=name, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: Any) -> None:
        self._left.set()
        while self._thread.is_alive():
            self._drain()
            self._thread.join(timeout=0.05)

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Item:
        started = time.monotonic()
        item = self._queue.get()
        self.wait_seconds += time.monotonic() - started
        if isinstance(item, _Ended):
            self._queue.put(item)  # the thread's last word, for whoever asks again
            raise item.error
        return item

    def _work(self) -> None:
        ended: BaseException = StopIteration()
        try:
            if self._prepare is not None:
                self._prepare()
            for item in self._items:
                self._put(item)
                if self._left.is_set():
                    break
            self._items.close()
        except BaseException as error:
            ended = error
        self._put(_Ended(ended))

    def _put(self, item: Item | _Ended) -> None:
        while not self._left.is_set():
            try:
                self._queue.put(item, timeout=0.1)
                return
            except queue.Full:
                continue

    def _drain(self) -> None:
        while not self._queue.empty():
            self._queue.get_nowait()


class _Ended:
    """That nothing more comes, and why."""

    def __init__(self, error: BaseException) -> None:
        self.error = error
