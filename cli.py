"""The `residua` command: solve, train, evaluate, list, show, schema, bench, data.

Exit codes: 0 done; 1 the accuracy asked for was missed; 2 something in the case or on the command
line is wrong; 3 a file of data or a checkpoint is; 4 diverged; 5 out of memory, disk or device; 70
a bug; 130 and 143 stopped by Ctrl-C and SIGTERM after a checkpoint. Heavy modules are imported
where they are needed: help, lists and every refusal come without torch.
"""

from __future__ import annotations

import argparse
import contextlib
import errno
import io
import os
import re
import signal
import sys
import threading
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn, TypeVar

from .bench import commandline as bench
from .errors import AccuracyError, ConfigurationError, ResiduaError, ResourceError
from .execution.folder import check, check_same
from .operators.datasets import commandline as data

if TYPE_CHECKING:
    from .execution.case import Runnable
    from .progress import Reporter

__all__ = ["main"]

AnyCase = TypeVar("AnyCase", bound="Runnable")

COMMANDS = {
    "solve": "solve a case file or a problem of the library",
    "train": "train an operator, or a model of series, on the data that a case file names",
    "evaluate": "measure a trained operator: errors, other grids, bands, cost, classical solver",
    "list": "the problems of the library, and which backend accepts which",
    "show": "a problem in full: equations, conditions, parameters, reference, backends",
    "schema": "JSON Schema of a case file, for editors",
    "bench": "regression benchmarks: speed of the engine, accuracy of the suite, comparison",
    "data": "data for operators: generate by classical solvers, look into files",
}
EXAMPLES = """\
examples:
  residua solve burgers
  residua solve case.yaml --set solver.windows=4 --set run.budget='2 min'
  residua show allen_cahn
  residua train operator.yaml --set run.budget='10 min'
"""
INTERNAL_ERROR = 70


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; outcomes are exit codes, a refusal is one line on standard error."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in arguments
    try:
        with _any_encoding(), _one_line_warnings(debug), _stoppable():
            return _run(arguments)
    except BrokenPipeError:
        # The reader of a pipe has seen enough; Python would complain again when it closes standard
        # output.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt as stop:
        print("residua: stopped at once; what was saved before is intact", file=sys.stderr)
        return 143 if isinstance(stop, _Terminated) else 130
    except Exception as error:
        if debug:
            traceback.print_exc()
        known = _as_known(error)
        if known is None:
            text = " ".join(f"{type(error).__name__}: {error}".split())
            advice = "" if debug else " (run again with --debug and report the output)"
            print(f"residua: internal error: {text}{advice}", file=sys.stderr)
            return INTERNAL_ERROR
        print(f"residua: {_printable(str(known))}", file=sys.stderr)
        return known.exit_code


@contextlib.contextmanager
def _any_encoding() -> Iterator[None]:
    """Print what the terminal cannot show as a question mark, instead of failing on it."""
    strict = [
        stream
        for stream in (sys.stdout, sys.stderr)
        if isinstance(stream, io.TextIOWrapper) and stream.errors == "strict"
    ]
    for stream in strict:
        stream.reconfigure(errors="replace")
    try:
        yield
    finally:
        for stream in strict:
            if not stream.closed:
                stream.reconfigure(errors="strict")


class _Terminated(KeyboardInterrupt):
    """SIGTERM where no checkpoint can be made; like Ctrl-C, nothing but `main` catches it."""


@contextlib.contextmanager
def _stoppable() -> Iterator[None]:
    """Let SIGINT and SIGTERM end the command with files and terminal in order.

    SIGINT too, because a shell script starts its background jobs with SIGINT ignored.
    """

    def terminated(number: int, frame: object) -> NoReturn:
        raise _Terminated

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    handlers = {signal.SIGINT: signal.default_int_handler, signal.SIGTERM: terminated}
    before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def _one_line_warnings(debug: bool) -> Iterator[None]:
    """Print warnings as messages to a person, without the line of code that gave them."""
    show = warnings.showwarning

    def plainly(message: Warning | str, *_: object) -> None:
        print(f"residua: warning: {_printable(str(message))}", file=sys.stderr)

    if not debug:
        warnings.showwarning = plainly
    try:
        yield
    finally:
        warnings.showwarning = show


def _run(arguments: list[str]) -> int:
    _check_command(arguments)
    try:
        parser, commands = _parser()
        options, unknown = parser.parse_known_args(arguments)
        if unknown:
            further = [vars(options).get(name) for name in ("benchmark", "dataset")]
            words = [options.command, *(word for word in further if word)]
            _refuse_unknown(unknown[0], commands[" ".join(words)].format_help())
    except SystemExit as done:  # --help and --version
        return int(done.code or 0)
    handlers = {
        "solve": _solve, "train": _train, "evaluate": _evaluate, "list": _list, "show": _show,
        "schema": _schema, "bench": bench.run, "data": data.run,
    }  # fmt: skip
    return handlers[options.command](options)


def _as_known(error: Exception) -> ResiduaError | None:
    """`error` as one with an exit code of its own, or None for a bug."""
    if isinstance(error, ResiduaError):
        return error
    out_of_memory = isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"
    if out_of_memory:
        return ResourceError(
            "out of memory; use fewer points, a smaller network or more time windows"
        )
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return ResourceError(f"no space left to write {error.filename or 'the run folder'}")
    if isinstance(error, OSError) and error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return ConfigurationError(
            f"{error.filename or 'the run folder'}: {error.strerror}",
            advice="choose another folder by --out DIR, or change the permissions",
        )
    return None


def _printable(text: str) -> str:
    """One line that cannot steer a terminal, whatever stood in the file."""
    return "".join(
        c if c.isprintable() else " " if c in "\n\t" else f"\\x{ord(c):02x}" for c in text
    )


class _Parser(argparse.ArgumentParser):
    """argparse with its errors as ConfigurationError, so that they look like all others."""

    def error(self, message: str) -> NoReturn:
        raise ConfigurationError(message, advice=f"see {self.prog} --help")


def _refuse_unknown(argument: str, usage: str) -> NoReturn:
    from .typed import nearest

    word = argument.partition("=")[0]
    options = sorted(set(re.findall(r"--[a-z-]+", usage)))
    advice = nearest(word, options) if word.startswith("--") else "put a name with spaces in quotes"
    raise ConfigurationError(f"unknown argument '{word}'", advice=advice)


def _check_command(arguments: list[str]) -> None:
    from .typed import nearest

    words = [word for word in arguments if word != "--debug"]
    if not words:
        raise ConfigurationError(
            "no command", advice=f"write residua {'|'.join(COMMANDS)} (residua --help tells more)"
        )
    word = words[0]
    if word.startswith("-") or word in COMMANDS:
        return
    if word.endswith((".yaml", ".yml")) or Path(word).is_file():
        raise ConfigurationError(f"unknown command '{word}'", advice=f"write: residua solve {word}")
    raise ConfigurationError(f"unknown command '{word}'", advice=nearest(word, COMMANDS))


def _parser() -> tuple[_Parser, Mapping[str, argparse.ArgumentParser]]:
    """The parser of the whole command line, and those of the single commands."""
    shared = _Parser(add_help=False)
    shared.add_argument(
        "--debug",
        action="store_true",
        default=argparse.SUPPRESS,
        help="print the traceback of an error",
    )
    parser = _Parser(
        prog="residua",
        description="Solve differential equations, each answer with an error you can believe.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        parents=[shared],
        allow_abbrev=False,
    )
    parser.add_argument("--version", action=_Version)
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)

    def command(name: str) -> argparse.ArgumentParser:
        return commands.add_parser(
            name,
            help=COMMANDS[name],
            description=COMMANDS[name],
            parents=[shared],
            allow_abbrev=False,
        )

    solve = command("solve")
    solve.add_argument(
        "case",
        metavar="CASE.yaml|PROBLEM",
        help="a case file, or the name of a problem in the library",
    )
    _run_arguments(solve, "solver.windows=4")
    train = command("train")
    train.add_argument(
        "case", metavar="CASE.yaml", help="a case file with data and network, or series and model"
    )
    _run_arguments(train, "network.width=16")

    evaluate = command("evaluate")
    evaluate.add_argument("folder", metavar="RUN", type=_folder, help="run folder of train")
    evaluate.add_argument(
        "--data", metavar="FILE", type=_folder, help="other samples, of any resolution"
    )
    evaluate.add_argument(
        "--metrics",
        choices=("standard", "pdebench"),
        default="standard",
        help="pdebench: that benchmark's metrics too",
    )
    evaluate.add_argument(
        "--samples",
        metavar="N",
        type=_count,
        default=20,
        help="on other grids and of --fine-tune; default 20",
    )
    evaluate.add_argument(
        "--fine-tune", metavar="STEPS", type=_count, default=0,
        help="also lower the residual of the equation, so many steps for each of --samples",
    )  # fmt: skip
    evaluate.add_argument(
        "--device", choices=("auto", "cpu", "cuda"), default="auto", help="where to compute"
    )
    evaluate.add_argument("--quiet", action="store_true", help="print nothing but errors")

    command("list")
    show = command("show")
    show.add_argument(
        "case", metavar="PROBLEM|CASE.yaml", help="a problem of the library, or a case file"
    )
    show.add_argument(
        "--set", metavar="KEY=VALUE", action="append", default=[], help="as for solve"
    )
    command("schema").add_argument(
        "of", nargs="?", choices=("solve", "train"), default="solve",
        help="which command's cases; default solve",
    )  # fmt: skip
    benchmarks = bench.define(command("bench"))
    datasets = data.define(command("data"))
    deeper = {"bench": benchmarks, "data": datasets}
    named = {f"{word} {k}": v for word, parsers in deeper.items() for k, v in parsers.items()}
    return parser, {**commands.choices, **named}


def _run_arguments(command: argparse.ArgumentParser, example: str) -> None:
    """What every command that makes a run folder takes."""
    command.add_argument(
        "--set",
        metavar="KEY=VALUE",
        action="append",
        default=[],
        help=f"change one setting, such as {example}",
    )
    command.add_argument(
        "--out",
        metavar="DIR",
        type=_folder,
        help="run folder (default: runs/<name>-<hash of the configuration>)",
    )
    command.add_argument(
        "--device", choices=("auto", "cpu", "cuda"), help="the same as --set run.device=..."
    )
    command.add_argument("--quiet", action="store_true", help="print nothing but errors")
    again = command.add_mutually_exclusive_group()
    again.add_argument(
        "--resume", action="store_true", help="continue from the last checkpoint in the run folder"
    )
    again.add_argument(
        "--overwrite", action="store_true", help="replace the run that is in the folder"
    )
    look = command.add_mutually_exclusive_group()
    look.add_argument(
        "--dry-run",
        action="store_true",
        help="check everything and say what would be done; writes nothing",
    )
    look.add_argument(
        "--print-config",
        action="store_true",
        help="print the configuration with every default; writes nothing",
    )


class _Version(argparse.Action):
    """Prints the version; asks the installed metadata only then."""

    def __init__(self, option_strings: Sequence[str], dest: str) -> None:
        super().__init__(option_strings, dest, nargs=0, help="print the version")

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        from . import __version__

        print(f"residua {__version__}")
        parser.exit()


def _folder(text: str) -> Path:
    if not text or not text.isprintable():
        raise argparse.ArgumentTypeError("write a path without control characters")
    return Path(text)


def _count(text: str) -> int:
    if not (text.isascii() and text.isdigit() and 1 <= int(text) <= 10**6):
        raise argparse.ArgumentTypeError(f"found '{text}'; write a whole number from 1")
    return int(text)


def _solve(options: argparse.Namespace) -> int:
    from .config import Case, load_case

    def look(case: Case, folder: Path) -> str:
        from .describe import plan
        from .solvers.memory import check_memory

        check_memory(case)
        return plan(case, folder)

    def run(case: Case, reporter: Reporter) -> AccuracyError | None:
        from .solvers.run import solve_case

        return solve_case(case, out=options.out, resume=options.resume, reporter=reporter).failure

    case = load_case(options.case, _changes(options), to_run=not options.print_config)
    return _execute(case, options, lambda: case.text(inline=True), look, run)


def _train(options: argparse.Namespace) -> int:
    from . import yaml_source
    from .operators.neural_de.trajectories.case import is_trajectory_case

    if is_trajectory_case(yaml_source.load(Path(options.case)).data):
        return _train_on_series(options)
    return _train_on_fields(options)


def _train_on_series(options: argparse.Namespace) -> int:
    from .operators.neural_de.trajectories.case import TrajectoryCase, load_case

    def look(case: TrajectoryCase, folder: Path) -> str:
        from .operators.neural_de.trajectories.run import plan

        return plan(case, folder)

    def run(case: TrajectoryCase, reporter: Reporter) -> AccuracyError | None:
        from .operators.neural_de.trajectories.run import train_case

        return train_case(case, out=options.out, resume=options.resume, reporter=reporter).failure

    case = load_case(options.case, _changes(options), to_run=not options.print_config)
    return _execute(case, options, case.text, look, run)


def _train_on_fields(options: argparse.Namespace) -> int:
    from .operators.case import OperatorCase, load_case

    def look(case: OperatorCase, folder: Path) -> str:
        from .operators.plan import plan

        return plan(case, folder)

    def run(case: OperatorCase, reporter: Reporter) -> AccuracyError | None:
        from .operators.run import train_case

        return train_case(case, out=options.out, resume=options.resume, reporter=reporter).failure

    case = load_case(options.case, _changes(options), to_run=not options.print_config)
    return _execute(case, options, case.text, look, run)


def _changes(options: argparse.Namespace) -> list[str]:
    return [*options.set, *([f"run.device={options.device}"] if options.device else [])]


def _execute(
    case: AnyCase,
    options: argparse.Namespace,
    text: Callable[[], str],
    look: Callable[[AnyCase, Path], str],
    run: Callable[[AnyCase, Reporter], AccuracyError | None],
) -> int:
    """Print, look at or run a case, as the options of its command say.

    Args:
        case: what and how.
        options: of the command.
        text: the configuration in full.
        look: what would be done in a folder, checked.
        run: does it, and tells whether the accuracy asked for was missed.
    """
    if options.print_config:
        print(text(), end="")
        return 0
    folder = options.out or case.folder
    check(folder, resume=options.resume, overwrite=options.overwrite)
    if options.dry_run:
        plan = look(case, folder)
        if options.resume:
            check_same(case, folder)
        print(plan)
        return 0
    from .progress import reporter_for

    if failure := run(case, reporter_for(quiet=options.quiet)):
        raise failure
    return 0


def _evaluate(options: argparse.Namespace) -> int:
    from .execution.options import check_device

    check_device(options.device)
    from .execution.settings import device_of
    from .operators.evaluation.evaluate import evaluate
    from .operators.evaluation.table import lines
    from .operators.operator import load

    operator = load(options.folder)
    operator.model.to(device_of(options.device))
    found = evaluate(
        operator, file=options.data, metrics=options.metrics, count=options.samples,
        fine_tune=options.fine_tune,
    )  # fmt: skip
    found.save(options.folder)
    if not options.quiet:
        print("\n".join([*lines(found.numbers), f"written to {options.folder}"]))
    return 0


def _list(options: argparse.Namespace) -> int:
    from .describe import table

    print(table())
    return 0


def _show(options: argparse.Namespace) -> int:
    from .config import load_case
    from .describe import problem_sheet

    print(problem_sheet(load_case(options.case, options.set).problem))
    return 0


def _schema(options: argparse.Namespace) -> int:
    import json

    from .schema import json_schema, operator_schema

    found = json_schema() if options.of == "solve" else operator_schema()
    print(json.dumps(found, indent=2, ensure_ascii=False))
    return 0
