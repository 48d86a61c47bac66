"""Reads an input file as blocks of whole lines: a byte range of a plain file, or a compressed one.

Positions are bytes of the uncompressed text, so that a file gives the same parts whether it is
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

#: Bytes read and decoded at a time; the decoder's working set then stays in the last-level cache.
BLOCK_BYTES = 4 << 20
#: A line longer than this is no click log.
_LONGEST_LINE = 1 << 20
#: Kept small: a run of one byte grows a thousandfold when it is decompressed.
_COMPRESSED_READ = 1 << 18


class Block(NamedTuple):
    """Whole lines of a source.

    Attributes:
        text: the lines, each with its LF.
        bytes_read: how many bytes of the file were read so far.
        unterminated: the file has no LF after the last line, which `text` shows with one.
    """

    text: bytes
    bytes_read: int
    unterminated: bool = False


def read_range(path: str, begin: int, end: int) -> Iterator[Block]:
    """Yields Blocks of the lines that begin in bytes [begin, end) of a plain file.

    A line that begins before `begin` belongs to the range before; the last line is read to its end.
    """
    try:
        with open_regular(path, buffering=0) as file:
            if begin:
                # The byte before decides whether a line begins exactly at `begin`.
                file.seek(begin - 1)
                skipped = _line_rest(file, path, begin - 1)
                begin = begin - 1 + skipped
            if begin >= end:
                return
            file.seek(begin)
            position, carry = begin, b""
            while position < end:
                chunk = file.read(min(BLOCK_BYTES, end - position))
                if not chunk:
                    raise InputError(
                        f"{path}: was cut while it was read: expected {end} bytes at least, found "
                        f"{position}"
                    )
                position += len(chunk)
                text, carry = _cut(carry, chunk, path, position)
                if text:
                    yield Block(text, position)
            if carry:
                carry += _rest_of_line(file, path)
                unterminated = not carry.endswith(b"\n")
                yield Block(carry + b"\n" if unterminated else carry, position, unterminated)
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from error


def _line_rest(file, path, position):
    """Returns how many bytes the rest of the line at the file's position has, its LF included."""
    length = 0
    while True:
        chunk = file.read(1 << 16)
        found = chunk.find(b"\n")
        if found >= 0 or not chunk:
            return length + (found + 1 if found >= 0 else 0)
        length += len(chunk)
        if length > _LONGEST_LINE:
            raise InputError(f"{path}: no line end in {length} bytes at byte {position}")


def _rest_of_line(file, path):
    rest = b""
    while len(rest) <= _LONGEST_LINE:
        chunk = file.read(1 << 16)
        found = chunk.find(b"\n")
        if found >= 0:
            return rest + chunk[: found + 1]
        if not chunk:
            return rest
        rest += chunk
    raise InputError(f"{path}: no line end in {len(rest)} bytes")


def _cut(carry, chunk, path, position):
    """Returns (whole lines, what is left) of `carry`, which has no line end, and `chunk`."""
    last = chunk.rfind(b"\n") + 1
    rest = chunk[last:] if last else carry + chunk
    if len(rest) > _LONGEST_LINE:
        raise InputError(
            f"{path}: no line end in {len(rest)} bytes before byte {position}: "
            f"not a Criteo TSV file"
        )
    # A view, since a slice would copy the block once more.
    return b"".join((carry, memoryview(chunk)[:last])) if last else b"", rest


def read_compressed(path: str, compression: str) -> Generator[Block, None, None]:
    """Yields Blocks of a whole gzip or zstd file; a thread of its own decompresses ahead."""
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
    make = _gzip_decompressor if compression == "gzip" else _zstd_decompressor
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
                if stream.eof:  # Another member or frame follows, or the padding that tapes leave.
                    compressed = compressed.lstrip(b"\0") if compression == "gzip" else compressed
                    stream, fresh = make(), True
                    continue
                piece = stream.decompress(compressed)
                compressed, fresh = stream.unused_data if stream.eof else b"", False
                pieces.append(piece)
                held += len(piece)
                if held >= BLOCK_BYTES:
                    yield b"".join(pieces), bytes_read
                    pieces, held = [], 0
            if bytes_read == 0 or (not fresh and not stream.eof):
                raise InputError(f"{path}: truncated: the compressed stream has no end")
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror or error}") from error
    except _decompression_errors(compression) as error:
        raise InputError(f"{path}: damaged {compression} data: {error}") from error
    if held:
        yield b"".join(pieces), bytes_read


def _gzip_decompressor():
    return zlib.decompressobj(wbits=31)  # 16 + 15: a gzip member, checksum verified.


def _zstd_decompressor():
    return _zstandard().ZstdDecompressor().decompressobj()


def _decompression_errors(compression):
    return (zlib.error,) if compression == "gzip" else (_zstandard().ZstdError,)


def _zstandard():
    try:
        import zstandard
    except ImportError as error:
        raise InputError(f"reading .zst needs zstandard: {install_command('zstandard')}") from error
    return zstandard


def _ahead(items, depth):
    """Yields from `items`, which a thread draws up to `depth` items ahead."""
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
