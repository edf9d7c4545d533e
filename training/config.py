"""Configs from YAML files and `a.b.c=value` overrides, with every mistake told in one line."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from training.config_errors import chosen_by_kind, explain, kind_of, models_in, models_of, show
from training.errors import InputError

Config = TypeVar("Config", bound=BaseModel)
Values = dict[str, Any]

_NUMBERS = {
    "tag:yaml.org,2002:int": r"[-+]?(0|[1-9]\d*)$",
    "tag:yaml.org,2002:float": r"[-+]?((\d+\.\d*|\.\d+)([eE][-+]?\d+)?|\d+[eE][-+]?\d+)$"
    r"|[-+]?\.(inf|Inf|INF)$|\.(nan|NaN|NAN)$",
}


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader, with the numbers of YAML 1.2 and repeated keys refused.

    So 1e-3 is a number, and 10:20 is text instead of 620, ten times sixty and twenty.
    """

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


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag not in _NUMBERS]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
for _tag, _pattern in _NUMBERS.items():
    _Loader.add_implicit_resolver(_tag, re.compile(_pattern), list("-+.0123456789"))


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
    parsed = [(*parse_override(text), text) for text in overrides]
    # Parents before children, and a kind before its siblings: the siblings are of that kind.
    for keys, value, text in sorted(parsed, key=lambda o: (len(o[0]), o[0][-1] != "kind")):
        _set(values, keys, value, text, is_choice=keys[-1] == "kind" and _chooses(model, keys[:-1]))
    values = _merge_defaults(model, values)
    try:
        return model.model_validate(values)
    except ValidationError as error:
        errors = error.errors(include_url=False)
        explained = [explain(one, model, values) for one in errors]
        first = explained[0][0]
        # Where a value may be of several kinds, each complains: that which got furthest was meant.
        found_at, complaint = max(
            (one for one in explained if one[0][: len(first)] == first), key=lambda one: len(one[0])
        )
        source = str(path)
        for keys, _, text in parsed:
            if all(a == b for a, b in zip(keys, found_at, strict=False)):
                source = f"override {text!r}"
        more = f"; further mistakes: {len(errors) - 1}" if len(errors) > 1 else ""
        key = ".".join(map(str, found_at)) or "the config"
        raise InputError(f"{source}: {key}: {complaint}{more}") from None


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
        raise InputError(f"{path}: found {show(values)}; a config is a mapping of keys to values")
    return values


def parse_override(text: str) -> tuple[tuple[str, ...], Any]:
    """Return the keys and the value, read as YAML, of `a.b.c=value`.

    Raises:
        InputError: it is not of that form; one line.
    """
    key, equals, value = text.partition("=")
    keys = tuple(key.split("."))
    if not equals or not all(part.isidentifier() for part in keys):
        raise InputError(f"override {text!r}: write key=value, such as optimizer.lr=0.001")
    try:
        return keys, yaml.load(value, _Loader)
    except yaml.YAMLError as error:
        raise InputError(f"override {text!r}: {_yaml_problem(error)}") from None


def _chooses(model: type[BaseModel], keys: tuple[str, ...]) -> bool:
    """Whether the `kind` of the mapping at `keys` says which model it is of."""
    models: Sequence[type[BaseModel]] = [model]
    for key in keys:
        models = models_of(key, models)
    return chosen_by_kind(models)


def _set(values: Values, keys: tuple[str, ...], value: Any, text: str, *, is_choice: bool) -> None:
    """Set the value at `keys`; where it chooses a model, what another one had there goes."""
    *parents, last = keys
    for depth, parent in enumerate(parents):
        if values.get(parent) is None:
            values[parent] = {}
        values = values[parent]
        if not isinstance(values, dict):
            raise InputError(
                f"override {text!r}: {'.'.join(keys[: depth + 1])} is {show(values)}, "
                f"which has no key {keys[depth + 1]!r}"
            )
    if is_choice and values.get("kind") != value:
        values.clear()
    values[last] = value


def _models_for(field: FieldInfo, kind: Any) -> list[type[BaseModel]]:
    """Return the models that a field's mapping may be: one where its kind is known."""
    models = list(models_in(field.annotation))
    return [m for m in models if kind_of(m) == kind] or models


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
        default = field.get_default(call_default_factory=True)
        if isinstance(default, BaseModel):
            value = _overlay(_explicit(default), value)
        candidates = _models_for(field, value.get("kind"))
        merged[name] = _merge_defaults(candidates[0], value) if len(candidates) == 1 else value
    return merged


def _explicit(config: BaseModel) -> Values:
    """Return what was given when `config` was made, and its kinds, as mappings."""
    values = {}
    for name in type(config).model_fields:
        if name in config.model_fields_set or name == "kind":
            value = getattr(config, name)
            values[name] = _explicit(value) if isinstance(value, BaseModel) else value
    return values


def _overlay(under: Values, over: Values) -> Values:
    """Lay one mapping over another, deeply; of another kind it replaces it."""
    if over.get("kind", under.get("kind")) != under.get("kind"):
        return over
    merged = {**under, **over}
    for key in under.keys() & over.keys():
        if isinstance(under[key], dict) and isinstance(over[key], dict):
            merged[key] = _overlay(under[key], over[key])
    return merged


def _yaml_problem(error: yaml.YAMLError) -> str:
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark is not None:
        mark = error.problem_mark
        return f"line {mark.line + 1}, column {mark.column + 1}: {error.problem}"
    return " ".join(str(error).split())


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
        return "the config", show(then), "a mapping"
    for key in ignore:
        now.pop(key, None)
        then.pop(key, None)
    return difference(now, then)


def difference(
    now: Mapping[str, Any], then: Mapping[str, Any], prefix: str = ""
) -> tuple[str, str, str] | None:
    """Return (dotted key, value then, value now) of the first difference of nested values.

    Lists of mappings are looked into; None where all are equal.
    """
    for key in [*now, *(k for k in then if k not in now)]:
        name = f"{prefix}{key}"
        if key not in now or key not in then:
            old = show(then[key]) if key in then else "nothing"
            return name, old, show(now[key]) if key in now else "nothing"
        parts = [_parts(value) for value in (now[key], then[key])]
        if parts[0] and parts[1]:
            if found := difference(parts[0], parts[1], f"{name}."):
                return found
        elif now[key] != then[key]:
            return name, show(then[key]), show(now[key])
    return None


def _parts(value: Any) -> Mapping[str, Any]:
    if isinstance(value, list) and all(isinstance(part, dict) for part in value):
        return {str(place): part for place, part in enumerate(value)}
    return value if isinstance(value, dict) else {}
