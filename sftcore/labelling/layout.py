"""Positions of the parts of each message in a rendering."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import islice
from typing import Any

from sftcore.labelling.rendering.provenance import (
    CALL_ID,
    CALL_NAME,
    END_GENERATION,
    ENTER,
    EXIT,
    GENERATION,
    HEADER,
    MIXED,
    split_tag,
)
from sftcore.labelling.rendering.renderer import Piece, Rendering


class Layout:
    """The pieces of a rendering, by message.

    Attributes:
        text: the rendering.
        own: for each message the pieces that are its content, reasoning or calls, in order.
        blocks: for each message the ranges in which a loop of the template prints it.
        printed: all pieces in order, with the index of the message; -1 for text of several messages.
        marked: the ranges that the template itself marks with ``{% generation %}``.
    """

    def __init__(self, rendering: Rendering, messages: Sequence[Mapping[str, Any]]) -> None:
        self.text = rendering.text
        self.known = rendering.known
        self.own: list[list[Piece]] = [[] for _ in messages]
        self.blocks: list[list[tuple[int, int]]] = [[] for _ in messages]
        self.printed: list[tuple[int, Piece]] = []
        self.marked: list[tuple[int, int]] = []
        self._index(rendering.pieces, [len(message.get("tool_calls") or ()) for message in messages])
        self._starts = [piece.start for _, piece in self.printed]

    def _index(self, pieces: list[Piece], calls: Sequence[int]) -> None:
        named: Counter[int] = Counter()
        inside: list[tuple[int, int]] = []  # (message, begin) of the blocks that are open, outermost first
        marks: list[int] = []
        for piece in pieces:
            start, end, tag = piece
            if tag == GENERATION:
                marks.append(start)
            elif tag == END_GENERATION:
                self.marked.append((marks.pop(), start))
            elif tag == MIXED:
                self.printed.append((-1, piece))
            elif tag >= 0:
                message, field = split_tag(tag)
                if field == ENTER:
                    if not inside or inside[-1][0] != message:
                        inside.append((message, start))
                elif field == EXIT:
                    self._leave(inside, message, start)
                elif end > start:
                    self.printed.append((message, piece))
                    named[tag] += 1
                    # a tool's result repeats name and id of the call it answers
                    elsewhere = bool(inside) and inside[0][0] != message
                    repeated = field in (CALL_NAME, CALL_ID) and (elsewhere or named[tag] > calls[message])
                    if field != HEADER and not repeated:
                        self.own[message].append(piece)

    def _leave(self, inside: list[tuple[int, int]], message: int, end: int) -> None:
        """Close the innermost open block of *message*, and those that were left open in it."""
        for depth in range(len(inside) - 1, -1, -1):
            if inside[depth][0] == message:
                if not depth and end > inside[0][1]:
                    self.blocks[message].append((inside[0][1], end))
                del inside[depth:]
                return

    def block_of(self, message: int, start: int = 0) -> tuple[int, int] | None:
        """The block of *message* at or after *start*: the last that has some of its own text."""
        chosen = None
        for block in self.blocks[message]:
            if block[1] < start:
                continue
            if any(block[0] <= piece.start and piece.end <= block[1] for piece in self.own[message]) or chosen is None:
                chosen = block
        return chosen

    def messages_begun(self, end: int) -> int:
        """Number of messages up to the last one with text before *end*."""
        owners = [owner for owner, piece in self.printed if piece.start < end]
        owners += [message for message, blocks in enumerate(self.blocks) for start, _ in blocks if start < end]
        return max(owners, default=-1) + 1

    def own_from(self, message: int, start: int) -> list[Piece]:
        """The pieces of *message* that belong to the turn that begins at *start*."""
        block = self.block_of(message, start)
        pieces = [piece for piece in self.own[message] if piece.end > start]
        inside = [piece for piece in pieces if block and block[0] <= piece.start and piece.end <= block[1]]
        return inside or pieces

    def next_other(self, message: int, at: int, headers: bool = True) -> int:
        """Start of the next text of another message at or after *at*; *headers* count."""
        for owner, piece in islice(self.printed, bisect_left(self._starts, at), None):
            if owner != message and (headers or owner < 0 or piece.tag & 7 != HEADER):
                return piece.start
        return len(self.text)

    def others_between(self, message: int, start: int, end: int) -> list[Piece]:
        """Pieces of other messages with text between *start* and *end*, without headers."""
        found: list[Piece] = []
        first = max(bisect_left(self._starts, start) - 1, 0)  # the one before may reach over
        for owner, piece in islice(self.printed, first, None):
            if piece.start >= end:
                break
            if piece.end > start and owner != message and (owner < 0 or piece.tag & 7 != HEADER):
                found.append(piece)
        return found

    def last_before(self, at: int) -> tuple[int, Piece] | None:
        """The last piece that ends at or before *at* and is not a header, with its message."""
        for owner, piece in reversed(self.printed[: bisect_left(self._starts, at)]):
            if piece.end <= at and (owner < 0 or piece.tag & 7 != HEADER):
                return owner, piece
        return None
