"""Texts without credentials: what may stand in error messages."""

from __future__ import annotations

import re

_QUERY = re.compile(r"\?[^\s'\"<>)]*")
_USER = re.compile(r"(\w+://)[^/\s@'\"]*@")
_FRAGMENT_OF_URL = re.compile(r"(\w+://[^\s'\"<>)#]*)#[^\s'\"<>)]*")


def redact(text: str) -> str:
    """Return a URL, or a text that holds some, without queries, fragments, user names and passwords."""
    return _USER.sub(r"\1", _QUERY.sub("", _FRAGMENT_OF_URL.sub(r"\1", text)))


def describe(error: BaseException) -> str:
    """Return what an error says, in one line and without credentials."""
    words = " ".join(redact(str(error)).split())
    return f"{type(error).__name__}: {words}" if words else type(error).__name__
