"""Words and numbers for people."""

from __future__ import annotations

_UNITS = ("B", "kB", "MB", "GB", "TB", "PB", "EB")


def printable(text: str) -> str:
    """Return text of a file so that it takes one line and cannot steer a terminal."""
    return text if text.isprintable() else "".join(map(_visible, text))


def _visible(character: str) -> str:
    if character.isprintable():
        return character
    if "\udc80" <= character <= "\udcff":  # a byte that is not UTF-8, as surrogateescape has it
        return f"\\x{ord(character) & 0xFF:02x}"
    return character.encode("unicode_escape").decode("ascii")


def human_bytes(byte_length: int) -> str:
    """Return a number of bytes with a decimal unit (1 kB is 1000 B)."""
    number, unit = float(byte_length), 0
    while number >= 999.5 and unit < len(_UNITS) - 1:
        number, unit = number / 1000, unit + 1
    return f"{byte_length} B" if unit == 0 else f"{number:.3g} {_UNITS[unit]}"


def count(number: int, singular: str, plural: str | None = None) -> str:
    """Return a number of things, such as ``1 array`` or ``1,024 arrays``."""
    return f"{number:,} {singular if number == 1 else plural or singular + 's'}"
