"""The suite from Python: the same case, run folder and solution as the command gives."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .config import Case, load_case, make_case
from .errors import ConfigurationError
from .execution.folder import check
from .execution.options import check_device
from .problems import registry
from .problems.problem import Problem
from .progress import reporter_for

if TYPE_CHECKING:
    from .operators.case import OperatorCase
    from .operators.neural_de.trajectories.case import TrajectoryCase
    from .operators.neural_de.trajectories.fitted import TrajectoryModel
    from .operators.operator import Operator
    from .solvers.solution import Solution

__all__ = ["load", "load_operator", "load_trajectory_model", "problem", "solve", "train"]


def problem(name: str, **parameters: float) -> Problem:
    """A problem of the library, with some of its parameters changed.

    Raises:
        ConfigurationError: no such problem or parameter, or a value outside its range.
    """
    return registry.get(name, **parameters)


def solve(
    case: Case | Problem | Mapping[str, Any] | str | Path,
    *,
    solver: Mapping[str, Any] | str | None = None,
    run: Mapping[str, Any] | None = None,
    set: Sequence[str] = (),  # noqa: A002 - the name of the option of the command
    out: str | Path | None = None,
    resume: bool = False,
    overwrite: bool = False,
    quiet: bool = False,
) -> Solution:
    """Solve a case and return its solution, exactly as `residua solve` does.

    Args:
        case: a case file, the name of a library problem, a `Problem`, the mapping that would stand
            under `problem` in a file, or a ready `Case`.
        solver: what would stand under `solver`; for a problem, not for a case file.
        run: what would stand under `run`; for a problem, not for a case file.
        set: texts such as "solver.windows=4", for a case file or a name alone.
        out: run folder; runs/<name>-<hash> by default.
        resume: continue from the last checkpoint in the run folder.
        overwrite: replace an earlier run in the folder.
        quiet: print nothing.

    Raises:
        ConfigurationError: something in the case or the arguments is wrong, or the folder holds
            what must not be lost.
        AccuracyError: `run.accuracy` was missed; the run folder is complete, see `load`.
        ResiduaError: the run could not be finished.
    """
    from .solvers.run import solve_case

    ready = _as_case(case, solver, run, set)
    check_device(ready.run.device)
    folder = ready.folder if out is None else Path(out)
    check(folder, resume=resume, overwrite=overwrite)
    outcome = solve_case(ready, out=folder, resume=resume, reporter=reporter_for(quiet=quiet))
    if outcome.failure is not None:
        raise outcome.failure
    return outcome.solution


def _as_case(case: Any, solver: Any, run: Any, changes: Sequence[str]) -> Case:
    changes = [changes] if isinstance(changes, str) else list(changes)
    given = solver is not None or run is not None
    if isinstance(case, Case):
        if given or changes:
            raise ConfigurationError("a ready Case takes no solver, run or set")
        return case
    if isinstance(case, Problem | Mapping):
        if changes:
            raise ConfigurationError(
                "set changes a case file or a library problem",
                advice="write the values into the mappings instead",
            )
        return make_case(case, solver, run)
    if not isinstance(case, str | Path):
        raise ConfigurationError(
            "a case is a file, a name, a mapping, a Problem or a Case", found=case
        )
    if not given:
        return load_case(case, changes, to_run=True)
    if changes:
        raise ConfigurationError("give either set, or solver and run")
    if str(case) not in registry.names():
        raise ConfigurationError(
            f"{case}: solver and run belong to a library problem; a case file holds its own",
            advice="change them by set=['run.budget=60']",
        )
    return make_case(str(case), solver, run)


def load(folder: str | Path, problem: Problem | Mapping[str, Any] | None = None) -> Solution:
    """The solution kept in a run folder.

    Args:
        folder: where the run left it.
        problem: what was solved, as it was given to `solve`; needed only where an equation is a
            Python function that could not be followed, which no file can hold.

    Raises:
        DataError: there is none, it is damaged, or it is of another problem.
    """
    from .solvers.solution import load as read

    if isinstance(problem, Mapping):
        problem = make_case(problem).problem
    return read(folder, problem)


def train(
    case: OperatorCase | TrajectoryCase | Mapping[str, Any] | str | Path,
    *,
    set: Sequence[str] = (),  # noqa: A002 - the name of the option of the command
    out: str | Path | None = None,
    resume: bool = False,
    overwrite: bool = False,
    quiet: bool = False,
) -> Operator | TrajectoryModel:
    """Train an operator, or a model of series, and return it, exactly as `residua train` does.

    Args:
        case: a case file, the mapping that would stand in one, or a ready `OperatorCase` or
            `TrajectoryCase`.
        set: texts such as "network.width=16", for a case file alone.
        out: run folder; runs/<name>-<hash> by default.
        resume: continue from the last checkpoint in the run folder.
        overwrite: replace an earlier run in the folder.
        quiet: print nothing.

    Raises:
        ConfigurationError: something in the case or the arguments is wrong, or the folder holds
            what must not be lost.
        AccuracyError: `run.accuracy` was missed; the run folder is complete, see `load_operator`.
        ResiduaError: the run could not be finished.
    """
    from . import yaml_source
    from .operators import case as fields
    from .operators.neural_de.trajectories import case as trajectories

    file = Path(case) if isinstance(case, str | Path) else None
    given = case if file is None else yaml_source.load(file).data
    of_series = isinstance(given, trajectories.TrajectoryCase)
    kind = trajectories if of_series or trajectories.is_trajectory_case(given) else fields
    ready: Any
    if file is not None:
        ready = kind.load_case(file, [set] if isinstance(set, str) else list(set), to_run=True)
    elif set:
        raise ConfigurationError("set changes a case file", advice="change the mapping instead")
    else:
        ready = kind.make_case(case) if isinstance(case, Mapping) else case
    check_device(ready.run.device)
    folder = ready.folder if out is None else Path(out)
    check(folder, resume=resume, overwrite=overwrite)
    reporter = reporter_for(quiet=quiet)
    if kind is trajectories:
        from .operators.neural_de.trajectories.run import train_case as train_on_series

        outcome = train_on_series(ready, out=folder, resume=resume, reporter=reporter)
        found: Any = outcome.model
    else:
        from .operators.run import train_case

        outcome = train_case(ready, out=folder, resume=resume, reporter=reporter)
        found = outcome.operator
    if outcome.failure is not None:
        raise outcome.failure
    return found


def load_trajectory_model(folder: str | Path) -> TrajectoryModel:
    """The model of series kept in a run folder of `train`.

    Raises:
        DataError: there is none, or it is damaged.
    """
    from .operators.neural_de.trajectories.fitted import load as read

    return read(folder)


def load_operator(folder: str | Path) -> Operator:
    """The operator kept in a run folder of `train`: a function from fields to fields.

    Raises:
        DataError: there is none, or it is damaged.
    """
    from .operators.operator import load as read

    return read(folder)
