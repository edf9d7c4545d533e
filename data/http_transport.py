"""Files on web servers: each in one request, which goes on from where the last one was cut."""

from typing import Any, BinaryIO

from data.transport import FileChangedError, FileRefusedError, FileState, mark_of, write_to

_BUFFER = 2**20
_WORTH_ANOTHER_TRY = (408, 425, 429)


class HttpTransport:
    """Reads over http and https, through fsspec's session of aiohttp.

    Proxies and passwords are those of the environment and of ~/.netrc.
    """

    def __init__(self, options: dict[str, Any], timeout: float) -> None:
        """`options` are fsspec's; `timeout`: seconds without a byte.

        Raises:
            ImportError: aiohttp is not installed.
        """
        import aiohttp
        from fsspec.implementations.http import HTTPFileSystem

        client = {"trust_env": True, **options.get("client_kwargs", {})}
        self._system = HTTPFileSystem(**{**options, "client_kwargs": client})
        self._limits = aiohttp.ClientTimeout(total=None, sock_connect=timeout, sock_read=timeout)

    def state(self, url: str) -> FileState:
        """Ask for the state of a file."""
        return self._run(self._state, url)

    def append(self, url: str, state: FileState, file: BinaryIO) -> None:
        """Append what `file` does not hold yet, checked to be of the file in this state."""
        self._run(self._append, url, state, file)

    def list_matching(self, pattern: str) -> list[str]:
        """List the URLs that a pattern matches among the links of the folder's page."""
        found: list[str] = self._system.glob(pattern)
        return found

    def _run(self, action: Any, *arguments: object) -> Any:
        from fsspec.asyn import sync

        return sync(self._system.loop, action, *arguments)

    async def _get(self, url: str, headers: dict[str, str]) -> Any:
        given = self._system.kwargs.get("headers", {})
        session = await self._system.set_session()
        options = {
            **self._system.kwargs,
            "headers": {**given, "Accept-Encoding": "identity", **headers},
            "timeout": self._limits,
            "read_bufsize": _BUFFER,
        }
        return await session.get(self._system.encode_url(url), **options)

    async def _state(self, url: str) -> FileState:
        # Not HEAD: signed URLs allow GET alone.
        async with await self._get(url, {"Range": "bytes=0-0"}) as response:
            if response.status != 416:  # the range of an empty file
                _check(response)
            return _state_of(response)

    async def _append(self, url: str, state: FileState, file: BinaryIO) -> None:
        begin = file.tell()
        if begin == state.size:
            return
        headers = {}
        if begin:
            headers["Range"] = f"bytes={begin}-"
            if state.mark.startswith('"'):  # a weak mark may not stand here
                headers["If-Range"] = state.mark
        async with await self._get(url, headers) as response:
            _check(response)
            if _state_of(response) != state:
                raise FileChangedError
            if response.status != 206:  # a server that knows no ranges sends all again
                file.seek(0)
                file.truncate()
            elif not response.headers["Content-Range"].startswith(f"bytes {begin}-"):
                raise FileRefusedError("the server sends another range than was asked for")
            async for data in response.content.iter_any():
                write_to(file, data)


def _check(response: Any) -> None:
    status = response.status
    if status < 400:
        return
    if status in (404, 410):
        raise FileNotFoundError
    if status in (401, 403):
        raise PermissionError
    said = f"HTTP {status} {response.reason or ''}".strip()
    if status >= 500 or status in _WORTH_ANOTHER_TRY:
        raise ConnectionError(said)
    raise FileRefusedError(said)


def _state_of(response: Any) -> FileState:
    headers = response.headers
    size = headers.get("Content-Range", "").rpartition("/")[2]
    if response.status == 200:
        size = headers.get("Content-Length", "")
    if not size.isdigit():
        raise FileRefusedError("the server does not say how long it is")
    return FileState(int(size), mark_of(headers))
