"""A process that fetches shards into a cache, and looks where their samples are.

Both are work for Python, of which one thread runs at a time: in the process that trains they would
keep the threads waiting that decode. It is told URLs on its standard input and answers on its
standard output, one JSON value on each line; it ends when its input does.
"""

import json
import os
import signal
import subprocess
import sys
import threading
import weakref
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

from data.errors import DataError
from data.remote_files import RemoteFiles
from data.shard_cache import CacheFullError, ShardCache
from data.transport import FileState


@dataclass(frozen=True)
class Fetching:
    """How shards are fetched.

    Fields:
        folder: of the cache, which holds up to `limit` bytes.
        connections: shards that are fetched at a time.
        options, retries, first_wait, timeout: as for `RemoteFiles`.
    """

    folder: Path
    limit: int
    connections: int
    options: dict[str, Any]
    retries: int
    first_wait: float
    timeout: float

    def files(self) -> RemoteFiles:
        """Return the files behind URLs, asked for in this way."""
        return RemoteFiles(
            options=self.options,
            retries=self.retries,
            first_wait=self.first_wait,
            timeout=self.timeout,
        )


class ShardFetcher:
    """The process, as seen by the one that reads the shards.

    It need not be there: whoever asks before it has started, or after it has ended, is told
    nothing, and fetches the shard on its own.
    """

    def __init__(self, fetching: Fetching) -> None:
        """Start the process, without waiting for it."""
        process = subprocess.Popen(
            [sys.executable, "-m", "data.shard_fetcher"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=Path(__file__).parent.parent,  # where this module is found
        )
        assert process.stdin is not None and process.stdout is not None
        self._asked: IO[str] = process.stdin
        self._waiting: dict[str, list[Future[FileState | None]]] = {}
        self._lock = threading.Lock()
        self._is_ready = False
        weakref.finalize(self, _end, process)
        self._send({**asdict(fetching), "folder": str(fetching.folder)})
        # It holds no reference to this object, which would otherwise never be let go.
        reader = threading.Thread(
            target=_read_answers,
            args=(process.stdout, weakref.WeakMethod(self._answer)),
            name="shard-fetcher",
            daemon=True,
        )
        reader.start()

    def fetch(self, url: str) -> FileState | None:
        """Wait until a shard is in the cache; return its state, None where no one fetches it.

        Raises:
            DataError: it cannot be fetched; one line.
        """
        future: Future[FileState | None] = Future()
        with self._lock:
            if not self._is_ready:
                return None
            first = url not in self._waiting
            self._waiting.setdefault(url, []).append(future)
            if first and not self._send(url):
                return None
        return future.result()

    def _send(self, value: object) -> bool:
        try:
            self._asked.write(json.dumps(value) + "\n")
            self._asked.flush()
        except (OSError, ValueError):  # it has ended
            return False
        return True

    def _answer(self, line: str) -> None:
        """Take an answer; an empty line: there will be no more."""
        with self._lock:
            if not line:
                self._is_ready = False
                answered, self._waiting = self._waiting, {}
                for future in (one for futures in answered.values() for one in futures):
                    future.set_result(None)
                return
            answer = json.loads(line)
            if answer["url"] is None:
                self._is_ready = True
                return
            futures = self._waiting.pop(answer["url"])
        for future in futures:
            if answer["error"] is not None:
                future.set_exception(DataError(answer["error"]))
            else:
                state = answer["state"]
                future.set_result(None if state is None else FileState(**state))


def _read_answers(answers: IO[str], take: "weakref.WeakMethod[Callable[[str], None]]") -> None:
    while True:
        line = answers.readline()
        if (answer := take()) is None:
            return
        answer(line)
        del answer
        if not line:
            return


def _end(process: "subprocess.Popen[str]") -> None:
    process.terminate()
    process.wait()


def main() -> None:
    """Fetch what is asked for until there is nothing more to ask."""
    given = json.loads(sys.stdin.readline())
    fetching = Fetching(**{**given, "folder": Path(given["folder"])})
    cache = ShardCache(fetching.folder, fetching.limit, fetching.files())
    lock = threading.Lock()

    def say(url: str | None, state: FileState | None, error: str | None) -> None:
        answer = {"url": url, "state": None if state is None else asdict(state), "error": error}
        with lock:
            print(json.dumps(answer), flush=True)

    def fetch(url: str) -> None:
        try:
            say(url, cache.fetch(url), None)
        except CacheFullError:
            say(url, None, None)  # who reads shards may let go of some, and tries again
        except DataError as error:
            say(url, None, str(error))
        except Exception:
            say(url, None, None)  # who asked tries again, and meets the same where it is seen

    pool = ThreadPoolExecutor(fetching.connections)
    say(None, None, None)
    for line in sys.stdin:
        pool.submit(fetch, json.loads(line))
    os._exit(0)  # without waiting for downloads, which go on from where they are another time


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a Ctrl-C is for the process that trains
    main()
