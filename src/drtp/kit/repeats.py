"""What is still so is said at first, then ever more rarely: a log with a line a second is a log that nobody reads."""

from __future__ import annotations

from drtp.kit.clock import Clock

FIRST_S = 10.0
MAX_S = 600.0
"""Whoever looks at the last minutes of a log still finds why."""


class Repeats:
    """Judges one kind of line. Not for decisions: of these every one is said."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._said: object = None
        self._due = 0.0
        self._pause_s = FIRST_S

    def is_news(self, what: object) -> bool:
        """Whether to say it: it is another than before, or its time has come again, each time twice as long."""
        now = self._clock.monotonic()
        if what != self._said:
            self._said, self._pause_s = what, FIRST_S
        elif now < self._due:
            return False
        else:
            self._pause_s = min(2 * self._pause_s, MAX_S)
        self._due = now + self._pause_s
        return True

    def over(self) -> None:
        """It is so no more: the next one is news."""
        self._said = None
