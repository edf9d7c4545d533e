"""One line out of a pydantic error: which key, what was found and what would do."""

import difflib
from collections.abc import Iterator, Sequence
from typing import Any, get_args

from pydantic import BaseModel
from pydantic_core import ErrorDetails

Keys = tuple[int | str, ...]


def models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    """Yield the pydantic models that a type annotation speaks of, a union's members in order."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for argument in get_args(annotation):
        yield from models_in(argument)


def kind_of(model: type[BaseModel]) -> str | None:
    """Return the `kind` that tells a union's member from the others, if the model has one."""
    field = model.model_fields.get("kind")
    return field.default if field else None


def models_of(key: str, models: Sequence[type[BaseModel]]) -> Sequence[type[BaseModel]]:
    """Return the models that the value of a key may be, in a mapping of one of `models`.

    A key that is no field of theirs is a name that a user gave, in a mapping of these models.
    """
    fields = [m.model_fields[key] for m in models if key in m.model_fields]
    return [m for field in fields for m in models_in(field.annotation)] if fields else models


def chosen_by_kind(models: Sequence[type[BaseModel]]) -> bool:
    """Whether a mapping's `kind` says which of the models it is."""
    return len({kind_of(m) for m in models}) > 1


def explain(error: ErrorDetails, model: type[BaseModel], values: Any) -> tuple[Keys, str]:
    """Return the keys that lead to the mistake in `values`, and a complaint about it."""
    keys, parents, models = _locate(error, model, values)
    found = f"found {show(error['input'])}"
    kinds = [kind for m in models if (kind := kind_of(m))]
    match error["type"]:
        case "extra_forbidden":
            known = sorted({name for m in parents for name in m.model_fields})
            return keys, f"unknown key; {_suggest(str(keys[-1]), known, 'known keys')}"
        case "missing":
            return keys, "missing; it has no default, so give a value"
        case "union_tag_invalid":
            tag = str(error["ctx"]["tag"])
            return (*keys, "kind"), f"found {tag!r}; {_suggest(tag, kinds, 'valid kinds')}"
        case "union_tag_not_found":
            return (*keys, "kind"), f"missing; valid kinds: {', '.join(kinds)}"
        case "model_type" | "model_attributes_type" | "dict_type":
            hint = f"kind: {kinds[0]}" if kinds else "key: value"
            return keys, f"{found}; should be a mapping, such as {{{hint}}}"
        case "too_short":
            least = error["ctx"]["min_length"]
            return keys, f"{found}; give {least} value{'s' if least > 1 else ''} at least"
        case "value_error" if isinstance(error["input"], dict):  # about several of its keys
            return keys, " ".join(error["msg"].removeprefix("Value error, ").split())
        case _:
            message = error["msg"].removeprefix("Value error, ").removeprefix("Input ")
            return keys, f"{found}; {' '.join(message.split())}"


def _locate(
    error: ErrorDetails, model: type[BaseModel], values: Any
) -> tuple[Keys, Sequence[type[BaseModel]], Sequence[type[BaseModel]]]:
    """Walk to an error: its keys without pydantic's names of union members, and the models
    that the last key's parent and its own value may be.
    """
    keys: list[int | str] = []
    models: Sequence[type[BaseModel]] = [model]
    parents = models
    is_tagged = False
    for depth, part in enumerate(error["loc"], start=1):
        # A member of a union is named before its keys, and may have a key of its own name.
        is_tag = is_tagged and isinstance(values, dict) and values.get("kind") == part
        is_tagged = False
        if isinstance(values, dict):
            is_missing = error["type"] == "missing" and depth == len(error["loc"])
            is_key = not is_tag and (part in values or is_missing)
        else:
            is_key = isinstance(values, list) and isinstance(part, int)
        if is_key:
            keys.append(part)
            parents = models
            if isinstance(values, dict):
                models = models_of(str(part), models)
                is_tagged = chosen_by_kind(models)
                values = values.get(part)
            else:
                values = values[part]
        else:
            models = [m for m in models if kind_of(m) == part] or models
    return tuple(keys), parents, models


def _suggest(found: str, valid: Sequence[str], title: str) -> str:
    near = difflib.get_close_matches(found, valid, n=1)
    choices = f"{title}: {', '.join(valid)}"
    return f"did you mean {near[0]!r}? ({choices})" if near else choices


def show(value: Any) -> str:
    """Return a value as one short piece of text."""
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
