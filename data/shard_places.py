"""Where shards are: files here, or URLs elsewhere, which are only ever asked for their bytes."""

from collections.abc import Callable, Sequence
from pathlib import Path
from urllib.parse import unquote

from data.errors import DataError, printable
from data.shards import expand_braces, matching_files
from data.urls import has_user, scheme_of, shown

EXTRAS = {"http": "http", "https": "http", "s3": "s3", "gs": "gcs", "gcs": "gcs"}
"""What to install for URLs of each scheme: the name of an extra of this project."""

Place = Path | str
"""A shard: a file here, or the URL of one elsewhere."""


def expand_places(
    spec: str | Sequence[str], list_matching: Callable[[str], Sequence[str]]
) -> list[Place]:
    """List the shards that `spec` names, each once: files first, then URLs, both sorted.

    Args:
        spec: one or more paths or URLs of http, https, s3, gs, gcs or file. In both
            `{000000..000003}` and `{a,b}` are written out, and `*`, `?` and `[...]` match names; in
            a URL of http and https a `?` begins the query.
        list_matching: lists the URLs that a pattern matches.
    Raises:
        DataError: nothing is named, a scheme that is not read, a file that is missing, or a
            pattern that matches nothing.
    """
    files: set[Path] = set()
    urls: set[str] = set()
    specs = [spec] if isinstance(spec, str) else spec
    if not specs or not all(one.strip() for one in specs):
        raise DataError("shards: an empty path; give one such as datasets/x/train-*.tar")
    for one in specs:
        scheme = _checked_scheme(one)
        for pattern in expand_braces(one):
            if scheme is None:
                files.update(matching_files(pattern))
            elif scheme == "file":
                files.update(matching_files(unquote(pattern.partition("://")[2])))
            elif _is_pattern(pattern, scheme):
                found = list_matching(pattern)
                if not found:
                    raise DataError(
                        f"shards: {shown(pattern)} matches nothing that the server lists; name "
                        "the shards, such as train-{000000..000007}.tar"
                    )
                urls.update(found)
            else:
                urls.add(pattern)
    return [*sorted(files), *sorted(urls)]


def label_of(place: Place) -> str:
    """Return a shard's name for messages."""
    return str(place) if isinstance(place, Path) else shown(place)


def name_of(place: Place) -> str:
    """Return a shard's file name."""
    return place.name if isinstance(place, Path) else _divided(place)[1]


def beside(place: Place, name: str) -> Place:
    """Return the place of another file in the folder of a shard."""
    if isinstance(place, Path):
        return place.with_name(name)
    folder, _, query = _divided(place)
    return f"{folder}/{name}{query}"


def _divided(url: str) -> tuple[str, str, str]:
    path, mark, query = url.partition("?")
    folder, _, name = path.rpartition("/")
    return folder, name, mark + query


def _checked_scheme(one: str) -> str | None:
    scheme = scheme_of(one)
    if scheme is None and not one.startswith("pipe:"):
        return None
    if scheme != "file" and scheme not in EXTRAS:
        raise DataError(
            f"shards: {'pipe:' if scheme is None else printable(shown(one))} is not read; give a "
            "path, or a URL of http, https, s3, gs or file"
        )
    if has_user(one):
        raise DataError(
            f"shards: {shown(one)} is given with a user or password, which would end up in "
            "config.yaml and in the artifact; leave it to ~/.netrc or the environment"
        )
    return scheme


def _is_pattern(url: str, scheme: str) -> bool:
    if scheme in ("http", "https"):
        path = url.partition("?")[0]
        return "*" in path or "[" in path
    return "*" in url or "?" in url or "[" in url
