"""From a case file, a problem's name and `--set` texts to a checked `Case`; and back to a file.

A case has three parts: `problem` (a name of the library, or a definition in place), `solver` (a
backend and its settings) and `run` (seed, precision, budget, output). What is not written is taken
from the settings that a library problem recommends, and then from the defaults. Every error names
file, line and key, and says what to write. Nothing here imports torch, and a text that is no case
is refused before SymPy is loaded.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from . import yaml_source
from .errors import ConfigurationError
from .execution.case import Runnable
from .execution.options import NAME, NAME_SAYS, RunOptions, check_device
from .overrides import Override, locate, merged
from .solvers import BACKENDS, any_options
from .solvers.options import BackendOptions, GaussiansOptions, SolverOptions
from .typed import build, build_variant, nearest, plain
from .yaml_source import YamlSource

if TYPE_CHECKING:
    from .problems.problem import Problem

__all__ = ["Case", "load_case", "make_case", "placed"]

PathKey = tuple["str | int", ...]
SECTIONS = ("problem", "solver", "run")
SHORT = ("parameters",)
"""What can stand beside the name of a library problem."""
KINDS = ("initial", "boundary", "periodic")


@dataclass(frozen=True)
class Case(Runnable):
    """A problem, a method and a way to run it, all checked.

    Attributes:
        problem: what is solved.
        solver: settings of the backend `solver.name`.
        run: seed, precision, budget, output; `run.name` is always filled in.
        source: the file it came from, or the problem's name.
    """

    problem: Problem
    solver: BackendOptions
    run: RunOptions
    source: str = field(default="", compare=False)

    @property
    def name(self) -> str:
        """First part of the run folder's name."""
        return self.run.name or self.problem.name

    def resolved(self) -> dict[str, Any]:
        """The case as plain values with every default spelled out; loads again to an equal case."""
        return {
            "problem": {"name": self.problem.name, **_mapping_of(self.problem)},
            "solver": plain(self.solver),
            "run": plain(self.run),
        }

    def text(self, *, inline: bool = False) -> str:
        """`resolved` as the YAML text of config.resolved.yaml; it names `files` beside it.

        Args:
            inline: with the numbers of given functions in it, where they are few enough for a YAML
                file, so that it needs no `files`.
        """
        resolved = self.resolved()
        if inline and self.problem.functions:
            from .problems.given import few, mapping_of

            resolved["problem"]["functions"] |= mapping_of(few(self.problem.functions))
        return yaml_source.dump(resolved)

    def files(self) -> dict[str, str]:
        """Files that `text` names, relative to its own: their paths and texts."""
        if not self.problem.functions:
            return {}
        from .problems.given import files

        return files(self.problem.functions)

    def reread(self, path: Path) -> Case:
        """See `Runnable.reread`; a problem that no file can hold is taken to be the same."""
        untold = any(equation.tree is None for equation in self.problem.equations)
        return load_case(path, problem=self.problem if untold else None)


def _mapping_of(problem: Problem) -> dict[str, Any]:
    """The problem as it stands in a file, the numbers of given functions in files of their own."""
    found = _stated(problem)
    if problem.functions:
        from .problems.given import references_of

        found["functions"] = references_of(problem.functions)
    return found


def _stated(problem: Problem) -> dict[str, Any]:
    """The problem in plain values; a Python residual as the text of the tree it traced to.

    One that could not be traced is only named ("python: f"); a file cannot hold it.
    """
    if all(equation.function is None for equation in problem.equations):
        return problem.to_mapping()
    from .problems.equation import to_text

    texts = (
        equation.text
        if equation.function is None
        else f"python: {equation.text}"
        if equation.tree is None
        else f"{to_text(equation.tree)} = 0"
        for equation in problem.equations
    )
    # Not dataclasses.replace: what stands for an untraced residual would not pass for an equation.
    shown = copy.copy(problem)
    written = tuple(SimpleNamespace(text=text, function=None) for text in texts)
    object.__setattr__(shown, "equations", written)
    return shown.to_mapping()


def make_case(
    problem: Problem | Mapping[str, Any] | str,
    solver: Mapping[str, Any] | str | None = None,
    run: Mapping[str, Any] | None = None,
) -> Case:
    """A case from Python values, as they would stand in a file; `problem` may be a `Problem` too.

    Raises:
        ConfigurationError: anything is not as it should be; the path tells which value.
    """
    from .problems.problem import Problem

    data = {"problem": problem, "solver": solver, "run": run}
    if not isinstance(problem, Problem):
        problem = _problem(data, "problem")
    return _case(problem, data, problem.name)


def load_case(
    path_or_name: str | Path,
    overrides: Sequence[str] = (),
    *,
    problem: Problem | None = None,
    to_run: bool = False,
) -> Case:
    """Read a case file, or take a problem of the library with its recommended settings.

    Args:
        path_or_name: a YAML file, or a problem's name.
        overrides: texts such as "solver.windows=4", applied in order.
        problem: the problem behind a configuration that names Python functions; it must be the one
            that stands in the file.
        to_run: refuse also what this machine cannot run.

    Raises:
        ConfigurationError: anything is not as it should be.
    """
    source = _source(path_or_name)
    changes = [Override.parse(text) for text in overrides]
    try:
        data = source.data
        _check_sections(data)
        for change in changes:
            data = change.apply(data)
        _check_sections(data)
        data = placed(data, Path(source.file).parent)
        if problem is None:
            # A definition in place without a name is called after its file.
            stem = Path(source.file).stem
            problem = _problem(data, stem if re.fullmatch(NAME, stem) else "problem")
        else:
            problem = _same_problem(problem, data["problem"], Path(source.file).parent)
        case = _case(problem, data, source.file or problem.name)
        if to_run:
            check_device(case.run.device)
        return case
    except ConfigurationError as error:
        raise locate(error, source, changes) from None


def placed(data: Mapping[str, Any], folder: Path) -> Mapping[str, Any]:
    """A case whose files of numbers, written relative to a folder, are found from anywhere."""
    problem = data["problem"]
    if not isinstance(problem, Mapping) or "functions" not in problem:
        return data
    from .problems.given import located

    return {**data, "problem": located(problem, folder)}


def _same_problem(problem: Problem, written: Any, folder: Path) -> Problem:
    """`problem`, without recommendations, where a file holds the same one with all defaults."""
    expected = placed({"problem": {"name": problem.name, **_mapping_of(problem)}}, folder)
    if written != expected["problem"]:
        raise ConfigurationError(
            f"'{problem.name}' is not the problem that stands here",
            path=("problem",),
            advice="give the problem that was solved, with the same parameters",
        )
    return replace(problem, recommended={})


def _source(target: str | Path) -> YamlSource:
    """The case behind a file or problem name; such a name is the case of that problem alone."""
    text = str(target)
    is_file = isinstance(target, Path) or re.search(r"[/\\]|\.(ya?ml|json)$", text)
    if is_file:
        return yaml_source.load(Path(target))
    from .problems import registry

    if text not in registry.names() and Path(text).exists():
        return yaml_source.load(Path(text))
    if text not in registry.names():
        advice = nearest(text, registry.names()) + " (a case file ends in .yaml)"
        raise ConfigurationError("there is no such problem or file", found=text, advice=advice)
    return YamlSource(data={"problem": text}, file="", lines={})


def _check_sections(data: Any) -> None:
    if not isinstance(data, Mapping):
        raise ConfigurationError(
            "", found=data, advice="write a mapping with the keys problem, solver, run"
        )
    for key in data:
        if key in ("coordinates", "equations", "conditions", "fields", "parameters", "functions"):
            raise ConfigurationError(
                f"'{key}' belongs to the problem", path=(key,), advice="indent it under 'problem:'"
            )
        if key in ("data", "training") and "problem" not in data:
            raise ConfigurationError(
                f"'{key}' belongs to a case that is learnt from data",
                path=(key,),
                advice="run it by: residua train",
            )
        if key not in SECTIONS:
            raise ConfigurationError(
                f"unknown key '{key}'", path=(key,), advice=nearest(key, SECTIONS)
            )
    if data.get("problem") is None:
        advice = "write 'problem: NAME' or a definition in place (residua list names the library)"
        raise ConfigurationError("the problem is missing", path=("problem",), advice=advice)


def _problem(data: Mapping[str, Any], default_name: str) -> Problem:
    """A library problem or a definition in place."""
    from .problems import registry
    from .problems.problem import Problem

    raw = data["problem"]
    try:
        if isinstance(raw, str):
            return registry.get(raw)
        if not isinstance(raw, Mapping):
            raise ConfigurationError(
                "", found=raw, advice="write a problem's name, or a mapping that defines one"
            )
        definition = dict(raw)
        name = definition.pop("name", None)
        if name is not None and not (isinstance(name, str) and re.fullmatch(NAME, name)):
            raise ConfigurationError("", path=("name",), found=name, advice=NAME_SAYS)
        # Beside the name of a library problem, fields or equations tell that it is another one.
        telling = {"equations", "fields"}
        if name not in registry.names():
            telling |= {"coordinates", "conditions"}
        if definition.keys() & telling:
            return Problem.from_mapping(definition, name=name or default_name)
        if name is None:
            advice = (
                "write 'name:' of a library problem, or coordinates, fields, equations, conditions"
            )
            raise ConfigurationError("neither names nor defines a problem", advice=advice)
        for key in definition:
            if key != "parameters":
                close = "did you mean 'parameters'? " if "did you" in nearest(key, SHORT) else ""
                advice = (
                    f"{close}to change more of '{name}', write the definition in place, starting "
                    "from what 'residua solve NAME --print-config' prints"
                )
                raise ConfigurationError(
                    f"unknown key '{key}': a library problem takes only 'parameters'",
                    path=(key,),
                    advice=advice,
                )
        return _with_parameters(name, definition.get("parameters"))
    except ConfigurationError as error:
        raise error.under("problem") from None


def _with_parameters(name: str, values: Any) -> Problem:
    from .problems import registry
    from .problems.equation import parse_constant

    try:
        problem = registry.get(name)
    except ConfigurationError as error:
        raise (error if error.file else error.under("name")) from None
    if values is None:
        return problem
    if not isinstance(values, Mapping):
        raise ConfigurationError(
            "", path=("parameters",), found=values, advice="write a mapping such as {nu: 0.01}"
        )
    numbers = {}
    for key, value in values.items():
        if key not in problem.parameters:
            advice = nearest(key, problem.parameters)
            raise ConfigurationError(
                f"'{name}' has no parameter '{key}'", path=("parameters", key), advice=advice
            )
        try:
            numbers[key] = parse_constant(value)
        except ConfigurationError as error:
            raise error.under("parameters", key) from None
    return problem.with_parameters(**numbers)


def _case(problem: Problem, data: Mapping[str, Any], source: str) -> Case:
    recommended: Mapping[str, Any] = getattr(problem, "recommended", None) or {}
    default_solver = {"name": "causal" if BACKENDS["causal"].accepts(problem) is None else "pinn"}
    under = merged(default_solver, recommended.get("solver") or {})
    asked = data.get("solver")
    solver = _read_solver(under if asked is None else merged(under, asked))
    asked = data.get("run")
    run = build(
        RunOptions, merged(recommended.get("run") or {}, {} if asked is None else asked), ("run",)
    )
    if run.name is None:
        run = replace(run, name=problem.name)
    if reason := BACKENDS[solver.name].accepts(problem):
        others = [name for name, backend in BACKENDS.items() if backend.accepts(problem) is None]
        advice = (
            f"write one of: {', '.join(others)}" if others else "no backend accepts this problem"
        )
        raise ConfigurationError(
            f"'{solver.name}' does not accept this problem: {reason}",
            path=("solver", "name"),
            advice=advice,
        )
    if run.budget is None and run.steps is None and solver.stages[-1].steps is None:
        raise ConfigurationError(
            "without a budget the run needs another end",
            path=("run", "budget"),
            advice="write 'steps: 10000' beside it",
        )
    if isinstance(solver, SolverOptions):
        _check_collocation(problem, solver)
    _check_weights(problem, solver)
    _check_reference(problem)
    return Case(problem, solver, run, source)


def _check_collocation(problem: Problem, solver: SolverOptions) -> None:
    """What only the problem can vouch for: windows, networks, names of conditions."""
    if solver.windows > 1 and (reason := BACKENDS["causal"].accepts(problem)):
        raise ConfigurationError(
            f"time windows do not apply to this problem: {reason}",
            path=("solver", "windows"),
            found=solver.windows,
            advice="write windows: 1",
        )
    if solver.network.kind == "spectral" and problem.time is None:
        raise ConfigurationError(
            "there is no time coordinate t for the coefficients to depend on",
            path=("solver", "network", "kind"),
            found="spectral",
            advice="write mlp",
        )
    if isinstance(solver, GaussiansOptions):
        _check_gaussians(problem, solver)
    _check_names(problem, solver)


def _check_gaussians(problem: Problem, solver: GaussiansOptions) -> None:
    """What only the problem can vouch for: coordinates, and which of them are periodic."""
    path = ("solver", "gaussians")
    for name in solver.gaussians.density:
        if name not in problem.coordinates:
            raise ConfigurationError(
                f"the problem has no coordinate '{name}'",
                path=(*path, "density", name),
                advice=nearest(name, problem.coordinates),
            )
    if solver.gaussians.covariance == "full" and problem.periodic and solver.hard:
        raise ConfigurationError(
            "a Gaussian on a periodic coordinate has axes along the coordinates",
            path=(*path, "covariance"),
            found="full",
            advice="write 'covariance: diagonal', or 'hard: []' beside 'gaussians'",
        )


def _read_solver(value: Any) -> BackendOptions:
    if not isinstance(value, Mapping | str):
        advice = f"write one of: {', '.join(BACKENDS)}; or a mapping with its name and settings"
        raise ConfigurationError("", path=("solver",), found=value, advice=advice)
    return build_variant(any_options(), value, ("solver",))


def _check_reference(problem: Problem) -> None:
    """A given solution that solves another problem is a mistake, found before hours of training."""
    if problem.reference_spec["method"] != "exact":
        return
    from .problems.references import ReferenceUnavailable
    from .problems.references.exact import Exact

    try:
        Exact.of(problem, problem.reference_spec["exact"])
    except ReferenceUnavailable as error:
        path = ("problem", "reference", "exact")
        raise ConfigurationError(str(error), path=path) from error


def _check_names(problem: Problem, solver: SolverOptions) -> None:
    """Names in the solver's settings that only the problem can vouch for."""
    known = dict.fromkeys((*KINDS, *(condition.name for condition in problem.conditions)))
    if isinstance(solver.hard, tuple):
        for position, name in enumerate(solver.hard):
            if name not in known:
                advice = nearest(name, known)
                raise ConfigurationError(
                    "unknown condition",
                    path=("solver", "hard", position),
                    found=name,
                    advice=advice,
                )
    if isinstance(solver.symmetry, Mapping):
        space = problem.namespace.space
        for name in solver.symmetry:
            if name not in space:
                path = ("solver", "symmetry", name)
                raise ConfigurationError(
                    "no space coordinate has this name", path=path, advice=nearest(name, space)
                )


def _check_weights(problem: Problem, solver: BackendOptions) -> None:
    """Names of the terms that are given a weight."""
    conditions = (condition.name for condition in problem.conditions)
    terms = dict.fromkeys(("residual", *KINDS, *conditions))
    for name in solver.weights:
        if name not in terms:
            path = ("solver", "weighting", "values", name)
            raise ConfigurationError(
                "no term of the loss has this name", path=path, advice=nearest(name, terms)
            )
