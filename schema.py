"""JSON Schema of a case file, made from the option classes, so that editors complete and check.

Use it by writing `# yaml-language-server: $schema=residua.schema.json` at the top of a case file.
"""

from __future__ import annotations

from typing import Any

from .execution.options import NAME, RunOptions
from .operators.options import (
    DataOptions,
    NetworkOptions,
    OperatorRun,
    PhysicsOptions,
    TrainingOptions,
)
from .problems import registry
from .problems.reference_settings import METHODS
from .solvers import any_options
from .typed import schema

__all__ = ["json_schema", "operator_schema"]

_EXPRESSION = {
    "type": ["number", "string"],
    "description": "a number or an expression such as 0.01/pi or -sin(pi*x)",
}
_CONSTANT = {
    "type": ["number", "string"],
    "description": "a number or a constant expression such as 0.01/pi",
}


def json_schema() -> dict[str, Any]:
    """The schema (draft 2020-12) of a whole case."""
    solver = schema(any_options())
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Residua case",
        "type": "object",
        "required": ["problem"],
        "additionalProperties": False,
        "properties": {
            "problem": {
                "anyOf": [{"enum": list(registry.names())}, _library_problem(), _definition()]
            },
            "solver": {**solver, "description": "the backend and its settings"},
            "run": {**schema(RunOptions), "description": "seed, precision, budget, output"},
        },
    }


def operator_schema() -> dict[str, Any]:
    """The schema (draft 2020-12) of a case for operators."""
    data = schema(DataOptions)
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Residua case for an operator",
        "type": "object",
        "required": ["data"],
        "additionalProperties": False,
        "properties": {
            "data": {**data, "required": ["file"], "description": "samples, and what is learnt"},
            "network": {**schema(NetworkOptions), "description": "the operator"},
            "training": {**schema(TrainingOptions), "description": "how it is trained"},
            "run": {**schema(OperatorRun), "description": "seed, precision, budget, output"},
            "physics": {**schema(PhysicsOptions), "description": "the equation teaches too"},
        },
    }


def _library_problem() -> dict[str, Any]:
    return {
        "type": "object",
        "required": ["name"],
        "additionalProperties": False,
        "properties": {
            "name": {"enum": list(registry.names()), "description": "a problem of the library"},
            "parameters": {"type": "object", "additionalProperties": _CONSTANT},
        },
    }


def _definition() -> dict[str, Any]:
    where = {"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}]}
    condition = {
        "type": "object",
        "anyOf": [{"required": ["where"]}, {"required": ["periodic"]}],
        "properties": {
            "where": {
                **where,
                "description": "a face such as 'x = 1', 't = 0', several of them, or 'boundary'",
            },
            "periodic": {
                **where,
                "description": "the coordinate, or coordinates, that close on themselves",
            },
            "equation": {"type": "string", "description": "a condition such as u_x + 2*u = 0"},
            "name": {"type": "string", "description": "what to call it in reports"},
        },
        "additionalProperties": _EXPRESSION,
    }
    parameter = {
        "type": "object",
        "required": ["value"],
        "additionalProperties": False,
        "properties": {
            "value": _CONSTANT,
            "range": {"type": "array", "items": _CONSTANT, "minItems": 2, "maxItems": 2},
            "description": {"type": "string"},
        },
    }
    bounds = {"type": "array", "items": _CONSTANT, "minItems": 2, "maxItems": 2}
    return {
        "type": "object",
        "required": ["coordinates", "fields", "equations", "conditions"],
        "additionalProperties": False,
        "properties": {
            "name": {"type": "string", "pattern": f"^{NAME}$"},
            "title": {"type": "string"},
            "description": {"type": "string"},
            "coordinates": {"type": "object", "additionalProperties": bounds, "minProperties": 1},
            "fields": {"type": "array", "items": {"type": "string"}, "minItems": 1},
            "parameters": {
                "type": "object",
                "additionalProperties": {"anyOf": [_CONSTANT, parameter]},
            },
            "functions": {"type": "object", "additionalProperties": _given()},
            "equations": {"type": "array", "items": {"type": "string"}, "minItems": 1},
            "conditions": {"type": "array", "items": condition},
            "reference": {"anyOf": [{"enum": sorted(METHODS.keys() - {"exact"})}, *_references()]},
        },
    }


def _given() -> dict[str, Any]:
    """A function given by data."""
    numbers = {
        "type": ["string", "array"],
        "description": "a file (.csv, .npy, .h5) relative to this one, or the rows themselves",
    }
    interval = {"type": "array", "items": _CONSTANT, "minItems": 2, "maxItems": 2}
    return {
        "type": "object",
        "anyOf": [{"required": ["series", "period"]}, {"required": ["samples"]}],
        "additionalProperties": False,
        "properties": {
            "series": {**numbers, "title": "wave number, cosine, sine"},
            "samples": {**numbers, "title": "point and value, or values alone"},
            "columns": {"type": "array", "items": {"type": "string"}, "minItems": 1},
            "period": {**interval, "description": "of a series, or of periodic samples"},
            "over": {**interval, "description": "ends of equispaced samples"},
            "beyond": {"const": "straight", "description": "how samples go on at their ends"},
            "description": {"type": "string"},
            "sha256": {"type": "string", "description": "of the numbers, to notice a change"},
        },
    }


def _references() -> list[dict[str, Any]]:
    """A mapping for each method, with its settings; `exact` names itself."""
    found = []
    for method, settings in METHODS.items():
        entry = schema(settings)
        entry["properties"] = {"method": {"const": method}, **entry["properties"]}
        entry["required"] = ["exact"] if method == "exact" else ["method"]
        found.append(entry)
    return found
