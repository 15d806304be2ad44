"""Reading settings files: every field is checked, and none that matters is passed over."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from typing import Any, TypeVar

T = TypeVar("T", int, float, str, bool)
_REQUIRED: Any = object()


class Fields:
    """A JSON object whose fields are taken by name and type.  All complaints are ValueErrors that say
    where the object comes from (`where`)."""

    def __init__(self, values: object, where: str) -> None:
        if not isinstance(values, Mapping):
            raise ValueError(f"{where} must be a JSON object, not {values!r}")
        self.values: Mapping[str, Any] = values
        self.where = where
        self._taken: set[str] = set()

    def __contains__(self, name: str) -> bool:
        """Whether the field exists and is not null."""
        return self.values.get(name) is not None

    def take(self, name: str, kind: type[T], default: T = _REQUIRED, *, least: int = 1) -> T:
        """The field; `default` if it is missing or null.  Integers must be `least` or more, and stand for
        floats too; floats must be finite."""
        self._taken.add(name)
        value = self.values.get(name)
        if value is None:
            if default is _REQUIRED:
                raise ValueError(f"{self.where} lacks {name!r}")
            return default
        if kind is float and isinstance(value, int) and not isinstance(value, bool):
            value = float(value)
        if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
            raise ValueError(f"{self.where}: {name} must be {kind.__name__}, not {value!r}")
        if isinstance(value, int) and kind is int and value < least:
            raise ValueError(f"{self.where}: {name} must be at least {least}, not {value}")
        if isinstance(value, float) and not math.isfinite(value):
            raise ValueError(f"{self.where}: {name} must be a finite number, not {value}")
        return value

    def optional(self, name: str, kind: type[T]) -> T | None:
        """As `take`, None if the field is missing or null."""
        if name not in self:
            self._taken.add(name)
            return None
        return self.take(name, kind)

    def several(self, name: str, kind: type[T], default: tuple[T, ...] = _REQUIRED) -> tuple[T, ...]:
        """A list, each item as `take` would."""
        self._taken.add(name)
        value = self.values.get(name)
        if value is None and default is not _REQUIRED:
            return default
        if not isinstance(value, list | tuple):
            raise ValueError(f"{self.where}: {name} must be a list, not {value!r}")
        items = Fields({f"{name}[{i}]": item for i, item in enumerate(value)}, self.where)
        return tuple(items.take(item, kind) for item in items.values)

    def expect(self, name: str, value: object, *others: object) -> None:
        """Raises unless the field is missing, null, or one of the given values."""
        self._taken.add(name)
        found = self.values.get(name)
        if found is not None and found not in (value, *others):
            raise ValueError(
                f"{self.where}: {name} is {found!r}, which is not supported; supported is {value!r}"
            )

    def inner(self, name: str) -> Fields:
        """A JSON object inside this one."""
        self._taken.add(name)
        if name not in self:
            raise ValueError(f"{self.where} lacks {name!r}")
        return Fields(self.values[name], f"{self.where}: {name}")

    def done(self, ignored: Collection[str] = ()) -> None:
        """Raises if fields are left that nobody took."""
        given = {name for name, value in self.values.items() if value is not None}
        rest = sorted(given - self._taken - set(ignored))
        if rest:
            raise ValueError(f"{self.where} has fields of unknown meaning: {rest}")
