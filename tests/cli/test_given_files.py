"""Functions given by files: layouts that are read, faults that are named, runs that last."""

from __future__ import annotations

import os
import re
import shutil

import h5py
import numpy as np
import pytest

import residua
from residua.cli import main
from residua.config import load_case
from residua.errors import ConfigurationError, DataError
from residua.problems.given import Series
from residua.problems.references.builder import build

CASE = """\
problem:
  coordinates: {x: [0, 1], t: [0, 0.2]}
  fields: [u]
  functions:
    q: {%s}
  equations: ["u_t = u_xx"]
  conditions:
    - {where: t = 0, u: q(x)}
    - {periodic: x}
solver:
  name: causal
  network: {width: 6, depth: 1}
  points: {interior: 80}
  optimizer: {name: gauss_newton, steps: 20}
run: {budget: none, steps: 10, deterministic: true}
"""
NODES = np.arange(12) / 12
WAVE = np.sin(2 * np.pi * NODES) + 0.5 * np.cos(4 * np.pi * NODES)
LINE = np.linspace(0, 1, 15)


def wave(x):
    return np.sin(2 * np.pi * x) + 0.5 * np.cos(4 * np.pi * x)


def write(folder, entry, name="case.yaml"):
    path = folder / name
    path.write_text(CASE % entry, encoding="utf-8")
    return path


def rows(*columns):
    return "\n".join(",".join(map(repr, row)) for row in zip(*columns, strict=True)) + "\n"


def layouts():
    """Name of a layout, the entry, and what writes its file."""
    numbers = [np.arange(3), np.array([0, 0, 0.5]), np.array([0, 1.0, 0])]
    lists = [column.tolist() for column in numbers]
    yield "series csv", "series: q.csv, period: [0, 1]", lambda p: p.write_text(rows(*lists))
    header = "# modes\nsine;k;cosine\n0;0;0\n1.0;1;0\n\n0;2;0.5  # the last\n"
    yield "named columns", "series: q.txt, period: [0, 1]", lambda p: p.write_text(header)
    yield (
        "chosen columns",
        "series: q.csv, period: [0, 1], columns: [n, a, b]",
        lambda p: p.write_text("junk n a b\n7 0 0 0\n7 1 0 1\n7 2 .5 0\n"),
    )
    yield (
        "series npy",
        "series: q.npy, period: [0, 1]",
        lambda p: np.save(p, np.stack(numbers, 1)),
    )
    yield "samples npy", "samples: q.npy, period: [0, 1]", lambda p: np.save(p, WAVE)
    yield (
        "samples and points",
        "samples: q.dat, period: [0, 1]",
        lambda p: p.write_text(rows(NODES.tolist(), WAVE.tolist())),
    )

    def groups(path):
        with h5py.File(path, "w") as file:
            file["run/depth"], file["run/speed"] = NODES, WAVE.astype(">f8")

    yield (
        "hdf5",
        "samples: q.h5, columns: [run/depth, /run/speed], period: [0, 1]",
        groups,
    )

    def usual(path):
        with h5py.File(path, "w") as file:
            file["k"], file["cosine"], file["sine"], file["other"] = *numbers, np.zeros(7)

    yield "hdf5 usual names", "series: q.hdf5, period: [0, 1]", usual


@pytest.mark.parametrize(("name", "entry", "make"), [pytest.param(*r, id=r[0]) for r in layouts()])
def test_layouts(name, entry, make, tmp_path, monkeypatch):
    path = tmp_path / "data" / re.search(r"q\.\w+", entry)[0]
    path.parent.mkdir()
    make(path)
    case = write(tmp_path, entry.replace("q.", "data/q.", 1))
    monkeypatch.chdir("/")  # paths are relative to the case, not to where the command runs
    function = load_case(case).problem.functions[0]
    x = np.linspace(-0.5, 1.5, 41)
    assert np.abs(function(x) - wave(x)).max() < 1e-13
    slope = 2 * np.pi * (np.cos(2 * np.pi * x) - np.sin(4 * np.pi * x))
    assert np.abs(function.at([x], [1]) - slope).max() < 1e-12


@pytest.mark.parametrize("entry", ["samples: q.csv", "samples: q.csv, over: [0, 1]"])
def test_splines(entry, tmp_path):
    columns = [LINE, LINE**4] if "over" not in entry else [LINE**4]
    (tmp_path / "q.csv").write_text(rows(*(c.tolist() for c in columns)))
    text = (CASE % entry).replace("{periodic: x}", "{where: boundary, u: 0}")
    (tmp_path / "case.yaml").write_text(text)
    function = load_case(tmp_path / "case.yaml").problem.functions[0]
    assert function.bounds == ((0, 1),)
    assert np.abs(function(np.linspace(0, 1, 33)) - np.linspace(0, 1, 33) ** 4).max() < 1e-13


def test_rows_in_place(tmp_path):
    entry = "series: [[0, 0, 0], [1, 0, 1], [2, 0.5, 0]], period: [0, 1]"
    function = load_case(write(tmp_path, entry)).problem.functions[0]
    assert np.abs(function(NODES) - WAVE).max() < 1e-14


GRID = [[float(v) for v in np.indices((6, 6))[i].ravel()] for i in (0, 1)] + [[1.0] * 36]
HOLE = [[column[i] for i in range(36) if i != 3] for column in GRID]
SERIES = "series: q.csv, period: [0, 1]"
SAMPLES = "samples: q.csv"
BAD = [
    # entry, text of q.csv (None: no file), words of the message
    ("missing file", SERIES, None, ["q.csv: ", "there is no such file"]),
    ("ending", "series: q.mat, period: [0, 1]", "1", ["q.mat", "'.mat' tells no format"]),
    ("no number", SERIES, "0,1,0\n1,x,0\n", ["q.csv:2: ", "found x", "finite number"]),
    ("nan", SERIES, "0,1,0\n\n1,nan,0\n", ["q.csv:3: ", "found nan"]),
    ("infinite", SERIES, "0,1,0\n1,inf,0\n", ["q.csv:2: ", "found inf"]),
    ("overflow", SERIES, "0,1,0\n1,1e999,0\n", ["q.csv", "row 2, column 2 holds inf"]),
    ("underscore", SERIES, "0,1_0,0\n", ["q.csv:1: ", "found 1_0"]),
    ("ragged", SERIES, "0,1,0\n1,0\n", ["q.csv:2: ", "2 values where the first row has 3"]),
    ("header alone", SERIES, "k,cosine,sine\n", ["q.csv: ", "holds no numbers"]),
    ("hole", SAMPLES, rows(*HOLE), ["q.csv: ", "the point (0, 3) is missing"]),
    ("coarse", SAMPLES, "0,0,1\n0,1,1\n1,0,1\n1,1,1\n", ["a grid of 2 x 2 points"]),
    ("grid with a period", SAMPLES + ", period: [0, 1]", rows(*GRID), ["q.period"]),
    ("four columns", SERIES, "0,1,0,4\n", ["q.csv: ", "holds 4 columns"]),
    ("half a mode", SERIES, "0,1,0\n0.5,1,0\n", ["q.csv: ", "wave number 0.5"]),
    ("negative mode", SERIES, "-1,1,0\n", ["q.csv: ", "wave number -1"]),
    ("mode twice", SERIES, "1,1,0\n1,2,0\n", ["q.csv: ", "wave number 1 comes twice"]),
    ("no period", "series: q.csv", "0,1,0\n", ["case.yaml:5: ", "functions.q", "period"]),
    ("over", SERIES + ", over: [0, 1]", "0,1,0\n", ["case.yaml:5: ", "q.over", "has a period"]),
    ("empty period", "series: q.csv, period: [1, 1]", "0,1\n", ["case.yaml:5: ", "q.period"]),
    ("period word", "series: q.csv, period: x", "0,1\n", ["case.yaml:5: ", "found 'x'"]),
    ("backwards", SAMPLES, rows([0, 2, 1, 3, 4, 5, 6], [1.0] * 7), ["q.csv: ", "row 2 has 2"]),
    ("equal points", SAMPLES, rows([0, 1, 1, 3, 4, 5, 6], [1.0] * 7), ["do not increase"]),
    ("few", SAMPLES, rows([0, 1, 2, 3, 4], [1.0] * 5), ["5 samples are too few", "at least 6"]),
    ("nowhere", SAMPLES, "1\n2\n3\n4\n5\n6\n", ["case.yaml:5: ", "nothing tells where"]),
    ("two places", SAMPLES + ", over: [0, 1], period: [0, 1]", "1\n2\n3\n", ["two places"]),
    ("the end twice", SAMPLES + ", period: [0, 1]", rows([0, 0.25, 0.5, 0.75, 1], [0.0] * 5),
     ["row 2 lies at 0.25", "without the end"]),
    ("range", SAMPLES, rows([0, 0.1, 0.2, 0.3, 0.4, 0.5], [1.0] * 6),
     ["case.yaml:8: ", "q is sampled from 0 to 0.5", "asks for 1 at x = 1"]),
    ("both", SERIES + ", samples: q.csv", "0,1\n", ["series and samples are both given"]),
    ("neither", "period: [0, 1]", "0,1\n", ["there are no numbers"]),
    ("key", SERIES + ", colums: [a, b]", "0,1\n", ["unknown key 'colums'", "'columns'"]),
    ("columns", SERIES + ", columns: [k]", "0,1\n", ["q.columns", "[k, cosine, sine]"]),
    ("no names", SERIES + ", columns: [k, c]", "0,1\n", ["no names of columns"]),
    ("other name", SERIES + ", columns: [k, cosin]", "k,cosine\n0,1\n", ["no column 'cosin'"]),
    ("number", "series: 3, period: [0, 1]", "0,1\n", ["q.series", "found 3"]),
    ("rows", "series: [[0, 1], [1]], period: [0, 1]", "0,1\n", ["q.series", "shape ()"]),
    ("texts", "series: [[0, a]], period: [0, 1]", "0,1\n", ["q.series"]),
    ("digest", SERIES + ", sha256: " + 64 * "a", "0,1,0\n", ["q.csv: ", "not the ones"]),
    ("digest word", SERIES + ", sha256: abc", "0,1,0\n", ["q.sha256", "64 hexadecimal"]),
    ("beyond", SAMPLES + ", beyond: constant", "1,1\n", ["q.beyond", "write straight"]),
    ("beyond a period", SERIES + ", beyond: straight", "1,1\n", ["q.beyond"]),
    ("description", SERIES + ", description: 3", "0,1,0\n", ["q.description", "write a text"]),
]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "entry", "content", "says"), [pytest.param(*b, id=b[0]) for b in BAD]
)
def test_a_fault_is_named_with_its_place(name, entry, content, says, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    write(tmp_path, entry)
    if content is not None:
        (tmp_path / (re.findall(r"q\.\w+", entry) or ["q.csv"])[0]).write_text(content)
    assert main(["solve", "case.yaml"]) == 2
    message = capsys.readouterr().err
    assert message.count("\n") == 1 and "Traceback" not in message
    for words in says:
        assert words in message, message
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("name", ["sin", "x", "u", "u_x", "lap", "e", "2q", "q__"])
def test_names_that_mean_something_else_are_refused(name, tmp_path):
    path = write(tmp_path, "series: [[0, 1]], period: [0, 1]")
    path.write_text(path.read_text().replace("    q: {", f'    "{name}": {{'))
    with pytest.raises(ConfigurationError) as caught:
        load_case(path)
    assert caught.value.line is not None


def hostile(folder):
    """Files that are not what their ending says, or that reach outside."""
    array = folder / "pickled.npy"
    np.save(array, np.array([{}], dtype=object), allow_pickle=True)
    yield array, "pickled"
    broken = folder / "broken.npy"
    broken.write_bytes(b"\x93NUMPY\x01\x00")
    yield broken, "no .npy file"
    text = folder / "text.h5"
    text.write_text("k,cosine")
    yield text, "no readable HDF5 file"
    with h5py.File(folder / "real.h5", "w") as file:
        file["k"], file["cosine"] = np.arange(3.0), np.ones(3)
    linked = folder / "linked.h5"
    with h5py.File(linked, "w") as file:
        file["k"] = h5py.ExternalLink("real.h5", "k")
        file["cosine"] = np.ones(3)
    yield linked, "a link that leads elsewhere"
    other = folder / "other.h5"
    with h5py.File(other, "w") as file:
        file["modes"] = np.ones(3)
    yield other, "holds modes, and none of the usual names"
    uneven = folder / "uneven.h5"
    with h5py.File(uneven, "w") as file:
        file["k"], file["cosine"] = np.arange(3.0), np.ones(4)
    yield uneven, "'cosine' has 4 values and 'k' 3"
    huge = folder / "huge.h5"
    with h5py.File(huge, "w") as file:
        file.create_dataset("k", shape=(10**12,), dtype="f8", chunks=(1000,))
        file["cosine"] = np.ones(3)
    yield huge, "give one to"
    complexes = folder / "complex.npy"
    np.save(complexes, np.ones((3, 2), dtype=complex))
    yield complexes, "complex128"
    if hasattr(os, "mkfifo"):
        os.mkfifo(folder / "pipe.csv")
        yield folder / "pipe.csv", "no regular file"
    latin = folder / "latin.csv"
    latin.write_bytes(b"k,\xe4\n0,1\n")
    yield latin, "no text in UTF-8"


def test_hostile_files_are_refused(tmp_path):
    for path, says in hostile(tmp_path):
        case = write(tmp_path, f"series: {path.name}, period: [0, 1]")
        with pytest.raises(ConfigurationError) as caught:
            load_case(case)
        assert says in str(caught.value)
        assert path.name in str(caught.value)


# Runs
# ----------------------------------------------------------------------------------------


def test_a_run_outlives_the_file_it_was_made_from(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    np.save("q.npy", WAVE)
    case = write(tmp_path, "samples: q.npy, period: [0, 1]")
    solution = residua.solve(case, out="run", quiet=True)
    (tmp_path / "q.npy").unlink()
    moved = shutil.move("run", tmp_path / "elsewhere")
    again = residua.load(moved)
    points = np.random.default_rng(0).uniform([0, 0], [1, 0.2], (20, 2))
    assert np.array_equal(again(points), solution(points))
    assert again.problem == solution.problem
    resolved = load_case(tmp_path / "elsewhere" / "config.resolved.yaml")
    assert resolved.digest() == again.case.digest()
    longer = residua.solve(
        tmp_path / "elsewhere" / "config.resolved.yaml",
        set=["run.steps=12"], out=moved, resume=True, quiet=True,
    )  # fmt: skip
    assert longer.metadata["steps"] == 12


def test_changed_numbers_are_noticed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    np.save("q.npy", WAVE)
    case = write(tmp_path, "samples: q.npy, period: [0, 1]")
    residua.solve(case, out="run", quiet=True)
    np.save("q.npy", WAVE + 1e-9)
    with pytest.raises(DataError, match=r"problem.functions.q.sha256 is '[0-9a-f]+"):
        residua.solve(case, out="run", resume=True, quiet=True)
    kept = tmp_path / "run" / "functions" / "q.csv"
    kept.write_text(re.sub(r"^2.0,.*", "2.0,0.25,0.0", kept.read_text(), flags=re.M))
    with pytest.raises(DataError, match="not the ones this case was written for"):
        residua.load("run")
    kept.unlink()
    with pytest.raises(DataError, match="no such file"):
        residua.load("run")


def test_the_printed_configuration_stands_alone(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    np.save("q.npy", WAVE)
    case = write(tmp_path, "samples: q.npy, period: [0, 1]")
    assert main(["solve", str(case), "--print-config"]) == 0
    (tmp_path / "printed.yaml").write_text(capsys.readouterr().out)
    (tmp_path / "q.npy").unlink()
    printed = load_case(tmp_path / "printed.yaml")
    wanted = Series.of_samples("q", WAVE, (0, 1))(NODES)
    assert np.array_equal(printed.problem.functions[0](NODES), wanted)


def test_paths_set_on_the_command_line_are_relative_to_the_case(tmp_path, monkeypatch):
    monkeypatch.chdir("/")
    np.save(tmp_path / "q.npy", WAVE)
    np.save(tmp_path / "other.npy", 2 * WAVE)
    case = write(tmp_path, "samples: q.npy, period: [0, 1]")
    other = load_case(case, ["problem.functions.q.samples=other.npy"])
    assert np.allclose(other.problem.functions[0](NODES), 2 * WAVE)


def test_the_reference_of_a_heat_problem_is_the_closed_form(tmp_path):
    np.save(tmp_path / "q.npy", WAVE)
    problem = load_case(write(tmp_path, "samples: q.npy, period: [0, 1]")).problem
    reference = build(problem)
    x, t = np.random.default_rng(1).uniform([0, 0], [1, 0.2], (50, 2)).T
    decay = [np.exp(-((2 * np.pi * k) ** 2) * t) for k in (1, 2)]
    exact = decay[0] * np.sin(2 * np.pi * x) + 0.5 * decay[1] * np.cos(4 * np.pi * x)
    assert np.abs(reference(np.stack([x, t], 1))[:, 0] - exact).max() < 1e-12
