"""Frozen dataclasses to JSON and back, for the facts saved beside a checkpoint."""

import dataclasses
import typing
from typing import Any

import jax.numpy as jnp


def to_json(value: Any) -> Any:
    """Returns a config as JSON values: dataclasses as dicts, dtypes by name, tuples as lists."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = dataclasses.fields(value)
        return {field.name: to_json(getattr(value, field.name)) for field in fields}
    if isinstance(value, dict):
        return {str(name): to_json(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [to_json(item) for item in value]
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    return jnp.dtype(value).name


def from_json(cls: type, fields: dict[str, Any]) -> Any:
    """Returns the dataclass that `to_json` wrote down.

    Raises:
      ValueError: naming a field that this version of the class does not have.
    """
    hints = typing.get_type_hints(cls)
    known = {field.name for field in dataclasses.fields(cls)}
    unknown = sorted(set(fields) - known)
    if unknown:
        raise ValueError(
            f"{cls.__name__} has no field {', '.join(unknown)}; another version of Poet wrote it,"
            " use that one."
        )
    return cls(**{name: _value(hints[name], value) for name, value in fields.items()})


def first_difference(a: Any, b: Any, name: str = "") -> tuple[str, Any, Any]:
    """Where two facts differ first, as (dotted name, value in a, value in b)."""
    if isinstance(a, dict) and isinstance(b, dict):
        for key in sorted(a.keys() | b.keys()):
            if a.get(key) != b.get(key):
                return first_difference(a.get(key), b.get(key), f"{name}.{key}" if name else key)
    return name, a, b


def _value(hint: Any, value: Any) -> Any:
    """`value` as what a field's type hint says: a dataclass, a tuple of them, or as it is."""
    if isinstance(value, dict):
        found = next((arg for arg in (hint, *typing.get_args(hint)) if _is_config(arg)), None)
        return from_json(found, value) if found else value
    if isinstance(value, list):
        inner = next((arg for arg in typing.get_args(hint) if arg is not Ellipsis), Any)
        return tuple(_value(inner, item) for item in value)
    return value


def _is_config(hint: Any) -> bool:
    return isinstance(hint, type) and dataclasses.is_dataclass(hint)
