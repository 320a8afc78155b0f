"""Frozen dataclasses to JSON and back, for the facts saved beside a checkpoint."""

import dataclasses
import types
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


def _value(hint: Any, value: Any) -> Any:
    if value is None:
        return None
    if isinstance(hint, types.UnionType) or typing.get_origin(hint) is typing.Union:
        classes = [arg for arg in typing.get_args(hint) if dataclasses.is_dataclass(arg)]
        return _value(classes[0], value) if classes and isinstance(value, dict) else _listed(value)
    if dataclasses.is_dataclass(hint) and isinstance(value, dict):
        return from_json(hint, value)
    return _listed(value)


def _listed(value: Any) -> Any:
    return tuple(_listed(item) for item in value) if isinstance(value, list) else value
