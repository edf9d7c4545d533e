"""Configs from YAML files and `a.b.c=value` overrides, with every mistake told in one line."""

import difflib
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar, get_args

import yaml
from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from training.errors import InputError

Config = TypeVar("Config", bound=BaseModel)
Values = dict[str, Any]

# ---------------------------------------------------------------- reading


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader, with 1e-3 a number as in YAML 1.2 and repeated keys refused."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key_node, _ in node.value:
            if key_node.value in seen:
                raise yaml.MarkedYAMLError(
                    problem=f"the key {key_node.value!r} stands twice",
                    problem_mark=key_node.start_mark,
                )
            seen.add(key_node.value)
        return super().construct_mapping(node, deep)


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"[-+]?(\d+(\.\d*)?|\.\d+)[eE][-+]?\d+$"),
    list("-+.0123456789"),
)


def load_config(model: type[Config], path: str | Path, overrides: Sequence[str] = ()) -> Config:
    """Read a config from a YAML file and overrides of the form `a.b.c=value`.

    A value of an override is read as YAML. An override that changes `x.kind` drops what the file
    says about `x`, which belonged to the other kind; the order of such overrides plays no role.
    A mapping without `kind` is of the field's default kind and keeps that default's values.

    Raises:
        InputError: the file cannot be read, or a key or value does not fit; one line.
    """
    path = Path(path)
    values = _merge_defaults(model, _read_mapping(path))
    parsed = [(*_parse_override(text), text) for text in overrides]
    # Parents before children, and a kind before its siblings: the siblings are of that kind.
    for keys, value, text in sorted(parsed, key=lambda o: (len(o[0]), o[0][-1] != "kind")):
        _set(values, keys, value, text)
    values = _merge_defaults(model, values)
    try:
        return model.model_validate(values)
    except ValidationError as error:
        raise InputError(_explain(error, model, values, path, parsed)) from None


def _read_mapping(path: Path) -> Values:
    try:
        values = yaml.load(path.read_text(encoding="utf-8"), _Loader)
    except FileNotFoundError:
        raise InputError(f"{path}: no such config file; give the path of a YAML file") from None
    except IsADirectoryError:
        raise InputError(f"{path}: is a folder; give the path of a YAML file") from None
    except UnicodeDecodeError:
        raise InputError(f"{path}: is not UTF-8 text; give a YAML file") from None
    except yaml.YAMLError as error:
        raise InputError(f"{path}: is not valid YAML: {_yaml_problem(error)}") from None
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise InputError(f"{path}: found {_show(values)}; a config is a mapping of keys to values")
    return values


def _parse_override(text: str) -> tuple[tuple[str, ...], Any]:
    key, equals, value = text.partition("=")
    keys = tuple(key.split("."))
    if not equals or not all(part.isidentifier() for part in keys):
        raise InputError(f"override {text!r}: write key=value, such as optimizer.lr=0.001")
    try:
        return keys, yaml.load(value, _Loader)
    except yaml.YAMLError as error:
        raise InputError(f"override {text!r}: {_yaml_problem(error)}") from None


def _set(values: Values, keys: tuple[str, ...], value: Any, text: str) -> None:
    *parents, last = keys
    for depth, parent in enumerate(parents):
        if values.get(parent) is None:
            values[parent] = {}
        values = values[parent]
        if not isinstance(values, dict):
            raise InputError(
                f"override {text!r}: {'.'.join(keys[: depth + 1])} is {_show(values)}, "
                f"which has no key {keys[depth + 1]!r}"
            )
    if last == "kind" and values.get("kind") != value:
        values.clear()
    values[last] = value


# ---------------------------------------------------------------- walking pydantic models


def _models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for argument in get_args(annotation):
        yield from _models_in(argument)


def _kind_of(model: type[BaseModel]) -> str | None:
    field = model.model_fields.get("kind")
    return field.default if field else None


def _models_for(field: FieldInfo, kind: Any) -> list[type[BaseModel]]:
    """Return the models that a field's mapping may be: one where its kind is known."""
    models = list(_models_in(field.annotation))
    return [m for m in models if _kind_of(m) == kind] or models


def _merge_defaults(model: type[BaseModel], values: Values) -> Values:
    """Lay `values` over the fields' own defaults, kind included, where both are mappings.

    Pydantic would replace a default such as AdamWConfig(lr=3e-3) as a whole by a mapping that
    sets its weight decay alone.
    """
    merged = dict(values)
    for name, field in model.model_fields.items():
        value = merged.get(name)
        if not isinstance(value, dict):
            continue
        default = field.get_default(call_default_factory=True, validated_data={})
        if isinstance(default, BaseModel):
            kind = getattr(default, "kind", None)
            if value.get("kind", kind) == kind:
                under = default.model_dump(exclude_unset=True)
                value = _overlay(under if kind is None else {"kind": kind, **under}, value)
        candidates = _models_for(field, value.get("kind"))
        merged[name] = _merge_defaults(candidates[0], value) if len(candidates) == 1 else value
    return merged


def _overlay(under: Values, over: Values) -> Values:
    merged = dict(under)
    for key, value in over.items():
        old = merged.get(key)
        same_kind = isinstance(old, dict) and isinstance(value, dict)
        if same_kind and value.get("kind", old.get("kind")) == old.get("kind"):  # type: ignore[union-attr]
            merged[key] = _overlay(old, value)  # type: ignore[arg-type]
        else:
            merged[key] = value
    return merged


# ---------------------------------------------------------------- explaining


def _explain(
    error: ValidationError,
    model: type[BaseModel],
    values: Values,
    path: Path,
    overrides: Sequence[tuple[tuple[str, ...], Any, str]],
) -> str:
    errors = error.errors(include_url=False)
    first = errors[0]
    keys, models = _locate(model, values, first["loc"])
    source = str(path)
    for override_keys, _, text in overrides:
        depth = min(len(override_keys), len(keys))
        if override_keys[:depth] == tuple(keys[:depth]) and keys:
            source = f"override {text!r}"
    more = f" (and {len(errors) - 1} more)" if len(errors) > 1 else ""
    key = ".".join(map(str, keys)) or "the config"
    return f"{source}: {key}: {_complaint(first, keys, models)}{more}"


def _locate(
    model: type[BaseModel], values: Any, loc: tuple[int | str, ...]
) -> tuple[list[int | str], list[type[BaseModel]]]:
    """Return the keys of an error without pydantic's union tags, and the models at its parent."""
    keys: list[int | str] = []
    models, parents = [model], [model]
    for position, part in enumerate(loc):
        is_tag = part in [_kind_of(m) for m in models] and not (
            isinstance(values, dict) and part in values
        )
        if is_tag:
            models = [m for m in models if _kind_of(m) == part]
            continue
        fields = [m.model_fields[part] for m in models if part in m.model_fields]
        known = isinstance(values, dict) and part in values
        indexed = isinstance(values, list) and isinstance(part, int)
        if not (fields or known or indexed or position == len(loc) - 1):
            continue
        keys.append(part)
        parents = models
        if not indexed:
            models = [m for field in fields for m in _models_in(field.annotation)]
        values = values[part] if known or indexed else None
    return keys, models if loc and keys and _is_mapping_error(models) else parents


def _is_mapping_error(models: list[type[BaseModel]]) -> bool:
    return any(_kind_of(m) for m in models)


def _complaint(
    error: ErrorDetails, keys: Sequence[int | str], models: Sequence[type[BaseModel]]
) -> str:
    found = f"found {_show(error['input'])}"
    kinds = [kind for m in models if (kind := _kind_of(m))]
    match error["type"]:
        case "extra_forbidden":
            known = sorted({name for m in models for name in m.model_fields})
            return f"unknown key; {_suggest(str(keys[-1]), known, 'known keys')}"
        case "missing":
            return "missing; it has no default, so give a value"
        case "union_tag_invalid":
            tag = str(error["ctx"]["tag"])
            return f"unknown kind {tag!r}; {_suggest(tag, kinds, 'valid kinds')}"
        case "union_tag_not_found":
            return f"found no kind; valid kinds: {', '.join(kinds)}"
        case "model_type" | "model_attributes_type" | "dict_type":
            hint = f"kind: {kinds[0]}" if kinds else "key: value"
            return f"{found}; should be a mapping, such as {{{hint}}}"
        case _:
            message = error["msg"].removeprefix("Value error, ")
            message = message.removeprefix("Input ").replace("\n", " ")
            return f"{found}; {message}"


def _suggest(found: str, valid: Sequence[str], title: str) -> str:
    near = difflib.get_close_matches(found, valid, n=1)
    choices = f"{title}: {', '.join(valid)}"
    return f"did you mean {near[0]!r}? ({choices})" if near else choices


def _show(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _yaml_problem(error: yaml.YAMLError) -> str:
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark is not None:
        mark = error.problem_mark
        return f"line {mark.line + 1}, column {mark.column + 1}: {error.problem}"
    return " ".join(str(error).split())


# ---------------------------------------------------------------- writing and comparing


def dump_config(config: BaseModel) -> str:
    """Return the config as YAML with every value resolved, `kind` first in its mapping."""
    return yaml.safe_dump(_resolved(config), sort_keys=False, allow_unicode=True)


def _resolved(config: BaseModel) -> Values:
    return _kind_first(config.model_dump(mode="json"))


def _kind_first(value: Any) -> Any:
    if isinstance(value, dict):
        keys = sorted(value, key=lambda key: key != "kind")
        return {key: _kind_first(value[key]) for key in keys}
    return [_kind_first(item) for item in value] if isinstance(value, list) else value


def first_difference(
    config: BaseModel, dumped: str, *, ignore: Sequence[str] = ()
) -> tuple[str, str, str] | None:
    """Compare a config with what `dump_config` wrote earlier.

    Args:
        config: the config now.
        dumped: the earlier YAML.
        ignore: top-level keys that may differ.
    Returns:
        None where they are equal, else (dotted key, value then, value now) of the first
        difference; "nothing" stands for an absent value.
    """
    now, then = _resolved(config), yaml.safe_load(dumped)
    if not isinstance(then, dict):
        return "the config", _show(then), "a mapping"
    for key in ignore:
        now.pop(key, None)
        then.pop(key, None)
    return _difference(now, then, "")


def _difference(
    now: Mapping[str, Any], then: Mapping[str, Any], prefix: str
) -> tuple[str, str, str] | None:
    for key in [*now, *(k for k in then if k not in now)]:
        name = f"{prefix}{key}"
        if key not in now or key not in then:
            old = _show(then[key]) if key in then else "nothing"
            return name, old, _show(now[key]) if key in now else "nothing"
        if isinstance(now[key], dict) and isinstance(then[key], dict):
            if found := _difference(now[key], then[key], f"{name}."):
                return found
        elif now[key] != then[key]:
            return name, _show(then[key]), _show(now[key])
    return None
