"""Fields of a structure, read one after another."""

from __future__ import annotations

from h5zarr.prefetch.tasks import FileFormat, FormatError


class Fields:
    """A position in the bytes of a structure, and the widths that the file gives its fields.

    All integers of the format are unsigned and little-endian (HDF5 File Format Specification, I.A).

    Parameters
    ----------
    view
        The bytes.
    file_format
        Tells the widths of addresses and lengths.
    position
        Where to begin in ``view`` (bytes).
    """

    __slots__ = ("_format", "position", "view")

    def __init__(self, view: memoryview, file_format: FileFormat, position: int = 0) -> None:
        self.view = view
        self.position = position
        self._format = file_format

    def take(self, byte_length: int) -> memoryview:
        """Return the next bytes."""
        end = self.position + byte_length
        if byte_length < 0 or end > len(self.view):
            raise FormatError("the structure ends early")
        content = self.view[self.position : end]
        self.position = end
        return content

    def uint(self, width: int) -> int:
        """Return an integer of so many bytes."""
        end = self.position + width
        if end > len(self.view):
            raise FormatError("the structure ends early")
        value = int.from_bytes(self.view[self.position : end], "little")
        self.position = end
        return value

    def address(self) -> int:
        """Return an address, relative to the file's base address."""
        return self.uint(self._format.offset_width)

    def length(self) -> int:
        """Return a length."""
        return self.uint(self._format.length_width)

    def skip(self, byte_length: int) -> None:
        """Leave out bytes, which need not be there."""
        self.position += byte_length

    def expect(self, signature: bytes) -> None:
        """Skip a signature."""
        if bytes(self.take(len(signature))) != signature:
            raise FormatError(f"no {signature!r}")

    def text(self) -> bytes:
        """Return the bytes up to the next NUL, and skip it."""
        content = bytes(self.view[self.position :])
        end = content.index(b"\0")
        self.position += end + 1
        return content[:end]

    @property
    def remaining(self) -> int:
        """How much is left (bytes)."""
        return len(self.view) - self.position
