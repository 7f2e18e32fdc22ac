"""The command: what is refused, and without torch."""

from __future__ import annotations

import subprocess
import sys

import pytest

from residua.cli import main


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([], "BENCHMARK"),
        (["engin"], "'engin'"),
        (["engine", "--devise", "cpu"], "--device"),
        (["engine", "--threads", "0"], "1 to 4096"),
        (["engine", "--only", "brugers"], "'burgers'"),
        (["engine", "--budget", "soon"], "'5 min'"),
        (["engine", "--jax-python", "/nowhere/python"], "has JAX"),
        (["engine", "--out", "results.txt"], ".json"),
        (["engine", "--out", "/nowhere/results.json"], "/nowhere"),
    ],
)
def test_bad_arguments_are_refused_in_one_line(arguments, says, capsys):
    assert main(["bench", *arguments]) == 2
    captured = capsys.readouterr()
    assert captured.out == "" and captured.err.count("\n") == 1
    assert captured.err.startswith("residua: ") and says in captured.err


def test_help_and_refusals_come_without_torch():
    program = (
        "import sys; from residua.cli import main\n"
        "for words in (['--help'], ['engine', '--help'], ['engine', '--only', 'nothing']):\n"
        "    main(['bench', *words])\n"
        "assert 'torch' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True, capture_output=True)
