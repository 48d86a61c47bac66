"""Decodes text fields to integers, many at a time, straight from the bytes of a block.

A field is a span of a `ByteBlock`. Eight bytes are fetched per field as one little-endian word
whose most significant byte is the field's last character; digits are then combined within the word
(SIMD within a register), so that a column of fields costs a few passes over machine words and no
Python object is made for any of them.
"""

from __future__ import annotations

import numpy as np

#: Bytes of padding before and after the text of a `ByteBlock`.
PADDING = 16
#: Longest categorical field: eight hexadecimal digits are 32 bits.
HEX_DIGITS = 8
#: Longest run of decimal digits that is looked at; longer ones do not fit int32 anyway.
_DECIMAL_DIGITS = 16

_U64 = np.uint64
_INT32_MAX = np.iinfo(np.int32).max


def _repeat(byte):
    return _U64(int.from_bytes(bytes([byte]) * 8, "little"))


class ByteBlock:
    """Bytes with padding around them, from which any eight bytes can be fetched as one word.

    Attributes:
        bytes: uint8 array, the padded text. Positions of fields count from its start.
    """

    def __init__(self, text: bytes | memoryview | np.ndarray):
        """Copies `text` (bytes-like, or a uint8 array) between two paddings."""
        text = np.frombuffer(text, np.uint8)
        size = PADDING + text.size + PADDING
        self.bytes = np.zeros(size + -size % 8, np.uint8)
        self.bytes[PADDING : PADDING + text.size] = text
        self._words = self.bytes.view("<u8")

    def words_ending_at(self, ends: np.ndarray) -> np.ndarray:
        """Returns uint64 [n]: the eight bytes before each position of int64 `ends`."""
        index = ends - 8
        shift = index.view(_U64) & _U64(7)
        shift <<= _U64(3)
        index >>= 3
        low = self._words.take(index)
        index += 1
        high = self._words.take(index)
        low >>= shift
        # A shift by 64 gives 0 in NumPy, so aligned words need no case of their own.
        np.subtract(_U64(64), shift, out=shift)
        high <<= shift
        low |= high
        return low


def _other_bits(lengths):
    """Returns uint64 [n]: how many bits of a word lie before a field of `lengths` bytes, 0 to 8."""
    bits = 8 - lengths
    bits <<= 3
    return bits.view(_U64)


def _hex_words(words):
    """Returns (values, valid) of words of eight ASCII hexadecimal digits."""
    nibbles = words >> _U64(6)
    nibbles &= _repeat(0x01)
    nibbles *= _U64(9)
    nibbles += words & _repeat(0x0F)
    # Writing the digits again and comparing catches every character that is not one.
    letters = nibbles + _repeat(0x06)
    letters >>= _U64(4)
    letters &= _repeat(0x01)
    again = letters * _U64(0x27)
    again += nibbles
    again += _repeat(0x30)
    letters <<= _U64(5)
    letters |= words
    again ^= letters
    again |= nibbles & _repeat(0xF0)
    valid = again == 0
    values = nibbles << _U64(4)
    nibbles >>= _U64(8)
    values |= nibbles
    values &= _U64(0x00FF00FF00FF00FF)
    values = (values << _U64(8)) | (values >> _U64(16))
    values &= _U64(0x0000FFFF0000FFFF)
    values = (values << _U64(16)) | (values >> _U64(32))
    values &= _U64(0xFFFFFFFF)
    return values, valid


def _decimal_words(words, lengths):
    """Returns (values, valid) of words whose last `lengths` bytes are ASCII decimal digits."""
    digits = words ^ _repeat(0x30)
    others = _other_bits(lengths)
    digits >>= others
    digits <<= others  # What stood before the field is leading zeros now.
    over = digits + _repeat(0x76)
    over |= digits
    over &= _repeat(0x80)
    valid = over == 0
    # An invalid word may carry from byte to byte; its value is never used.
    values = digits * _U64(10) + (digits >> _U64(8))
    values &= _U64(0x00FF00FF00FF00FF)
    values = values * _U64(100) + (values >> _U64(16))
    values &= _U64(0x0000FFFF0000FFFF)
    values = values * _U64(10000) + (values >> _U64(32))
    values &= _U64(0xFFFFFFFF)
    return values, valid


def decode_hex(
    block: ByteBlock, starts: np.ndarray, ends: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Decodes hexadecimal fields of up to eight digits, in either case.

    Args:
        block: ByteBlock.
        starts: int64 [n], position of each field's first byte.
        ends: int64 [n], position after its last byte; equal to the start for a missing value.

    Returns:
        values: uint32 [n], 0 where missing or invalid.
        present: bool [n], the field is not empty.
        valid: bool [n], empty or one to eight hexadecimal digits.
    """
    lengths = ends - starts
    present = lengths > 0
    full = lengths == HEX_DIGITS
    words = block.words_ending_at(ends)
    if np.array_equal(full, present):
        # All there are have eight digits, as in Criteo's files.
        values, valid = _hex_words(words)
        values *= present
        valid |= ~present
        return values.astype(np.uint32), present, valid
    fits = lengths <= HEX_DIGITS
    others = _other_bits(np.minimum(lengths, HEX_DIGITS))
    words >>= others
    words <<= others
    # The digit '0' in every byte that is not the field's own.
    words |= ~((~_U64(0) >> others) << others) & _repeat(ord("0"))
    values, valid = _hex_words(words)
    valid &= fits
    return values.astype(np.uint32), present, valid


def decode_integers(
    block: ByteBlock, starts: np.ndarray, ends: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Decodes decimal int32 fields with an optional minus sign.

    Arguments and results are those of `decode_hex`, with int32 values.
    """
    length = ends - starts
    present = length > 0
    negative = block.bytes.take(starts) == ord("-")
    negative &= present
    digits = length - negative
    values, valid = _decimal_words(block.words_ending_at(ends), np.minimum(digits, 8))
    values = values.view(np.int64)
    valid &= (digits > 0) | ~present
    longest = digits.max(initial=0)
    if longest > 8:
        long = np.flatnonzero(digits > 8)
        words = block.words_ending_at(ends[long] - 8)
        high, decimal = _decimal_words(words, np.minimum(digits[long] - 8, 8))
        valid[long] &= decimal & (digits[long] <= _DECIMAL_DIGITS)
        values[long] += high.view(np.int64) * 10**8
    # Minus one flips the bits and adds one: no masked loop.
    sign = negative.astype(np.int64)
    values ^= -sign
    values += sign
    if longest > 8:
        valid &= (values <= _INT32_MAX) & (values >= -_INT32_MAX - 1)
    if not valid.all():
        values[~valid] = 0
    return values.astype(np.int32), present, valid
