"""A worker process of a batch: ``python -m engine.batch_worker``; see `engine.batch_work` for what it does.

It listens before it imports anything that takes long, so that it ends with whoever began it even while it starts.
"""

from __future__ import annotations

import _thread
import json
import os
import queue
import signal
import sys
import threading
import time
import types
from collections.abc import Callable
from typing import Any, TextIO

from engine.progress import Progress

# How long a worker that is to end gets to put its private files away.
GRACE_SECONDS = 0.7


class Orders:
    """What a worker process is told on its standard input, a JSON object a line; its end ends the process.

    Args:
        stream: Standard input.

    Attributes:
        hear: Told how far the work has come.
        progress: What the work reports to; cancelled at the end of the orders.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self.hear: Callable[[float, str], None] = lambda fraction, message: None
        self._patients: queue.SimpleQueue[dict[str, Any] | None] = queue.SimpleQueue()
        self._go = threading.Event()
        self._go.set()
        self.progress = Progress(lambda fraction, message: self.hear(fraction, message))

    def listen(self) -> None:
        """Take orders until there are no more; on a thread of its own."""
        for line in self._stream:
            order = json.loads(line)
            if "hold" not in order:
                self._patients.put(order)
            elif order["hold"]:
                self._go.clear()
                # The main thread comes to `hold_still` at its next line of Python, wherever it is, in a few tenths of a
                # second; the next word to its progress may be seconds away.
                _thread.interrupt_main(signal.SIGINT)
            else:
                self._go.set()
        self.progress.cancel()
        self._go.set()
        self._patients.put(None)
        time.sleep(GRACE_SECONDS)
        # Whoever began this is gone or wants no more of it; what it would still write nobody would look at.
        os._exit(0)

    def hold_still(self, number: int, frame: types.FrameType | None) -> None:
        """Wait while told to; an interrupt from the keyboard, which is for whoever began this, passes by."""
        self._go.wait()

    def next(self) -> dict[str, Any] | None:
        """The next order; None when there will be no more."""
        return self._patients.get()


def main() -> int:
    """Listen, then work."""
    orders = Orders(sys.stdin)
    signal.signal(signal.SIGINT, orders.hold_still)
    threading.Thread(target=orders.listen, daemon=True).start()
    from engine import batch_work

    return batch_work.serve(orders)


if __name__ == "__main__":
    sys.exit(main())
