"""The schema is held against the cases themselves: what runs is valid, what is misspelt is not."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

from residua import yaml_source
from residua.config import load_case
from residua.operators.case import make_case
from residua.schema import json_schema, operator_schema

sys.path.insert(0, str(Path(__file__).parent / "bad_cases"))
try:
    from bad_base import BURGERS, LIBRARY, WAVE
    from bad_keys import KEYS
finally:
    sys.path.pop(0)

SCHEMA = json_schema()
LIBRARY_FILES = sorted((Path(__file__).parents[2] / "problems" / "library").glob("*.yaml"))
TYPES = {
    "object": dict,
    "array": list,
    "string": str,
    "number": (int, float),
    "integer": int,
    "boolean": bool,
    "null": type(None),
}
SILENT = {"$schema", "title", "description", "default", "properties", "required"}


def of_type(value, name):
    if isinstance(value, bool):
        return name == "boolean"
    if name == "integer" and isinstance(value, float):
        return value.is_integer()
    return isinstance(value, TYPES[name])


def complaints(value, schema, place="case"):
    """What JSON Schema says against a value: the keywords used here, and no other."""
    found = []
    for keyword, wanted in schema.items():
        if keyword == "type":
            names = [wanted] if isinstance(wanted, str) else wanted
            if not any(of_type(value, name) for name in names):
                return [f"{place}: {value!r} is no {names}"]
        elif keyword == "enum":
            found += [] if value in wanted else [f"{place}: {value!r} is none of {wanted}"]
        elif keyword == "const":
            found += [] if value == wanted else [f"{place}: {value!r} is not {wanted!r}"]
        elif keyword == "anyOf":
            branches = [complaints(value, branch, place) for branch in wanted]
            found += [] if not all(branches) else min(branches, key=len)
        elif keyword == "minimum":
            found += [] if not is_number(value) or value >= wanted else [f"{place}: {value} small"]
        elif keyword == "maximum":
            found += [] if not is_number(value) or value <= wanted else [f"{place}: {value} large"]
        elif keyword == "exclusiveMinimum":
            found += [] if not is_number(value) or value > wanted else [f"{place}: {value} small"]
        elif keyword == "pattern":
            matches = not isinstance(value, str) or re.search(wanted, value)
            found += [] if matches else [f"{place}: {value!r} does not match"]
        elif keyword in ("minItems", "maxItems", "minProperties"):
            fits = len(value) <= wanted if keyword == "maxItems" else len(value) >= wanted
            found += [] if fits else [f"{place}: {len(value)} members"]
        elif keyword == "items":
            for position, item in enumerate(value):
                found += complaints(item, wanted, f"{place}[{position}]")
        elif keyword == "additionalProperties":
            for name in set(value) - set(schema.get("properties", {})):
                if wanted is False:
                    found.append(f"{place}: unknown key {name}")
                else:
                    found += complaints(value[name], wanted, f"{place}.{name}")
        else:
            assert keyword in SILENT, f"a keyword that is not checked: {keyword}"
    for name, member in schema.get("properties", {}).items() if isinstance(value, dict) else ():
        if name in value:
            found += complaints(value[name], member, f"{place}.{name}")
    for name in schema.get("required", ()) if isinstance(value, dict) else ():
        found += [] if name in value else [f"{place}: {name} is missing"]
    return found


def is_number(value):
    return isinstance(value, int | float) and not isinstance(value, bool)


def data(text):
    return yaml_source.load(text).data


@pytest.mark.parametrize("path", LIBRARY_FILES, ids=lambda path: path.stem)
def test_a_library_file_is_valid_as_it_stands_and_resolved(path):
    problem = data(path.read_text(encoding="utf-8"))
    case = {"problem": problem}
    case |= {name: problem.pop(name) for name in ("solver", "run") if name in problem}
    assert complaints(case, SCHEMA) == []
    assert complaints({"problem": path.stem}, SCHEMA) == []
    assert complaints(load_case(path.stem).resolved(), SCHEMA) == []
    # Its wrong twin: one key too many.
    problem["equation"] = problem["equations"][0]
    assert complaints(case, SCHEMA)


@pytest.mark.parametrize("text", [BURGERS, WAVE, LIBRARY], ids=["burgers", "wave", "library"])
def test_the_good_cases_are_valid(text):
    assert complaints(data(text), SCHEMA) == []


@pytest.mark.parametrize(
    "optimizer",
    ["quasi_newton", "{name: quasi_newton, update: ss_bfgs}", "[{name: soap, steps: 9}, lbfgs]"],
)
def test_every_optimiser_is_known(optimizer):
    from residua.overrides import Override

    change = Override.parse(f"solver.optimizer={optimizer}")
    assert complaints(change.apply(data(BURGERS)), SCHEMA) == []


@pytest.mark.parametrize("bad", KEYS, ids=lambda bad: bad.id.replace(" ", "-"))
def test_a_wrong_key_is_invalid_and_its_correction_valid(bad):
    assert complaints(data(bad.twin), SCHEMA) == []
    assert complaints(data(bad.text), SCHEMA)


@pytest.mark.parametrize(
    "change",
    [
        "solver.network.width=0",
        "solver.network.activation=relu",
        "solver.optimizer.0.learning_rate=-1",
        "solver.optimizer={name: quasi_newton, update: dfp}",
        "solver.optimizer={name: quasi_newton, learning_rate: 1}",
        "solver.optimizer={name: soap, refresh: 0}",
        "run.seed=-1",
        "run.seed=1.5",
        "run.name=../up",
        "run.budget=true",
        "run.device=tpu",
        "problem.coordinates.x=[0]",
        "problem.fields=[]",
        "problem.reference=exact",
        "problem.reference={exact: {u: 0}, foo: 3}",
        "problem.reference={method: none, target: 3}",
        "problem.reference={method: auto, target: 1}",
    ],
)
def test_a_value_out_of_range_is_invalid(change):
    from residua.overrides import Override

    good = data(BURGERS)
    assert complaints(Override.parse(change).apply(good), SCHEMA)


def test_what_the_loader_misses_is_missing_for_the_schema_too():
    for key in ("coordinates", "fields", "equations", "conditions"):
        case = data(BURGERS)
        del case["problem"][key]
        assert complaints(case, SCHEMA), key


@pytest.mark.parametrize(
    "reference", ["auto", "none", {"exact": {"u": 0}}, {"method": "auto", "target": 1e-6}]
)
def test_references_are_valid(reference):
    case = data(BURGERS)
    case["problem"]["reference"] = reference
    assert complaints(case, SCHEMA) == []


def test_cases_for_operators_are_held_against_their_schema():
    """What is written in the documentation, and every default; a misspelt key is refused."""
    docs = Path(__file__).parents[2] / "docs" / "operators.md"
    written = yaml_source.load(
        re.search(r"```yaml\n(.*?)```", docs.read_text("utf-8"), re.S)[1]
    ).data
    schema = operator_schema()
    assert complaints(written, schema) == []
    assert complaints(make_case(written).resolved(), schema) == []
    for wrong in (
        {**written, "netwrok": {}},
        {**written, "data": {}},
        {**written, "network": {"name": "mgno", "widht": 3}},
        {**written, "training": {"loss": "l3"}},
    ):
        assert complaints(wrong, schema)
