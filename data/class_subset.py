"""A source's images of some classes alone, renumbered from 0."""

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from data.errors import DataError
from data.sources import Source, SourceImage, UnreadableImage


@dataclass(frozen=True, slots=True)
class ClassSubset:
    """A source without the images of other classes, and without those that have none.

    `numbers` are those of its classes in the whole, ascending. `counts` are of the whole: how many
    images there are of some classes is known when they have been read.
    """

    whole: Source
    numbers: tuple[int, ...]

    @property
    def name(self) -> str:
        """The whole's, and the classes."""
        return f"{self.whole.name} ({', '.join(self.classes)})"

    @property
    def source(self) -> str:
        """Where the images come from, in words."""
        return self.whole.source

    @property
    def licence(self) -> str:
        """The images' licence, in words."""
        return self.whole.licence

    @property
    def classes(self) -> list[str]:
        """Names of the chosen classes by their new label."""
        assert self.whole.classes is not None
        return [self.whole.classes[number] for number in self.numbers]

    @property
    def counts(self) -> dict[str, int]:
        """Images per split of the whole."""
        return self.whole.counts

    @property
    def digest(self) -> str:
        """sha256 of the whole's digest and the classes."""
        return hashlib.sha256(json.dumps([self.whole.digest, self.numbers]).encode()).hexdigest()

    def images(self, split: str) -> Iterator[SourceImage | UnreadableImage]:
        """Stream the chosen images of a split; one that does not decode may be of any class."""
        places = {number: place for place, number in enumerate(self.numbers)}
        for image in self.whole.images(split):
            if isinstance(image, UnreadableImage):
                yield image
            elif image.label in places:
                yield SourceImage(
                    image.origin,
                    image.name,
                    places[image.label],
                    image.image,
                    image.original,
                    image.suffix,
                )


def subset_of(source: Source, classes: Sequence[str]) -> ClassSubset:
    """Return the images of some classes, by names or numbers.

    Raises:
        DataError: the source has no classes, not these, or one is named twice.
    """
    if source.classes is None:
        raise DataError(f"classes: {source.name} has no labels; leave them out")
    names = {name: number for number, name in enumerate(source.classes)}
    numbers = []
    for one in classes:
        number = names.get(one, int(one) if one.isdecimal() else -1)
        if not 0 <= number < len(source.classes):
            known = ", ".join(f"{place} ({name})" for name, place in names.items())
            raise DataError(f"classes: {one}; those of {source.name} are {known}")
        numbers.append(number)
    if len(set(numbers)) < len(numbers):
        raise DataError(f"classes: {', '.join(classes)}; name each once")
    return ClassSubset(source, tuple(sorted(numbers)))
