"""An answer's words as they may be shown: stripped at both ends, and never with a part of a stop word."""

from __future__ import annotations

from collections.abc import Sequence


class Words:
    """Turns what a model has written so far into pieces to send on.

    What may yet turn out to be white space at the end, or the beginning of one of `stops`, is held back.
    Attributes: `text`, all pieces so far; `hit`, whether a stop word came, after which nothing more does.
    """

    def __init__(self, stops: Sequence[str] = ()) -> None:
        self._stops = stops
        self._longest = max(map(len, stops), default=0)
        self._looked = 0  # characters in which no stop word begins
        self.text, self.hit = "", False

    def push(self, written: str, over: bool = False) -> str:
        """What is new in all that is `written`; `over` says that no more will come."""
        if self.hit:
            return ""
        words = written.lstrip()
        found = [at for at in (words.find(stop, self._looked) for stop in self._stops) if at >= 0]
        if found:
            self.hit, words = True, words[: min(found)]
        elif not over:
            words = words[: len(words) - self._held(words)]
            self._looked = len(words)
        piece = words.rstrip()[len(self.text) :]
        self.text += piece
        return piece

    def _held(self, words: str) -> int:
        """How many characters at the end could begin a stop word."""
        for count in range(min(self._longest - 1, len(words)), 0, -1):
            if any(stop.startswith(words[-count:]) for stop in self._stops):
                return count
        return 0
