"""What must hold on the faces of the domain: initial, boundary and periodic conditions.

A condition names a region (faces with an outward normal) and residuals that vanish there, so curved
boundaries can join later as another kind of region.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import sympy

from ..errors import ConfigurationError
from .equation import (
    Equation,
    MultiIndex,
    Namespace,
    parse,
    parse_constant,
    parse_equation,
    to_text,
)
from .namespace import NORMAL, nearest

__all__ = ["Condition", "Face", "Target", "mapping_of", "read_conditions"]

BOUNDARY = "boundary"
TERMS = ("residual", "interior", "handover", "total", "initial", "boundary", "periodic")
"""Names of terms and kinds of terms of a loss, which no condition can be given."""
# Names stand in logs, figures and settings, some day in paths.
_LABEL = r"\w[^/\\]{0,199}"
Bounds = Mapping[str, tuple[float, float]]


@dataclass(frozen=True)
class Face:
    """One side of the box.

    Attributes:
        coordinate: the coordinate that is constant on it.
        value: its value there.
        side: +1 or -1; the outward normal is side * e_coordinate. The initial slice has side -1.
    """

    coordinate: str
    value: float
    side: int

    def __str__(self) -> str:
        return f"{self.coordinate} = {self.value:.12g}"


@dataclass(frozen=True)
class Target:
    """A prescribed value: the derivative `index` of `field` equals `tree`, which holds no field."""

    field: str
    index: MultiIndex
    tree: sympy.Expr


@dataclass(frozen=True)
class Condition:
    """Residuals that vanish on a face, or two faces that are one.

    Attributes:
        name: unique within the problem.
        kind: initial (on the first time slice), boundary, or periodic.
        faces: one face; for periodic the low and the high one.
        equations: residuals that are zero on the face; none for periodic, where all derivatives
            match.
        targets: the prescribed values behind those equations that have this form, in the same
            order.
        place: its number in the list that it was read from, for messages.
    """

    name: str
    kind: Literal["initial", "boundary", "periodic"]
    faces: tuple[Face, ...]
    equations: tuple[Equation, ...] = ()
    targets: tuple[Target, ...] = ()
    place: int | None = field(default=None, compare=False)


def mapping_of(condition: Condition, namespace: Namespace) -> dict[str, Any]:
    """The condition as `read_conditions` reads it."""
    if condition.kind == "periodic":
        return {"periodic": condition.faces[0].coordinate, "name": condition.name}
    face = condition.faces[0]
    value = int(face.value) if face.value.is_integer() else face.value
    entry: dict[str, Any] = {"where": f"{face.coordinate} = {value!r}", "name": condition.name}
    for target in condition.targets:
        entry[namespace.jet(target.field, target.index).name] = to_text(target.tree)
    free = [e.text for e in condition.equations[len(condition.targets) :]]
    if free:
        entry["equation"] = free if len(free) > 1 else free[0]
    return entry


def read_conditions(
    items: Any, namespace: Namespace, bounds: Bounds, given: Mapping[str, sympy.Expr] | None = None
) -> tuple[Condition, ...]:
    """Read the `conditions:` list of a problem.

    Args:
        items: list of mappings as a person writes them.
        namespace: declared names.
        bounds: edges of the box by coordinate.
        given: further names usable in the values.

    Returns:
        One condition per face; a region of several faces is taken apart.

    Raises:
        ConfigurationError: with a path that starts at "conditions".
    """
    if not isinstance(items, Sequence) or isinstance(items, str):
        raise ConfigurationError(
            "",
            path=("conditions",),
            found=items,
            advice="write a list of conditions, each '- {where: ..., u: ...}'",
        )
    reader = _Reader(namespace, bounds, dict(given or {}))
    found: list[Condition] = []
    for number, item in enumerate(items):
        if not isinstance(item, Mapping):
            raise ConfigurationError(
                "",
                path=("conditions", number),
                found=item,
                advice="write a mapping such as {where: x = 0, u: 0}",
            )
        if "periodic" in item:
            found += _located(lambda item=item: reader.periodic(item), number)
    reader.joined = frozenset(c.faces[0].coordinate for c in found)
    placed: list[tuple[int, Condition]] = []
    for number, item in enumerate(items):
        if "periodic" not in item:
            placed += [
                (number, c) for c in _located(lambda item=item: reader.on_faces(item), number)
            ]
    _refuse_repeats(placed, namespace)
    return _named([*(c for _, c in placed), *found])


def _located(read: Any, number: int) -> list[Condition]:
    try:
        return [replace(condition, place=number) for condition in read()]
    except ConfigurationError as error:
        raise error.under("conditions", number) from error.__cause__


def _refuse_repeats(placed: Sequence[tuple[int, Condition]], namespace: Namespace) -> None:
    seen: dict[tuple[Face, str, MultiIndex], int] = {}
    for number, condition in placed:
        for target in condition.targets:
            key = (condition.faces[0], target.field, target.index)
            name = namespace.jet(target.field, target.index).name
            if key in seen:
                raise ConfigurationError(
                    f"{name} at {condition.faces[0]} is also in conditions[{seen[key]}]",
                    path=("conditions", number),
                    advice="keep one of them",
                )
            seen[key] = number


def _named(conditions: Sequence[Condition]) -> tuple[Condition, ...]:
    """Default names made unique by a number; chosen names that clash have been refused."""
    taken: set[str] = set()
    result = []
    for condition in conditions:
        name, count = condition.name, 1
        while name in taken:
            count += 1
            name = f"{condition.name} ({count})"
        taken.add(name)
        result.append(replace(condition, name=name))
    return tuple(result)


class _Reader:
    def __init__(self, namespace: Namespace, bounds: Bounds, given: dict[str, sympy.Expr]) -> None:
        self.namespace = namespace
        self.bounds = bounds
        self.given = given
        self.joined: frozenset[str] = frozenset()
        self.names: set[str] = set()

    def periodic(self, item: Mapping[str, Any]) -> list[Condition]:
        for key in item:
            if key not in ("periodic", "name"):
                raise ConfigurationError(
                    f"'{key}' beside periodic",
                    path=(key,),
                    advice="write it as a condition of its own",
                )
        names = item["periodic"]
        names = [names] if isinstance(names, str) else names
        if not isinstance(names, Sequence) or not names:
            raise ConfigurationError(
                "",
                path=("periodic",),
                found=names,
                advice="write a space coordinate, such as periodic: x",
            )
        conditions = []
        for name in names:
            self._space(name, ("periodic",))
            if name in self.joined:
                raise ConfigurationError(
                    f"'{name}' is periodic twice", path=("periodic",), advice="name it once"
                )
            self.joined |= {name}
            low, high = self.bounds[name]
            faces = (Face(name, low, -1), Face(name, high, +1))
            label = self._label(item, f"periodic {name}", name if len(names) > 1 else "")
            conditions.append(Condition(label, "periodic", faces))
        return conditions

    def _space(self, name: Any, path: tuple[str, ...]) -> None:
        if name == self.namespace.time and name is not None:
            raise ConfigurationError(
                "time cannot be periodic", path=path, advice="name a space coordinate"
            )
        if name not in self.namespace.space:
            close = nearest(str(name), self.namespace.space)
            known = ", ".join(self.namespace.space) or "none"
            advice = f"did you mean '{close}'?" if close else f"name a space coordinate ({known})"
            raise ConfigurationError("no such coordinate", path=path, found=name, advice=advice)

    def _label(self, item: Mapping[str, Any], default: str, face: str) -> str:
        """The condition's name: the chosen one, completed by the face where it covers several."""
        name = item.get("name")
        if name is None:
            return default
        if not isinstance(name, str) or not (re.fullmatch(_LABEL, name) and name.isprintable()):
            advice = "write a short text without slashes that starts with a letter or digit"
            raise ConfigurationError("", path=("name",), found=name, advice=advice)
        if name in TERMS and name != default:
            raise ConfigurationError(
                f"'{name}' is the name of another term of the loss",
                path=("name",),
                advice="choose another name",
            )
        name = f"{name} ({face})" if face else name
        if name in self.names:
            raise ConfigurationError(
                f"two conditions are named '{name}'", path=("name",), advice="rename one of them"
            )
        self.names.add(name)
        return name

    def on_faces(self, item: Mapping[str, Any]) -> list[Condition]:
        if "where" not in item:
            advice = "write {where: x = 0, u: ...}, {where: boundary, u: ...} or {periodic: x}"
            raise ConfigurationError("a condition needs a place", advice=advice)
        faces = self._faces(item["where"])
        entries = {key: value for key, value in item.items() if key not in ("where", "name")}
        if not entries:
            example = self.namespace.fields[0] if self.namespace.fields else "u"
            raise ConfigurationError(
                "the condition says nothing", advice=f"add a value, such as {example}: 0"
            )
        return [self._on_face(face, entries, item, len(faces) > 1) for face in faces]

    def _faces(self, where: Any) -> list[Face]:
        many = isinstance(where, Sequence) and not isinstance(where, str)
        faces: list[Face] = []
        for place, text in enumerate(where if many else [where]):
            path = ("where", place) if many else ("where",)
            try:
                faces += self._region(text)
            except ConfigurationError as error:
                raise error.under(*path) from error.__cause__
        if not faces:
            raise ConfigurationError(
                "", path=("where",), found=where, advice="write at least one place, such as x = 0"
            )
        for place, face in enumerate(faces):
            if face in faces[:place]:
                raise ConfigurationError(
                    f"{face} is named twice", path=("where",), advice="name it once"
                )
        return faces

    def _region(self, text: Any) -> list[Face]:
        examples = self._edges()
        if not isinstance(text, str):
            raise ConfigurationError("", found=text, advice=f"write one of: {examples}")
        if text.strip() == BOUNDARY:
            open_ends = [c for c in self.namespace.space if c not in self.joined]
            if not open_ends:
                raise ConfigurationError(
                    "this domain has no boundary", found=text, advice="remove the condition"
                )
            return [Face(c, self.bounds[c][side > 0], side) for c in open_ends for side in (-1, +1)]
        name, equals, value = text.partition("=")
        name = name.strip()
        if not equals:
            close = nearest(text, [BOUNDARY])
            advice = f"did you mean '{close}'?" if close else f"write one of: {examples}"
            raise ConfigurationError("not a place", found=text, advice=advice)
        if name not in self.namespace.coordinates:
            close = nearest(name, self.namespace.coordinates)
            hint = f"did you mean '{close}'?" if close else f"write one of: {examples}"
            raise ConfigurationError(f"'{name}' is not a coordinate", found=text, advice=hint)
        return [self._edge(name, parse_constant(value), text)]

    def _edges(self) -> str:
        texts = [BOUNDARY] if self.namespace.space else []
        for name, (low, high) in self.bounds.items():
            texts += [f"{name} = {low:.6g}"] + (
                [f"{name} = {high:.6g}"] if name != self.namespace.time else []
            )
        return ", ".join(texts)

    def _edge(self, name: str, value: float, text: str) -> Face:
        low, high = self.bounds[name]
        # Rounding of the end itself, not of the width: in [-1, 1e308] nothing but -1 is near -1.
        small = min(high - low, 1.0)
        at_low, at_high = (abs(value - end) <= 1e-12 * max(small, abs(end)) for end in (low, high))
        if at_low:
            face = Face(name, low, -1)
        elif at_high and name != self.namespace.time:
            face = Face(name, high, +1)
        else:
            edges = f"{name} = {low:.12g}" + (
                f" or {name} = {high:.12g}" if name != self.namespace.time else ""
            )
            problem = "is not on the edge of the domain"
            if name == self.namespace.time and at_high:
                problem = "is the end of time, where nothing can be prescribed"
            raise ConfigurationError(f"'{text.strip()}' {problem}", advice=f"write {edges}")
        if name in self.joined:
            raise ConfigurationError(
                f"{name} is periodic and has no edge",
                found=text,
                advice=f"remove this condition or 'periodic: {name}'",
            )
        return face

    def _on_face(
        self, face: Face, entries: Mapping[str, Any], item: Mapping[str, Any], several: bool
    ) -> Condition:
        initial = face.coordinate == self.namespace.time
        label = self._label(item, "initial" if initial else str(face), str(face) if several else "")
        prescribed: list[tuple[Equation, Target]] = []
        free: list[Equation] = []
        for key, value in entries.items():
            try:
                if key == "equation":
                    free += self._equations(face, value, initial)
                    continue
                equation, target = self._value(face, key, value, initial)
            except ConfigurationError as error:
                raise error.under(key) from error.__cause__
            if target is None:
                free.append(equation)
            else:
                prescribed.append((equation, target))
        equations = (*(e for e, _ in prescribed), *free)
        return Condition(
            label,
            "initial" if initial else "boundary",
            (face,),
            equations,
            tuple(t for _, t in prescribed),
        )

    def _names(self, face: Face, initial: bool) -> dict[str, sympy.Expr]:
        """u_n on this face, and whatever else was given."""
        names = dict(self.given)
        if not initial:
            axis = self.namespace.coordinates.index(face.coordinate)
            index = tuple(int(i == axis) for i in range(len(self.namespace.coordinates)))
            names |= {
                f"{f}_{NORMAL}": face.side * self.namespace.jet(f, index)
                for f in self.namespace.fields
            }
        return names

    def _value(
        self, face: Face, key: Any, value: Any, initial: bool
    ) -> tuple[Equation, Target | None]:
        field, index, sign = self._derivative(face, str(key), initial)
        tree = sign * parse(value, self.namespace, self._names(face, initial))
        jet = self.namespace.jet(field, index)
        if jet == tree:
            raise ConfigurationError(
                "the condition says nothing: both sides are the same",
                advice="write a value, or such as 'u_x: -u'",
            )
        equation = Equation(f"{jet.name} = {to_text(tree)}", self.namespace, jet - tree)
        if not self.namespace.jets(tree):
            return equation, Target(field, index, tree)
        if initial:
            raise ConfigurationError(
                "an initial value cannot depend on a field",
                found=value,
                advice="write it with coordinates and parameters",
            )
        return equation, None

    def _derivative(self, face: Face, key: str, initial: bool) -> tuple[str, MultiIndex, int]:
        axis = self.namespace.coordinates.index(face.coordinate)
        if (
            key.endswith(f"_{NORMAL}")
            and key[: -len(NORMAL) - 1] in self.namespace.fields
            and not initial
        ):
            index = tuple(int(i == axis) for i in range(len(self.namespace.coordinates)))
            return key[: -len(NORMAL) - 1], index, face.side
        found = self.namespace.derivative(key)
        if found is None:
            known = [
                "where",
                "equation",
                "name",
                "periodic",
                *(f"{f}_{NORMAL}" for f in self.namespace.fields),
            ]
            raise ConfigurationError(
                f"unknown key '{key}'", advice=self.namespace.suggest(key, known)
            )
        if initial and any(k for i, k in enumerate(found[1]) if i != axis):
            raise ConfigurationError(
                f"'{key}' is a space derivative; it follows from the initial value",
                advice="remove it",
            )
        return (*found, 1)

    def _equations(self, face: Face, value: Any, initial: bool) -> list[Equation]:
        if initial:
            raise ConfigurationError(
                "an initial condition gives values",
                advice="write u: ..., u_t: ... instead of an equation",
            )
        texts = [value] if isinstance(value, str) else value
        if not isinstance(texts, Sequence) or not texts:
            raise ConfigurationError(
                "", found=value, advice="write an equation such as 'u_x + 2*u = 0'"
            )
        equations = []
        for text in texts:
            tree = parse_equation(text, self.namespace, self._names(face, initial))
            if not self.namespace.jets(tree):
                raise ConfigurationError(
                    "the equation holds no field",
                    found=text,
                    advice="write an equation for a declared field",
                )
            # Kept in a form that reads the same without knowing the face: u_n is resolved.
            resolved = text if f"_{NORMAL}" not in text else f"{to_text(tree)} = 0"
            equations.append(Equation(resolved, self.namespace, tree))
        return equations
