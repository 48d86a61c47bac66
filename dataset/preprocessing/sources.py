"""Reads a byte range of a plain file, or a compressed file, as blocks of complete lines.

Positions are bytes of the uncompressed text, so that a file becomes the same parts whether it is
compressed or not.
"""

from __future__ import annotations

import contextlib
import queue
import threading
import zlib
from collections.abc import Generator, Iterator
from typing import NamedTuple

from dataset.preprocessing.errors import InputError
from storage.install_advice import install_command
from storage.regular import open_regular

#: Bytes read and decoded at a time: the decoder's working set fits the last-level cache.
BLOCK_BYTES = 4 << 20
#: Longer lines are not from a click log.
_MAX_LINE_BYTES = 1 << 20
#: Small, since decompression can enlarge data a thousandfold.
_COMPRESSED_READ = 1 << 18


class Block(NamedTuple):
    """Complete lines of a source.

    Attributes:
        text: the lines, each with its LF.
        bytes_read: number of bytes of the file read so far.
        unterminated: the file has no LF after the last line; the one in `text` was added.
    """

    text: bytes
    bytes_read: int
    unterminated: bool = False


def read_range(path: str, begin: int, end: int) -> Iterator[Block]:
    """Yields Blocks of the lines that begin in bytes [begin, end) of a plain file.

    Raises:
        InputError: the file is unreadable, was truncated meanwhile, or has too long a line.
    """
    try:
        with open_regular(path, buffering=0) as file:
            if begin:
                # The previous byte tells whether a line begins exactly at `begin`.
                file.seek(begin - 1)
                begin += len(_rest_of_line(file, path)) - 1
            if begin >= end:
                return
            file.seek(begin)
            position, carry = begin, b""
            while position < end:
                chunk = file.read(min(BLOCK_BYTES, end - position))
                if not chunk:
                    problem = f"truncated while it was read: expected {end} bytes, found {position}"
                    raise InputError.of_path(path, problem, expected=end, found=position)
                position += len(chunk)
                text, carry = _cut(carry, chunk, path, position)
                if text:
                    yield Block(text, position)
            if carry:
                carry += _rest_of_line(file, path)
                unterminated = not carry.endswith(b"\n")
                yield Block(carry + b"\n" if unterminated else carry, position, unterminated)
    except OSError as error:
        raise InputError.of_path(path, f"cannot be read: {error.strerror}") from error


def _too_long(path, length, position):
    problem = (
        f"expected lines of at most {_MAX_LINE_BYTES} bytes, found no line end in {length} bytes "
        f"near byte {position}; is it a Criteo TSV file?"
    )
    return InputError.of_path(path, problem, found=length, bound=_MAX_LINE_BYTES)


def _rest_of_line(file, path):
    """Returns the bytes up to and including the next LF, or to the end of the file."""
    rest = b""
    while len(rest) <= _MAX_LINE_BYTES:
        chunk = file.read(1 << 16)
        found = chunk.find(b"\n")
        if found >= 0:
            return rest + chunk[: found + 1]
        if not chunk:
            return rest
        rest += chunk
    raise _too_long(path, len(rest), file.tell())


def _cut(carry, chunk, path, position):
    """Returns (complete lines, the rest) of `carry`, which has no line end, and `chunk`."""
    last = chunk.rfind(b"\n") + 1
    rest = chunk[last:] if last else carry + chunk
    if len(rest) > _MAX_LINE_BYTES:
        raise _too_long(path, len(rest), position)
    # A view, since a slice would copy the block again.
    return b"".join((carry, memoryview(chunk)[:last])) if last else b"", rest


def read_compressed(path: str, compression: str) -> Generator[Block, None, None]:
    """Yields Blocks of a gzip or zstd file; a thread decompresses ahead.

    Raises:
        InputError: the file is unreadable, truncated or damaged, or has too long a line.
    """
    with contextlib.closing(_ahead(_decompress(path, compression), depth=2)) as chunks:
        carry, bytes_read, position = b"", 0, 0
        for chunk, bytes_read in chunks:
            position += len(chunk)
            text, carry = _cut(carry, chunk, path, position)
            if text:
                yield Block(text, bytes_read)
        if carry:
            yield Block(carry + b"\n", bytes_read, True)


def _decompress(path, compression):
    """Yields (about BLOCK_BYTES of text, compressed bytes read so far)."""
    make, damaged = _codec(compression)
    pieces, held, bytes_read = [], 0, 0
    try:
        with open_regular(path, buffering=0) as file:
            stream, compressed = make(), b""
            fresh = True
            while True:
                if not compressed:
                    compressed = file.read(_COMPRESSED_READ)
                    bytes_read += len(compressed)
                    if not compressed:
                        break
                if stream.eof:  # Another member or frame follows, or padding as on tapes.
                    compressed = compressed.lstrip(b"\0") if compression == "gzip" else compressed
                    stream, fresh = make(), True
                    continue
                piece = stream.decompress(compressed)
                compressed, fresh = stream.unused_data if stream.eof else b"", False
                # The last block waits for the bytes after the text, so that it counts them.
                if held >= BLOCK_BYTES and piece:
                    yield b"".join(pieces), bytes_read
                    pieces, held = [], 0
                pieces.append(piece)
                held += len(piece)
            if bytes_read == 0 or (not fresh and not stream.eof):
                raise InputError.of_path(path, "truncated: the compressed stream has no end")
    except OSError as error:
        raise InputError.of_path(path, f"cannot be read: {error.strerror or error}") from error
    except damaged as error:
        raise InputError.of_path(path, f"damaged {compression} data: {error}") from error
    if held:
        yield b"".join(pieces), bytes_read


def _codec(compression):
    """Returns (a function that makes a decompressor, the type of its errors)."""
    if compression == "gzip":
        # 16 + 15: a gzip member, checksum verified.
        return lambda: zlib.decompressobj(wbits=31), zlib.error
    try:
        import zstandard
    except ImportError as error:
        message = f"reading .zst needs zstandard; try {install_command('zstandard')}"
        raise InputError(message) from error
    return lambda: zstandard.ZstdDecompressor().decompressobj(), zstandard.ZstdError


def _ahead(items, depth):
    """Yields from `items`; a thread reads up to `depth` items ahead."""
    ready, stop = queue.Queue(depth), threading.Event()
    end = object()

    def draw():
        try:
            for item in items:
                if not _put(item):
                    return
            _put(end)
        except BaseException as error:
            _put(error)

    def _put(item):
        while not stop.is_set():
            with contextlib.suppress(queue.Full):
                ready.put(item, timeout=0.1)
                return True
        return False

    thread = threading.Thread(target=draw, daemon=True)
    thread.start()
    try:
        while True:
            item = ready.get()
            if item is end:
                return
            if isinstance(item, BaseException):
                raise item
            yield item
    finally:
        stop.set()
        thread.join()
