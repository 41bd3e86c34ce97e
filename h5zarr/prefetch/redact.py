"""Texts without credentials: what may stand in error messages, and which URLs in references."""

from __future__ import annotations

import re
from urllib.parse import unquote

from h5zarr.protocols import LOCAL

_NEXT_LINK = r"::(?=[A-Za-z][\w+.-]*(?:://|::))"
"""What is between the filesystems of a chained URL."""
# Passwords and queries may have quotes in them; one that ends a word is of the text around the URL.
_INSIDE = r"(?:[^\s'\"<>]|['\"](?![]'\"),.:;}]{0,4}(?:[\s<>]|\Z)))"
_URL = rf"(?<!\w)([A-Za-z][\w+.-]*)://((?:(?!{_NEXT_LINK}){_INSIDE})*)"
_QUERY = rf"\?[\w.~%+-]+={_INSIDE}*"
_URL_OR_QUERY = re.compile(f"{_URL}|{_QUERY}")
_QUERY_KEY = re.compile(r"[?&;#]([^\s=?&;#]+)=")
_CREDENTIAL = re.compile(
    r".*(signature|token|secret|passw|credential|access[-_]?key|api[-_]?key).*"
    r"|auth|auth[-_]?key|authorization|hdnea|hdnts|hmac|jwt|pwd|sas|sig|sign|x-amz-.*|x-goog-.*"
)
_HOST_AND_PORT = re.compile(r"[^:]*(:\d*)?")
_WEB = ("http", "https", "ftp")


def redact(text: str) -> str:
    """Return a URL, or a text that holds some, without queries, fragments, user names and passwords."""
    return _URL_OR_QUERY.sub(_bare, text)


def one_line(error: BaseException | None) -> str:
    """Return the message of an error, in one line and without credentials."""
    return " ".join(redact(str(error)).split())


def describe(error: BaseException) -> str:
    """Return the class and the message of an error, in one line and without credentials."""
    words = one_line(error)
    return f"{type(error).__name__}: {words}" if words else type(error).__name__


def holds_credentials(url: str) -> bool:
    """Return whether a URL has a password or a signature in it, which nobody else may see.

    Other queries, such as ``?versionId=3``, are part of the file's name.
    """
    if url.partition("://")[0] in LOCAL:
        return False
    keys = (unquote(key).lower() for key in _QUERY_KEY.findall(url))
    # All of it is the URL, whatever characters a password has; in a text some of them would end it.
    links = (link.partition("://") for link in re.split(_NEXT_LINK, url))
    with_user = any(_user(scheme, rest) for scheme, _, rest in links)
    return with_user or any(_CREDENTIAL.fullmatch(key) for key in keys)


def _bare(found: re.Match[str]) -> str:
    """Return what remains of a URL; nothing does of a query alone."""
    if found[1] is None:
        return ""
    scheme, rest = found[1], found[2]
    if scheme.lower() in LOCAL:
        return found[0]
    rest = rest.removeprefix(_user(scheme, rest))
    return f"{scheme}://{re.split('[?#]', rest, maxsplit=1)[0]}"


def _user(scheme: str, rest: str) -> str:
    """Return user name and password of a URL with their ``@``; ``abfs://container@account`` has none."""
    authority = rest.partition("/")[0]
    name, at, host = authority.rpartition("@")
    if at and (scheme.lower() in _WEB or ":" in name):
        return name + at
    # A password with a slash in it, which should have been %2F.
    if not at and "@" in rest and not _HOST_AND_PORT.fullmatch(host):
        return rest[: rest.rindex("@") + 1]
    return ""
