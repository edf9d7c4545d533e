"""Files in object stores, piece by piece."""

from typing import Any, BinaryIO

from data.transport import FileChangedError, FileState, mark_of, write_to

_LARGEST_PIECE, _SMALLEST_PIECE = 2**23, 2**16


class BucketTransport:
    """Reads s3, gs and gcs, through s3fs and gcsfs.

    Which endpoint and whose credentials, the environment says, or the options.
    """

    def __init__(self, scheme: str, options: dict[str, Any], timeout: float) -> None:
        """`options` are fsspec's; `timeout`: seconds that a piece may take.

        Raises:
            ImportError: the library for this scheme is not installed.
        """
        import fsspec

        # A listing that is kept would hide that a file has changed.
        self._system: Any = fsspec.filesystem(scheme, **{"use_listings_cache": False, **options})
        self._scheme, self._timeout = scheme, timeout

    def state(self, url: str) -> FileState:
        """Ask for the state of a file."""
        info = self._run(self._system._info, self._system._strip_protocol(url))
        if info["type"] != "file":
            raise FileNotFoundError
        return FileState(int(info["size"]), mark_of(info))

    def append(self, url: str, state: FileState, file: BinaryIO) -> None:
        """Append what `file` does not hold yet, if the file is in this state after it too.

        A piece that does not come is asked for in halves: links that carry little in the time
        allowed, or are cut after so many bytes, get on with smaller ones.
        """
        path, size = self._system._strip_protocol(url), _LARGEST_PIECE
        while (begin := file.tell()) < state.size:
            end = min(begin + size, state.size)
            try:
                data = self._run(self._system._cat_file, path, start=begin, end=end)
                if len(data) != end - begin:
                    raise ConnectionError(f"{len(data)} of {end - begin} bytes came")
            except (FileNotFoundError, PermissionError):
                raise
            except Exception:
                if size == _SMALLEST_PIECE:
                    raise
                size = max(_SMALLEST_PIECE, min(size, end - begin) // 2)
                continue
            write_to(file, data)
        if self.state(url) != state:
            raise FileChangedError

    def list_matching(self, pattern: str) -> list[str]:
        """List the URLs that a pattern matches."""
        return [f"{self._scheme}://{path}" for path in self._system.glob(pattern)]

    def _run(self, action: Any, *arguments: object, **options: object) -> Any:
        from fsspec.asyn import sync

        return sync(self._system.loop, action, *arguments, timeout=self._timeout, **options)
