"""One check for the fields of every configuration of the course. Written by hand, since it teaches nothing.

@dataclass(frozen=True)
class Config:
    d_model: Size
    dropout: Share = 0.0
    norm: Literal["layernorm", "rmsnorm"] = "layernorm"

    def __post_init__(self):
        check_fields(self)
"""

import math
from dataclasses import MISSING, dataclass, fields
from types import NoneType, UnionType
from typing import Annotated, Literal, Union, get_args, get_origin, get_type_hints


@dataclass(frozen=True)
class Bounds:
    """The range of a number: lowest and highest may be reached, above and below may not."""

    lowest: float = -math.inf
    highest: float = math.inf
    above: float = -math.inf
    below: float = math.inf

    def broken_by(self, number):
        """The rule that a number breaks, in words; None when it is inside."""
        rules = (
            (number >= self.lowest, "at least", self.lowest),
            (number > self.above, "above", self.above),
            (number <= self.highest, "at most", self.highest),
            (number < self.below, "below", self.below),
        )
        return next((f"{words} {limit:,}" for kept, words, limit in rules if not kept), None)


Size = Annotated[int, Bounds(lowest=1, below=2**40)]
Count = Annotated[int, Bounds(lowest=0, below=2**40)]
Share = Annotated[float, Bounds(lowest=0, below=1)]
Positive = Annotated[float, Bounds(above=0)]
NotNegative = Annotated[float, Bounds(lowest=0)]


def check_fields(config):
    """ValueError that names the first field of a dataclass whose value its annotation does not allow.

    Understood are int, float, bool, str, tuples of these, Literal, `... | None`, and Annotated with Bounds;
    a field of another type is not looked at. A number may not be True or False, and a float must be finite.
    """
    hints = get_type_hints(type(config), include_extras=True)
    for field in fields(config):
        value, hint = getattr(config, field.name), hints[field.name]
        rule = _broken_rule(value, hint)
        if rule:
            default = "" if field.default is MISSING else f"; the default is {field.default!r}"
            raise ValueError(f"{field.name}={value!r} must be {rule}{default}")


def _broken_rule(value, hint):
    """What `value` would have to be, in words; None when it is that already."""
    kind, options = get_origin(hint), get_args(hint)
    if kind is Annotated:
        rule = _broken_rule(value, options[0])
        return rule or next(filter(None, (bounds.broken_by(value) for bounds in options[1:])), None)
    if kind in (Union, UnionType):
        rules = [_broken_rule(value, option) for option in options if option is not NoneType]
        if None in rules or (value is None and NoneType in options):
            return None
        return " or ".join(rules + ["None"] * (NoneType in options))
    if kind is Literal:
        return (
            None
            if value in options and not isinstance(value, bool)
            else f"one of {', '.join(map(repr, options))}"
        )
    if kind is tuple:
        if not isinstance(value, tuple | list) or len(value) != len(options):
            return f"{len(options)} values"
        rule = next(filter(None, map(_broken_rule, value, options)), None)
        return rule and f"{len(options)} values, each {rule}"
    fits, rule = {
        int: (isinstance(value, int) and not isinstance(value, bool), "a whole number"),
        float: (
            isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < math.inf,
            "a finite number",
        ),
        bool: (isinstance(value, bool), "True or False"),
        str: (isinstance(value, str) and bool(value), "a text that is not empty"),
    }.get(hint, (True, None))
    return None if fits else rule
