"""A problem: coordinates, fields, parameters, equations and conditions as one frozen value."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, cast

import sympy

from ..errors import ConfigurationError
from . import given
from .conditions import Condition, mapping_of, read_conditions
from .equation import Equation, Namespace, parse, parse_constant
from .given import Given, GivenCall
from .namespace import nearest
from .reference_settings import read as read_settings
from .symmetry import parities
from .validation import validate

if TYPE_CHECKING:
    from .references import Reference

__all__ = ["Parameter", "Problem"]

TIME = "t"
PYTHON = "python: "
"""How a file names a residual that only exists as a Python function."""
KEYS = (
    "title",
    "description",
    "coordinates",
    "fields",
    "parameters",
    "functions",
    "equations",
    "conditions",
    "reference",
)
ADVISED = ("solver", "run")


@dataclass(frozen=True)
class Parameter:
    """A named constant with the range in which the problem makes sense."""

    value: float
    low: float | None = None
    high: float | None = None
    description: str = ""

    def holds(self, value: float) -> bool:
        """Whether `value` lies in the range."""
        return (self.low is None or value >= self.low) and (self.high is None or value <= self.high)


@dataclass(frozen=True)
class Problem:
    """Find fields on a box such that every equation holds inside and every condition on its face.

    Attributes:
        name: short name, used for folders.
        title: one line.
        description: what it models, and where it comes from.
        coordinates: independent variables in the order of the columns of a point array; "t" is
            time.
        bounds: (low, high) per coordinate.
        fields: unknown functions, in the order of the columns of a solution array.
        parameters: named constants.
        functions: known functions given by data.
        equations: residuals, zero in the interior.
        conditions: residuals, zero on faces.
        reference_spec: how to obtain a solution to compare with: {"method": ..., settings}.
        recommended: solver and run settings that suit it.

    Raises:
        ConfigurationError: names clash, bounds are empty, or equations and conditions do not fit
            together.
    """

    name: str
    coordinates: tuple[str, ...]
    bounds: tuple[tuple[float, float], ...]
    fields: tuple[str, ...]
    equations: tuple[Equation, ...]
    conditions: tuple[Condition, ...]
    parameters: Mapping[str, Parameter] = field(default_factory=dict)
    functions: tuple[Given, ...] = ()
    title: str = ""
    description: str = ""
    reference_spec: Mapping[str, Any] = field(default_factory=lambda: {"method": "auto"})
    recommended: Mapping[str, Any] = field(default_factory=dict, compare=False)

    def __post_init__(self) -> None:
        validate(self)

    @property
    def time(self) -> str | None:
        """The coordinate called t, if there is one."""
        return TIME if TIME in self.coordinates else None

    @cached_property
    def namespace(self) -> Namespace:
        """All declared names."""
        return Namespace(
            self.coordinates, self.fields, tuple(self.parameters), self.time, self.functions
        )

    @property
    def values(self) -> dict[str, float]:
        """Parameter values by name."""
        return {name: parameter.value for name, parameter in self.parameters.items()}

    @property
    def periodic(self) -> frozenset[str]:
        """Coordinates whose two ends are one."""
        return frozenset(c.faces[0].coordinate for c in self.conditions if c.kind == "periodic")

    @property
    def time_order(self) -> dict[str, int]:
        """Highest time derivative of each field, which is the number of initial values it needs."""
        if self.time is None:
            return dict.fromkeys(self.fields, 0)
        return {f: max(e.order(self.time, f) for e in self.equations) for f in self.fields}

    def substituted(self, tree: sympy.Expr) -> sympy.Expr:
        """The tree with parameter values: small whole numbers exactly, others as doubles."""
        values = {}
        for name, value in self.values.items():
            whole = value.is_integer() and abs(value) <= 64
            values[sympy.Symbol(name, real=True)] = (
                sympy.Integer(int(value)) if whole else sympy.Float(value)
            )
        return cast(sympy.Expr, tree.xreplace(values))

    def with_parameters(self, **values: float | str) -> Problem:
        """The same problem at other parameter values.

        Args:
            values: numbers or constant expressions by parameter name.

        Raises:
            ConfigurationError: unknown name, not a finite number, or outside the declared range.
        """
        parameters = dict(self.parameters)
        for name, value in values.items():
            if name not in parameters:
                close = nearest(name, parameters)
                known = ", ".join(parameters) or "none"
                raise ConfigurationError(
                    f"'{self.name}' has no parameter '{name}'",
                    path=("parameters", name),
                    advice=f"did you mean '{close}'?" if close else f"its parameters: {known}",
                )
            try:
                number = parse_constant(value)
            except ConfigurationError as error:
                raise error.under("parameters", name) from error.__cause__
            parameters[name] = dataclasses.replace(parameters[name], value=number)
        return dataclasses.replace(self, parameters=parameters)

    def parities(self) -> dict[str, dict[str, int]]:
        """Reflections about the middle of a space coordinate that leave the problem as it is.

        Returns:
            For each such coordinate, +1 (even) or -1 (odd) per field; see `symmetry.parities`.
        """
        return parities(self)

    @property
    def unused(self) -> tuple[str, ...]:
        """Parameters and given functions that no equation, condition or exact solution holds."""
        trees = [e.tree for e in self.equations]
        trees += [e.tree for c in self.conditions for e in c.equations]
        if any(tree is None for tree in trees):  # a Python function may ask for anything
            return ()
        exact = self.reference_spec.get("exact", {}).values()
        known = [*(t for t in trees if t is not None), *(parse(x, self.namespace) for x in exact)]
        held = {str(symbol) for tree in known for symbol in tree.free_symbols}
        held |= {call.given.name for tree in known for call in tree.atoms(GivenCall)}
        declared = (*self.parameters, *(function.name for function in self.functions))
        return tuple(name for name in declared if name not in held)

    @property
    def floating(self) -> tuple[str, ...]:
        """Fields that appear in derivatives only, so that nothing tells their level."""
        stated = [*self.equations, *(e for c in self.conditions for e in c.equations)]
        zero = (0,) * len(self.coordinates)
        held = {f for e in stated for f, indices in e.derivatives.items() if zero in indices}
        return tuple(name for name in self.fields if name not in held)

    def reference(self, **settings: Any) -> Reference:
        """A solution to compare with, and its error bar; see `references.build`."""
        from .references import build

        return build(self, **settings)

    @classmethod
    def from_mapping(cls, mapping: Mapping[str, Any], *, name: str = "problem") -> Problem:
        """Read a problem as a person writes it in YAML.

        Args:
            mapping: plain dictionaries, lists, texts and numbers; equations may also be Python
                functions.
            name: what to call it.

        Raises:
            ConfigurationError: with a path relative to `mapping`.
        """
        if not isinstance(mapping, Mapping):
            raise ConfigurationError(
                "", found=mapping, advice="write a mapping with coordinates, fields, equations, ..."
            )
        for key in mapping:
            if key not in (*KEYS, *ADVISED):
                close = nearest(key, KEYS)
                advice = f"did you mean '{close}'?" if close else f"write one of: {', '.join(KEYS)}"
                raise ConfigurationError(f"unknown key '{key}'", path=(key,), advice=advice)
        for key in ("coordinates", "fields", "equations", "conditions"):
            if mapping.get(key) is None:
                raise ConfigurationError(
                    f"'{key}' is missing", path=(key,), advice=f"write {_EXAMPLES[key]}"
                )
        bounds = _coordinates(mapping["coordinates"])
        fields = _fields(mapping["fields"])
        parameters = _parameters(mapping.get("parameters") or {})
        functions = given.read(mapping.get("functions"))
        time = TIME if TIME in bounds else None
        namespace = Namespace(tuple(bounds), fields, tuple(parameters), time, functions)
        return cls(
            name=name,
            title=_text(mapping, "title"),
            description=_text(mapping, "description"),
            coordinates=tuple(bounds),
            bounds=tuple(bounds.values()),
            fields=fields,
            parameters=parameters,
            functions=functions,
            equations=_equations(mapping["equations"], namespace),
            conditions=read_conditions(mapping["conditions"], namespace, bounds),
            reference_spec=_reference(mapping.get("reference", "auto"), namespace),
            recommended={key: mapping[key] for key in ADVISED if mapping.get(key)},
        )

    def to_mapping(self) -> dict[str, Any]:
        """Plain values from which `from_mapping` makes an equal problem, given its name.

        Raises:
            ConfigurationError: an equation is a Python function without a text form.
        """
        if any(e.function is not None for e in self.equations):
            raise ConfigurationError(
                "a problem with Python residuals cannot be written to a file", path=("equations",)
            )
        parameters: dict[str, Any] = {}
        for name, p in self.parameters.items():
            entry: dict[str, Any] = {"value": p.value}
            if p.low is not None and p.high is not None:
                entry["range"] = [p.low, p.high]
            if p.description:
                entry["description"] = p.description
            parameters[name] = entry
        reference = dict(self.reference_spec)
        method = reference.pop("method")
        return {
            "title": self.title,
            "description": self.description,
            "coordinates": {c: list(b) for c, b in zip(self.coordinates, self.bounds, strict=True)},
            "fields": list(self.fields),
            "parameters": parameters,
            **({"functions": given.mapping_of(self.functions)} if self.functions else {}),
            "equations": [e.text for e in self.equations],
            "conditions": [mapping_of(c, self.namespace) for c in self.conditions],
            "reference": method
            if not reference
            else reference
            if method == "exact"
            else dict(self.reference_spec),
        }


_EXAMPLES = {
    "coordinates": "{x: [-1, 1], t: [0, 1]}",
    "fields": "a list such as [u]",
    "equations": 'a list such as ["u_t = u_xx"]',
    "conditions": "a list such as [{where: t = 0, u: sin(pi*x)}, {periodic: x}]",
}


def _text(mapping: Mapping[str, Any], key: str) -> str:
    value = mapping.get(key)
    if value is not None and not isinstance(value, str):
        raise ConfigurationError("", path=(key,), found=value, advice="write a text")
    return " ".join((value or "").split())


def _listed(value: Any, key: str) -> Sequence[Any]:
    if not isinstance(value, Sequence) or isinstance(value, str) or not value:
        raise ConfigurationError("", path=(key,), found=value, advice=f"write {_EXAMPLES[key]}")
    return value


def _number(value: Any, path: tuple[str | int, ...]) -> float:
    try:
        return parse_constant(value)
    except ConfigurationError as error:
        raise error.under(*path) from error.__cause__


def _pair(value: Any, path: tuple[str | int, ...]) -> tuple[float, float]:
    if not isinstance(value, Sequence) or isinstance(value, str) or len(value) != 2:
        raise ConfigurationError(
            "", path=path, found=value, advice="write two numbers, such as [0, 1]"
        )
    low, high = (_number(end, (*path, i)) for i, end in enumerate(value))
    if not low < high:
        problem = "the interval is empty" if low == high else "the interval runs backwards"
        raise ConfigurationError(
            problem, path=path, found=list(value), advice="write [low, high] with low < high"
        )
    return low, high


def _coordinates(value: Any) -> dict[str, tuple[float, float]]:
    if not isinstance(value, Mapping) or not value:
        raise ConfigurationError(
            "", path=("coordinates",), found=value, advice=f"write {_EXAMPLES['coordinates']}"
        )
    return {name: _pair(ends, ("coordinates", name)) for name, ends in value.items()}


def _fields(value: Any) -> tuple[str, ...]:
    return tuple(_listed(value, "fields"))


def _parameters(value: Any) -> dict[str, Parameter]:
    if not isinstance(value, Mapping):
        raise ConfigurationError(
            "", path=("parameters",), found=value, advice="write a mapping such as {nu: 0.01}"
        )
    return {name: _parameter(entry, ("parameters", name)) for name, entry in value.items()}


def _parameter(entry: Any, path: tuple[str | int, ...]) -> Parameter:
    if entry is None:
        raise ConfigurationError(
            "the parameter has no value", path=path, advice="write a number, such as 0.01/pi"
        )
    if not isinstance(entry, Mapping):
        return Parameter(_number(entry, path))
    known = ("value", "range", "description")
    for key in entry:
        if key not in known:
            close = nearest(key, known)
            advice = f"did you mean '{close}'?" if close else f"write one of: {', '.join(known)}"
            raise ConfigurationError(f"unknown key '{key}'", path=(*path, key), advice=advice)
    if "value" not in entry:
        raise ConfigurationError("the parameter has no value", path=path, advice="add value: 0.01")
    ends = entry.get("range")
    low, high = (None, None) if ends is None else _pair(ends, (*path, "range"))
    try:
        description = _text(entry, "description")
    except ConfigurationError as error:
        raise error.under(*path) from None
    return Parameter(_number(entry["value"], (*path, "value")), low, high, description)


def _equations(value: Any, namespace: Namespace) -> tuple[Equation, ...]:
    equations = []
    for number, item in enumerate(_listed(value, "equations")):
        try:
            equations.append(_equation(item, namespace))
        except ConfigurationError as error:
            raise error.under("equations", number) from error.__cause__
    return tuple(equations)


def _equation(item: str | Callable[[Any], Any], namespace: Namespace) -> Equation:
    if isinstance(item, str) and item.startswith(PYTHON):
        raise ConfigurationError(
            f"'{item[len(PYTHON) :]}' is a Python function, which no file can hold",
            advice="give the problem from Python: residua.load(folder, problem=...) or "
            "residua.solve(problem, ...)",
        )
    return Equation.from_callable(item, namespace) if callable(item) else Equation(item, namespace)


def _reference(value: Any, namespace: Namespace) -> dict[str, Any]:
    """Read a name, {exact: {u: text}} or {method: ..., settings} as {method: ..., settings}."""
    if isinstance(value, str):
        read_settings({"method": value})
        return {"method": value}
    if not isinstance(value, Mapping) or ("exact" not in value and "method" not in value):
        advice = "write auto, none, {exact: {u: ...}} or {method: ...}"
        raise ConfigurationError("", path=("reference",), found=value, advice=advice)
    method = value.get("method", "exact")
    if not isinstance(method, str):
        raise ConfigurationError(
            "", path=("reference", "method"), found=method, advice="write the name of a method"
        )
    spec = {"method": method, **value}
    if method == "exact" and "exact" in value:
        spec["exact"] = _exact(value["exact"], namespace)
    read_settings(spec)
    return spec


def _exact(value: Any, namespace: Namespace) -> dict[str, Any]:
    path = ("reference", "exact")
    if not isinstance(value, Mapping):
        raise ConfigurationError(
            "", path=path, found=value, advice="write a mapping such as {u: sin(x - t)}"
        )
    for name in value:
        if name not in namespace.fields:
            raise ConfigurationError(
                f"'{name}' is not a field", path=(*path, name), advice=namespace.suggest(str(name))
            )
    for name in namespace.fields:
        if name not in value:
            raise ConfigurationError(
                f"the exact solution of '{name}' is missing", path=path, advice=f"add {name}: ..."
            )
        try:
            tree = parse(value[name], namespace)
        except ConfigurationError as error:
            raise error.under(*path, name) from error.__cause__
        if namespace.jets(tree):
            advice = "write it with coordinates and parameters"
            raise ConfigurationError(
                "an exact solution cannot depend on a field",
                path=(*path, name),
                found=value[name],
                advice=advice,
            )
    return {name: value[name] for name in namespace.fields}
