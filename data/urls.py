"""URLs in messages: what they may hold of credentials is never shown."""

import re

from data.errors import printable

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")
_USER = re.compile(r"://[^/?#]*@")
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://[^\s\"']*")


def scheme_of(text: str) -> str | None:
    """Return the scheme of a URL in small letters; None: a path."""
    match = _SCHEME.match(text)
    return match[1].lower() if match else None


def has_user(url: str) -> bool:
    """Whether a URL names a user, and perhaps a password, before its host."""
    return _USER.search(url) is not None


def shown(url: str) -> str:
    """Return a URL without user, password and query; a path as it is."""
    if scheme_of(url) is None:
        return printable(url)
    return printable(_USER.sub("://", re.split(r"[?#]", url, maxsplit=1)[0]))


def without_urls(text: str) -> str:
    """Return what a library said, without the URLs in it."""
    return _URL.sub("the URL", text)
