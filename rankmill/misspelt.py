"""What is wrong with a profile, a line a fault: the field by its path, what it may be, and which one was meant.

raise SettingsError(f"{path} is not a valid profile:\\n{faults(error, Profile)}")
"""

from collections.abc import Iterator, Sequence
from difflib import get_close_matches
from typing import Any, get_args

from pydantic import BaseModel, ValidationError


def faults(error: ValidationError, model: type[BaseModel]) -> str:
    """The faults that validation of `model` has found."""
    return "\n".join(f"  {_fault(detail['type'], detail['loc'], detail['msg'], model)}" for detail in error.errors())


def _fault(kind: str, place: Sequence[int | str], said: str, model: type[BaseModel]) -> str:
    where = ".".join(map(str, place))
    if kind != "extra_forbidden":
        return f"{where}: {said.removeprefix('Value error, ')}" if where else said.removeprefix("Value error, ")
    valid = sorted({name for known in _models(model, place[:-1]) for name in known.model_fields})
    meant = get_close_matches(str(place[-1]), valid, 1)
    return f"{where}: unknown" + (f"; did you mean {meant[0]!r}?" if meant else ".") + f" Valid: {', '.join(valid)}."


def _models(model: type[BaseModel], place: Sequence[int | str]) -> Iterator[type[BaseModel]]:
    """The models whose fields stand at a place below `model`; of a union that has several, each."""
    if not place:
        yield model
        return
    field = model.model_fields.get(str(place[0]))
    for below in _classes(field.annotation) if field is not None else ():
        # Of a union pydantic names the member, too.
        yield from _models(below, place[2:] if place[1:2] == (below.__name__,) else place[1:])


def _classes(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for part in get_args(annotation):
        yield from _classes(part)
