"""Progress bars, drawn by rich on stderr. Imported only where one is drawn: rich takes its time."""

from __future__ import annotations

import contextlib
import io
import sys
import time
from collections.abc import Callable, Iterator

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn
from rich.text import Text

from h5zarr.text import human_bytes

_DRAWINGS_PER_SECOND = 10
_WIDEST_BAR = 40
_NARROWEST_BAR = 8
_WIDTH_OF_WORDS = 64
"""Characters that label and numbers take at most."""


@contextlib.contextmanager
def drawn_bar(label: str, unit: str) -> Iterator[Callable[[int, int], None]]:
    """Give a function that draws a bar on stderr, which is wiped at the end, however that comes.

    Parameters
    ----------
    label
        What is being done.
    unit
        What is counted; ``bytes`` are shown as kB, MB and so on.
    """
    console = _Console(file=sys.stderr)
    bar_width = min(_WIDEST_BAR, max(_NARROWEST_BAR, console.width - _WIDTH_OF_WORDS))
    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width, complete_style="cyan", finished_style="cyan", pulse_style="cyan"),
        _Numbers(unit),
        console=console,
        transient=True,
        refresh_per_second=_DRAWINGS_PER_SECOND,
        redirect_stdout=False,
        redirect_stderr=False,
    )
    with bar, contextlib.redirect_stderr(_Above(console)):
        yield _Drawing(bar, label)


class _Console(Console):
    """A console that never hides the cursor: a process that is killed could not bring it back."""

    def show_cursor(self, show: bool = True) -> bool:
        """Do nothing."""
        return False


class _Above(io.TextIOBase):
    """Writes whole lines above a bar; rich's own proxy has no encoding, so that click writes past it."""

    encoding = "utf-8"
    errors = "backslashreplace"

    def __init__(self, console: Console) -> None:
        self._console = console
        self._line = ""

    def write(self, text: str) -> int:
        """Write the lines that are complete."""
        *lines, self._line = (self._line + text).split("\n")
        for line in lines:
            self._console.print(Text.from_ansi(line), soft_wrap=True)
        return len(text)

    def isatty(self) -> bool:
        """Return that this is a terminal."""
        return True


class _Drawing:
    """Passes progress on to a bar, but not more often than eyes can follow."""

    def __init__(self, bar: Progress, label: str) -> None:
        self._bar = bar
        self._task = bar.add_task(label, total=None)
        self._done = 0
        self._next = 0.0

    def __call__(self, done: int, total: int) -> None:
        now = time.monotonic()
        if now < self._next and self._done <= done < total:
            return
        self._next = now + 1 / _DRAWINGS_PER_SECOND
        if done < self._done:  # something else is counted now, at another rate
            self._bar.reset(self._task)
        self._done = done
        self._bar.update(self._task, completed=done, total=total)


class _Numbers(ProgressColumn):
    """How much is done, how fast, and how long the rest takes."""

    def __init__(self, unit: str) -> None:
        self._unit = unit
        super().__init__()

    def render(self, task: Task) -> Text:
        """Return what a bar tells in words."""
        if task.total is None:
            return Text("")
        words = [self._done(task.completed, task.total)]
        if task.speed:
            words.append(f"{self._amount(task.speed)}/s")
        if task.time_remaining is not None:
            minutes, seconds = divmod(int(task.time_remaining), 60)
            words.append(f"{minutes}:{seconds:02} left")
        return Text(", ".join(words), no_wrap=True, overflow="ellipsis")

    def _done(self, done: float, total: float) -> str:
        unit = "" if self._unit == "bytes" else f" {self._unit}"
        return f"{self._amount(done)} of {self._amount(total)}{unit}"

    def _amount(self, number: float) -> str:
        if self._unit == "bytes":
            return human_bytes(int(number))
        return f"{number:,.1f}" if 0 < number < 10 and number != int(number) else f"{int(number):,}"
