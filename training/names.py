"""Names that configs take: what they may be made of, and a complaint in words where they are not.

A type of a field or of a mapping's keys, such as `RunName`. In a config's schema for editors it
is a pattern.
"""

import re
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic_core import CoreSchema, core_schema


@dataclass(frozen=True)
class Form:
    """What a text must look like.

    Attributes:
        pattern: a regular expression, from ^ to $.
        words: what would do, behind "should be".
    """

    pattern: str
    words: str

    def check(self, text: str) -> str:
        """Return the text as it is.

        Raises:
            ValueError: it has another form.
        """
        if not re.fullmatch(self.pattern, text):
            raise ValueError(f"should be {self.words}")
        return text

    def __get_pydantic_core_schema__(
        self, source: type, handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        return core_schema.no_info_after_validator_function(self.check, handler(source))

    def __get_pydantic_json_schema__(
        self, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        return {**handler(schema), "pattern": self.pattern}


RunName = Annotated[
    str,
    Form(
        r"^[A-Za-z0-9][A-Za-z0-9._-]*$",
        "letters, digits, dots, dashes and underscores, a letter or digit first: it names a folder",
    ),
]
"""What a run may be called: it is a folder, a line of a table and part of a command."""

PlainName = Annotated[
    str, Form(r"^[A-Za-z][A-Za-z0-9_]*$", "letters, digits and underscores, a letter first")
]
"""What a part of a run may be called: it is a name among metrics and weights."""

FunctionName = Annotated[
    str, Form(r"^[\w.]+:\w+$", "package.module:function, such as heuristics:label")
]
"""A function of the user's own code."""
