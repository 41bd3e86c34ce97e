"""What tells one version of a file from another."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from email.utils import parsedate_to_datetime
from typing import Any

from h5zarr.model import SourceIdentity

_TIME_KEYS = ("mtime", "LastModified", "last_modified", "updated", "Last-Modified")


def told_identity(url: str, told: Mapping[str, Any], byte_length: int | None) -> SourceIdentity:
    """Return the identity of a file, of what a filesystem or the head of an answer tells.

    Parameters
    ----------
    url
        The file's URL.
    told
        What is told, under any of the keys that filesystems, HTTP and S3 have for it.
    byte_length
        Length of the whole file (bytes); None where it is not told.
    """
    return SourceIdentity(url=url, byte_length=byte_length, modified=_modified(told), etag=_entity_tag(told))


def difference(before: SourceIdentity, after: SourceIdentity) -> str | None:
    """Return what tells that a file is another one, in words; None where nothing does.

    A time counts only where there are no entity tags: the same content may have been put there again.
    Of a file and a copy of it neither counts.
    """
    names = {"byte_length": "length in bytes", "modified": "time of modification", "etag": "ETag"}
    if before.etag is not None and after.etag is not None:
        del names["modified"]
    if before.is_local_copy != after.is_local_copy:
        names = {"byte_length": names["byte_length"]}
    for field, words in names.items():
        old, new = getattr(before, field), getattr(after, field)
        if old is not None and new is not None and old != new:
            return f"its {words} was {old} and is {new}"
    return None


def tells_as_much(told: SourceIdentity, known: SourceIdentity) -> bool:
    """Return whether `difference` compares all that is known of a file with what was told of it.

    Where not, another version might have passed for the known one.
    """
    if known.is_local_copy != told.is_local_copy:
        return known.byte_length is None or told.byte_length is not None
    if known.etag is not None and told.etag is not None:
        return True
    fields = ("byte_length", "modified", "etag")
    return all(getattr(told, field) is not None for field in fields if getattr(known, field) is not None)


def _entity_tag(told: Mapping[str, Any]) -> str | None:
    """Return the entity tag without quotes, and without what tells a weak one (RFC 9110, section 8.8.3).

    Servers give the same file a weak tag at first, and a strong one when it is a second old.
    """
    etag = told.get("ETag") or told.get("etag")
    return etag.removeprefix("W/").strip('"') if isinstance(etag, str) else None


def _modified(told: Mapping[str, Any]) -> float | None:
    """Return the time of modification from whatever key the filesystem uses."""
    for key in _TIME_KEYS:
        value = told.get(key)
        if isinstance(value, str):
            value = _parsed_time(value)
        if isinstance(value, datetime):
            return value.timestamp()
        if isinstance(value, (int, float)):
            return float(value)
    return None


def _parsed_time(text: str) -> datetime | None:
    """Return a time as JSON (RFC 3339) or HTTP (RFC 9110) have it."""
    for parse in (datetime.fromisoformat, parsedate_to_datetime):
        try:
            return parse(text)
        except ValueError:
            continue
    return None
