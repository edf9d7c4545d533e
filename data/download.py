"""Downloading a file by http, and going on where a broken download ended."""

import re
from http.client import HTTPException, HTTPResponse
from pathlib import Path
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

from data.errors import DataError, cause

_CHUNK_BYTES = 2**20
_MOST_BYTES = 2**33
_RANGE = re.compile(r"bytes (\d+)-\d+/(?:\d+|\*)")
_NOT_SATISFIABLE = 416


def download(address: str, part: Path, *, timeout_seconds: float) -> None:
    """Bring all of `address` into the file `part`.

    What a broken download left there is kept, and only the rest is asked for; servers that know no
    ranges send all. As long as anything came, a download that breaks off is taken up again.

    Args:
        timeout_seconds: how long the server may stay silent.
    Raises:
        DataError: the server cannot be reached, says no, or sends more than 8 GiB; one line
            without the address. What came until then is kept.
    """
    while True:
        before = part.stat().st_size if part.exists() else 0
        try:
            if _whole(address, part, before, timeout_seconds):
                return
            reason = "the connection was closed before the end"
        except HTTPError as error:
            if error.code == _NOT_SATISFIABLE and before:
                part.unlink()  # longer than the file: it is of another one
                continue
            raise DataError(f"HTTP status {error.code} ({error.reason})") from error
        except (URLError, HTTPException, TimeoutError, ConnectionError) as error:
            reason = str(getattr(error, "reason", "")) or cause(error)
        came = part.stat().st_size if part.exists() else 0
        if came <= before:
            raise DataError(reason)


def _whole(address: str, part: Path, before: int, timeout_seconds: float) -> bool:
    """Ask for what is missing, once; return whether all of it came."""
    wanted = {"Range": f"bytes={before}-"} if before else {}
    with urlopen(Request(address, headers=wanted), timeout=timeout_seconds) as answer:
        found = _RANGE.fullmatch(answer.headers.get("Content-Range", ""))
        goes_on = answer.status == 206 and found is not None and int(found[1]) == before
        with part.open("ab" if goes_on else "wb") as file:
            length = _length(answer)
            came = 0
            while chunk := answer.read(_CHUNK_BYTES):
                file.write(chunk)
                came += len(chunk)
                if file.tell() > _MOST_BYTES:
                    raise DataError(f"longer than {_MOST_BYTES} bytes")
    return length is None or came == length


def _length(answer: HTTPResponse) -> int | None:
    text = answer.headers.get("Content-Length", "")
    return int(text) if text.isdecimal() else None
