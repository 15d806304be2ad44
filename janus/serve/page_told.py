"""What the page says about work under way, and about what went wrong."""

from __future__ import annotations

import logging
import time

from janus.serve.tickets import ClosingError, DroppedError, Ticket, TooLateError, TooManyError

_log = logging.getLogger(__name__)


def sentence(error: Exception) -> str:
    """What went wrong; the trace of what should not happen goes into the log."""
    if isinstance(error, DroppedError):
        return "Stopped."
    if isinstance(error, ValueError | TooManyError | ClosingError | TooLateError):
        text = " ".join(str(error).split()) or "that did not work"
    else:
        _log.error("a request of the page failed", exc_info=error)
        text = "something went wrong on the server; its log says what"
    return text[0].upper() + text[1:].rstrip(".") + "."


def place(ticket: Ticket) -> str:
    """2nd in the queue."""
    return f"{_ordinal(ticket.place)} in the queue" if ticket.place else "In the queue"


def drawing(ticket: Ticket) -> str:
    """The place in the queue, or steps, speed and time left."""
    if ticket.state == "waiting":
        return place(ticket)
    words = f"{ticket.steps} of {ticket.most} steps"
    seconds = time.monotonic() - ticket.begun if ticket.begun else 0.0
    if ticket.steps and seconds > 0.2:
        left = seconds / ticket.steps * (ticket.most - ticket.steps)
        words += f" · {ticket.new_tokens / seconds:.0f} tokens/s · {_span(left)} left"
    return words


def drawn(ticket: Ticket) -> str:
    seconds = max(ticket.ended - (ticket.begun or ticket.queued), 1e-3)
    count = len(ticket.pictures)
    what = "1 picture" if count == 1 else f"{count} pictures"
    return f"{what} in {_span(seconds)}, {ticket.new_tokens / seconds:.0f} tokens/s"


def answering(ticket: Ticket) -> str:
    if ticket.state == "waiting":
        return place(ticket)
    if not ticket.steps:
        return "Reading the question and its pictures ..."
    tokens = "1 token" if ticket.steps == 1 else f"{ticket.steps} tokens"
    if not ticket.over:
        return tokens
    end = ", cut there by the settings" if ticket.finish == "length" else ""
    return f"{tokens} in {_span(ticket.ended - (ticket.begun or ticket.queued))}{end}"


def _ordinal(number: int) -> str:
    """1st, 2nd, 3rd, 4th, 11th ..."""
    ending = "th" if number % 100 in (11, 12, 13) else {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th")
    return f"{number}{ending}"


def _span(seconds: float) -> str:
    if seconds >= 90:
        return f"{seconds / 60:.0f} min"
    if seconds < 0.1:
        return "under 0.1 s"
    return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
