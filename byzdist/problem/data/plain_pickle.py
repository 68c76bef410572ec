"""Reads the values in a pickle of protocol 2 without making any object: nothing that the file names is looked up, imported or called.

It knows the opcodes of numbers, strings, lists, tuples and dictionaries, and those with which numpy describes an array. The
protocol is that of the comments in CPython's `pickletools`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


class PlainPickleError(Exception):
    """The content is not a pickle of plain values, or is damaged."""


@dataclass
class Named:
    """What an unpickler would look up by ``name``, call with ``arguments``, and give the ``state``."""

    name: str
    arguments: Any = None
    state: Any = None


def plain_values(content: bytes) -> Any:
    """Return the value in a pickle: numbers, None, strings as bytes, lists, tuples, dictionaries, and `Named` in place of objects.

    Raises:
        PlainPickleError: for any other opcode, and for damaged content.
    """
    try:
        return _Reader(content).value()
    except (IndexError, KeyError, TypeError, ValueError) as error:
        raise PlainPickleError(f"it is damaged ({error})") from error


class _Reader:
    def __init__(self, content: bytes) -> None:
        self._content, self._place = content, 0
        self._stack: list[Any] = []
        self._below: list[list[Any]] = []  # the stacks below each mark
        self._memo: dict[int, Any] = {}

    def value(self) -> Any:
        """Carry out the opcodes up to STOP, and return the value that is left."""
        while (code := self._take(1)) != b".":
            if code not in _OPCODES:
                raise PlainPickleError(f"it has opcode {code!r}, which plain values do not need")
            _OPCODES[code](self)
        (value,) = self._stack
        return value

    def _take(self, count: int) -> bytes:
        end = self._place + count
        if count < 0 or end > len(self._content):
            raise PlainPickleError("it ends too early")
        self._place, start = end, self._place
        return self._content[start:end]

    def _number(self, width: int, signed: bool = False) -> int:
        return int.from_bytes(self._take(width), "little", signed=signed)

    def _line(self) -> str:
        end = self._content.index(b"\n", self._place)
        line = self._take(end - self._place).decode("ascii")
        self._place += 1
        return line

    def _push(self, value: Any) -> None:
        self._stack.append(value)

    def _pop(self) -> Any:
        return self._stack.pop()

    def _since_mark(self) -> list[Any]:
        items, self._stack = self._stack, self._below.pop()
        return items

    def _top(self, kind: type) -> Any:
        if not isinstance(self._stack[-1], kind):
            raise PlainPickleError(f"it has a {type(self._stack[-1]).__name__} where a {kind.__name__} belongs")
        return self._stack[-1]

    def protocol(self) -> None:
        if (number := self._number(1)) != 2:
            raise PlainPickleError(f"it is of protocol {number}, not 2")

    def mark(self) -> None:
        self._below.append(self._stack)
        self._stack = []

    def tuple_since_mark(self) -> None:
        items = tuple(self._since_mark())
        self._push(items)

    def extend(self) -> None:
        items = self._since_mark()
        self._top(list).extend(items)

    def append(self) -> None:
        item = self._pop()
        self._top(list).append(item)

    def update(self) -> None:
        items = self._since_mark()
        self._top(dict).update(zip(items[::2], items[1::2], strict=True))

    def set_item(self) -> None:
        value, key = self._pop(), self._pop()
        self._top(dict)[key] = value

    def name(self) -> None:
        self._push(Named(f"{self._line()} {self._line()}"))

    def call(self) -> None:
        arguments, called = self._pop(), self._top(Named)
        self._stack[-1] = Named(called.name, arguments)

    def build(self) -> None:
        state = self._pop()
        self._top(Named).state = state


def _number(width: int, signed: bool = False) -> Callable[[_Reader], None]:
    return lambda reader: reader._push(reader._number(width, signed))


def _string(width: int) -> Callable[[_Reader], None]:
    return lambda reader: reader._push(reader._take(reader._number(width)))


def _constant(make: Callable[[], Any]) -> Callable[[_Reader], None]:
    return lambda reader: reader._push(make())


def _tuple(size: int) -> Callable[[_Reader], None]:
    def push(reader: _Reader) -> None:
        items = [reader._pop() for _ in range(size)]
        reader._push(tuple(reversed(items)))

    return push


def _remember(width: int) -> Callable[[_Reader], None]:
    def put(reader: _Reader) -> None:
        reader._memo[reader._number(width)] = reader._stack[-1]

    return put


def _recall(width: int) -> Callable[[_Reader], None]:
    return lambda reader: reader._push(reader._memo[reader._number(width)])


_OPCODES: dict[bytes, Callable[[_Reader], None]] = {
    b"\x80": _Reader.protocol,
    b"K": _number(1),
    b"M": _number(2),
    b"J": _number(4, signed=True),
    b"\x8a": lambda reader: reader._push(reader._number(reader._number(1), signed=True)),
    b"U": _string(1),
    b"T": _string(4),
    b"X": _string(4),
    b"N": _constant(lambda: None),
    b"\x88": _constant(lambda: True),
    b"\x89": _constant(lambda: False),
    b"]": _constant(list),
    b"}": _constant(dict),
    b")": _constant(tuple),
    b"\x85": _tuple(1),
    b"\x86": _tuple(2),
    b"\x87": _tuple(3),
    b"(": _Reader.mark,
    b"t": _Reader.tuple_since_mark,
    b"e": _Reader.extend,
    b"a": _Reader.append,
    b"u": _Reader.update,
    b"s": _Reader.set_item,
    b"q": _remember(1),
    b"r": _remember(4),
    b"h": _recall(1),
    b"j": _recall(4),
    b"c": _Reader.name,
    b"R": _Reader.call,
    b"b": _Reader.build,
}
