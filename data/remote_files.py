"""Files behind URLs: what state they are in, and their bytes, asked for again where that fails.

Waits before another try double, and nothing in them is random. A download that was cut goes on
from the byte that it got to.
"""

import io
import time
from collections.abc import Callable
from typing import Any, BinaryIO, TypeVar

from data.bucket_transport import BucketTransport
from data.errors import DataError, cause
from data.http_transport import HttpTransport
from data.shard_places import EXTRAS
from data.transport import FileChangedError, FileRefusedError, FileState, Transport
from data.urls import scheme_of, shown, without_urls

MOST_CHANGES = 5
CHANGES = "{}: changes while it is read, again and again; stream shards that stay as they are"
_LONGEST_WAIT = 30.0
# Errors of libraries that another try would not change, by name: they need not be installed.
_FINAL = ("InvalidUrlClientError", "NoCredentialsError", "ParamValidationError")

T = TypeVar("T")


class RemoteFiles:
    """Files behind URLs of any scheme that is read."""

    def __init__(
        self, *, options: dict[str, Any], retries: int, first_wait: float, timeout: float
    ) -> None:
        """Connect to nothing yet.

        Args:
            options: of the fsspec file systems.
            retries: how often a request is made again that gets nowhere.
            first_wait: seconds before the first of them; doubled for each of the next, up to 30.
            timeout: seconds without an answer after which a request has failed.
        """
        self._options, self._timeout = options, timeout
        self._retries, self._first_wait = retries, first_wait
        self._transports: dict[str, Transport] = {}

    def state(self, url: str) -> FileState:
        """Return the state of a file.

        Raises:
            DataError: there is none, or it cannot be asked for; one line.
        """
        try:
            return self._retried(url, lambda: self._transport(url).state(url))
        except FileNotFoundError:
            raise DataError(f"{shown(url)}: there is no such file") from None
        except PermissionError:
            raise DataError(
                f"{shown(url)}: may not be read with the credentials there are"
            ) from None

    def download(self, url: str, state: FileState, file: BinaryIO) -> None:
        """Append to `file` what it does not hold yet of a file in this state.

        Raises:
            FileChangedError: it is in another state by now, or gone.
            DataError: it cannot be read, or not be written here; one line.
        """

        def go_on() -> None:
            self._transport(url).append(url, state, file)
            if file.tell() != state.size:
                raise ConnectionError(f"{file.tell()} of {state.size} bytes came")

        try:
            self._retried(url, go_on, file.tell)
        except (FileNotFoundError, PermissionError):
            raise FileChangedError from None

    def read(self, url: str, most: int) -> bytes | None:
        """Return the bytes of a small file; None where there is none.

        Raises:
            DataError: it cannot be read, or has more bytes than `most`; one line.
        """
        for _ in range(MOST_CHANGES):
            try:
                state = self._retried(url, lambda: self._transport(url).state(url))
            except (FileNotFoundError, PermissionError):
                return None  # a bucket that may not be listed says so of what is not there
            if state.size > most:
                raise DataError(f"{shown(url)}: {state.size} bytes is above the limit of {most}")
            file = io.BytesIO()
            try:
                self.download(url, state, file)
            except FileChangedError:
                continue
            return file.getvalue()
        raise DataError(CHANGES.format(shown(url)))

    def list_matching(self, pattern: str) -> list[str]:
        """List the URLs that a pattern matches; none where the folder is not there.

        Raises:
            DataError: the server cannot be asked; one line.
        """
        try:
            return self._retried(pattern, lambda: self._transport(pattern).list_matching(pattern))
        except (FileNotFoundError, PermissionError):
            return []

    def _transport(self, url: str) -> Transport:
        scheme = scheme_of(url) or ""
        if scheme not in self._transports:
            self._transports[scheme] = _make_transport(scheme, self._options, self._timeout)
        return self._transports[scheme]

    def _retried(
        self, url: str, action: Callable[[], T], progress: Callable[[], int] = lambda: 0
    ) -> T:
        failures, reached = 0, progress()
        while True:
            try:
                return action()
            except (DataError, FileChangedError, FileNotFoundError, PermissionError):
                raise
            except Exception as error:  # each library raises errors of its own
                if progress() > reached:
                    failures, reached = 0, progress()
                failures += 1
                why = _words(error)
                is_final = isinstance(error, FileRefusedError) or type(error).__name__ in _FINAL
                if is_final or failures > self._retries:
                    tries = "" if is_final else f", {failures} times in a row"
                    raise DataError(f"{shown(url)}: cannot be read: {why}{tries}") from None
            time.sleep(min(self._first_wait * 2 ** (failures - 1), _LONGEST_WAIT))


def _make_transport(scheme: str, options: dict[str, Any], timeout: float) -> Transport:
    try:
        if scheme in ("http", "https"):
            return HttpTransport(options, timeout)
        return BucketTransport(scheme, options, timeout)
    except ImportError:
        raise DataError(
            f"URLs of {scheme} need a library that is not installed: "
            f"pip install -e '.[{EXTRAS[scheme]}]'"
        ) from None
    except (TypeError, ValueError) as error:
        raise DataError(
            f"data.streaming.storage_options: not those of fsspec's {scheme}: {cause(error)}"
        ) from None


def _words(error: Exception) -> str:
    if isinstance(error, TimeoutError):
        return "no answer in time"
    return without_urls(cause(error)) or type(error).__name__
