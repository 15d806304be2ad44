"""What one request, and all together, may ask of a server."""

from __future__ import annotations

from dataclasses import dataclass, fields


@dataclass(frozen=True)
class Limits:
    """The defaults suit a server that strangers may reach.

    Raises ValueError for a limit below 1.
    """

    waiting: int = 256  # requests in the queue; more are told to come back later
    seconds: float = 600.0  # from a request's arrival to its end
    body: int = 32 * 2**20  # bytes of a request
    pixels: int = 32_000_000  # of a picture that is sent
    images: int = 16  # pictures in one conversation
    tokens: int = 2048  # of one answer
    n: int = 16  # pictures or answers of one request
    characters: int = 100_000  # of all words of one request

    def __post_init__(self) -> None:
        for one in fields(self):
            if getattr(self, one.name) < 1:
                raise ValueError(f"the limit {one.name} must be at least 1, not {getattr(self, one.name)}")
