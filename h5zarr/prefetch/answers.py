"""What the heads of a server's answers tell of the version of a file that the bytes are of."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from h5zarr.errors import SourceChangedError
from h5zarr.model import SourceIdentity
from h5zarr.versions import difference, told_identity

CONTENT_RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+|\*)")
"""First byte, last byte and length of the whole file (RFC 9110, section 14.4)."""
_FIELDS = ("byte_length", "modified", "etag")


class Answers:
    """All answers for one file, each of which must be of the same version.

    Parameters
    ----------
    name
        The file, for messages.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._known: SourceIdentity | None = None
        self._untold: set[str] = set()
        self._all_tags_are_strong = True

    @property
    def told(self) -> SourceIdentity | None:
        """What every answer told; None before the first one."""
        untold: dict[str, Any] = dict.fromkeys(self._untold)
        return None if self._known is None else replace(self._known, **untold)

    @property
    def entity_tag(self) -> str | None:
        """The entity tag that every answer had, without quotes; None where one had none or a weak one."""
        told = self.told
        return told.etag if told is not None and self._all_tags_are_strong else None

    def note(self, head: Mapping[str, Any], byte_length: int | None) -> None:
        """Take in what an answer tells.

        Parameters
        ----------
        head
            Its head: HTTP's headers, or what botocore makes of them.
        byte_length
            What it tells of the length of the whole file (bytes); None if nothing.

        Raises
        ------
        SourceChangedError
            It is of another version than an answer before.
        """
        answer = told_identity(self._name, head, byte_length)
        known = self._known or answer
        found = difference(known, answer)
        if found is not None:
            raise SourceChangedError(f"{self._name}: changed while it was read: {found}; try again")
        new = {field: getattr(answer, field) for field in _FIELDS}
        self._known = replace(known, **{key: new[key] for key in _FIELDS if getattr(known, key) is None})
        self._untold |= {key for key in _FIELDS if new[key] is None}
        self._all_tags_are_strong &= not str(head.get("ETag")).startswith("W/")


def total_length(content_range: str) -> int | None:
    """Return the length of the whole file that a Content-Range tells (bytes); None if it tells none."""
    matched = CONTENT_RANGE.fullmatch(content_range.strip())
    return None if matched is None or matched[3] == "*" else int(matched[3])
