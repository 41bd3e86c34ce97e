"""Looks at a file that threads share, each after what it has read."""

from __future__ import annotations

import threading
from collections.abc import Callable


class SharedLooks:
    """Looks at a file, one at a time, each of which serves all who asked before it began.

    Parameters
    ----------
    look
        Looks at the file, and raises where it is another one.
    """

    def __init__(self, look: Callable[[], None]) -> None:
        self._look = look
        self._one_at_a_time = threading.Lock()
        self._begun = 0
        self._last_good = 0

    def look(self) -> None:
        """Return when a look has found nothing that began after this call.

        One that was under way before may have seen the file as it was before the caller's bytes came.
        """
        begun_before = self._begun
        with self._one_at_a_time:
            if self._last_good > begun_before:
                return
            self._begun += 1
            self._look()
            self._last_good = self._begun
