"""One JSON array of objects, read element by element.

A small scanner finds where each element ends; its bytes then go through the same parser as a line. So the
position behind every element is known to the byte, and one bad element does not spoil the others.
"""

import re
from collections.abc import Iterator
from typing import IO, Final

from annotation.formats.records import MAX_ROW, Record, UnreadableFile, record_of, without_mark

READ: Final = 1024**2
# A whole string, a bracket, or the quote of a string whose end has not been read yet.
TOKEN: Final = re.compile(rb'"(?:[^"\\]++|\\.)*+"|[\[\]{}]|"', re.DOTALL)
SPACE_OR_COMMA: Final = re.compile(rb"[\s,]*+")
SCALAR: Final = re.compile(rb"[^\s,\]]++")
STEP: Final = {b"{": 1, b"[": 1, b"}": -1, b"]": -1}
ENDS_EARLY: Final = "The JSON array ends in the middle of row {}; the file was cut off."


def read_elements(file: IO[bytes], *, position: int = 0, number: int = 0) -> Iterator[Record]:
    """The elements from a byte position on (0, or behind an element); `number` lie before it."""
    scanner = _Scanner(file, position)
    if position == 0:
        scanner.enter()
    while True:
        if (first := scanner.peek()) is None:
            raise UnreadableFile(ENDS_EARLY.format(number + 1))
        if first == b"]":
            return
        number += 1
        raw = scanner.take(number)
        yield record_of(number, scanner.position, raw)


class _Scanner:
    """A window on the file: `_buffer[_start:]` begins at byte `position`."""

    def __init__(self, file: IO[bytes], position: int) -> None:
        file.seek(position)
        self._file, self.position = file, position
        self._buffer, self._start = b"", 0

    def enter(self) -> None:
        """Step over the opening bracket."""
        self._more()
        self._drop(len(self._buffer) - len(without_mark(self._buffer)))
        if self.peek() != b"[":
            raise UnreadableFile("The file is no JSON array.")
        self._drop(1)

    def peek(self) -> bytes | None:
        """The first byte of the next element; None at the end of the file."""
        while True:
            skipped = SPACE_OR_COMMA.match(self._buffer, self._start)
            self._drop(len(skipped.group()) if skipped else 0)
            if self._start < len(self._buffer):
                return self._buffer[self._start : self._start + 1]
            if not self._more():
                return None

    def take(self, number: int) -> bytes | None:
        """The next element's bytes; None, and nothing kept of it, if it is too long."""
        if self.peek() not in (b"{", b"[", b'"'):
            return self._take_scalar()
        depth, at, too_long = 0, 0, False  # `at` counts from the start of the window
        while True:
            token = TOKEN.search(self._buffer, self._start + at)
            if token is not None and token.group() != b'"':
                at = token.end() - self._start
                depth += STEP.get(token.group(), 0)
                if depth == 0:
                    raw = self._drop(at)
                    return None if too_long or len(raw) > MAX_ROW else raw
                continue
            at = (token.start() if token else len(self._buffer)) - self._start
            if at > MAX_ROW:  # what is behind us of an endless row need not be kept
                too_long, at = bool(self._drop(at)), 0
            if len(self._buffer) - self._start > 2 * MAX_ROW:
                raise UnreadableFile(f"A text in row {number} is longer than {MAX_ROW // 1024**2} MiB.")
            if not self._more():
                raise UnreadableFile(ENDS_EARLY.format(number))

    def _take_scalar(self) -> bytes:
        while True:
            scalar = SCALAR.match(self._buffer, self._start)
            end = scalar.end() if scalar else self._start + 1
            if end < len(self._buffer) or end - self._start > MAX_ROW or not self._more():
                return self._drop(end - self._start)

    def _more(self) -> bool:
        part = self._file.read(READ)
        self._buffer, self._start = self._buffer[self._start :] + part, 0
        return bool(part)

    def _drop(self, count: int) -> bytes:
        dropped = self._buffer[self._start : self._start + count]
        self._start += count
        self.position += count
        return dropped
