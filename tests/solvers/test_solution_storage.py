"""A run folder: written, read by other programs, loaded again, and every way it can be damaged."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import h5py
import numpy as np
import pytest
import torch

from residua.engine.networks.field import NestedField
from residua.errors import ConfigurationError, DataError
from residua.problems.problem import Problem
from residua.problems.references.reference import Reference
from residua.solvers.solution import Solution, load

PROBLEM = {
    "title": "A wave",
    "description": "Runs to the right.",
    "coordinates": {"x": [-1, 1], "t": [0, 0.5]},
    "fields": ["u"],
    "equations": ["u_t + u_x = 0"],
    "conditions": [{"where": "t = 0", "u": "x"}, {"where": "x = -1", "u": "-1 - t"}],
}
HISTORY = [
    {"step": i, "seconds": 0.1 * i, "loss": 2.0**-i, "losses": {"interior": 2.0**-i}}
    for i in range(8)
]


class Polynomial(torch.nn.Module):
    """u = a (x - t) + b, and a counter that is neither trained nor of any axis."""

    def __init__(self, a: float, b: float) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.tensor([[a, b]], dtype=torch.float64))
        self.register_buffer("count", torch.tensor(7))

    def forward(self, points: torch.Tensor) -> torch.Tensor:
        a, b = self.weight[0]
        return a * (points[:, :1] - points[:, 1:]) + b


def exact(points: np.ndarray) -> np.ndarray:
    return points[:, :1] - points[:, 1:]


def reference(bar: float = 1e-9) -> Reference:
    return Reference("exact", {"u": bar}, "", exact, lambda: [(0.1, 1e-2), (0.4, 1e-6)])


def solved(b: float = 1e-3, **metadata: Any) -> Solution:
    facts = {"solver": "pinn", "seconds": 1.5, "architecture": {"kind": "polynomial"}, **metadata}
    return Solution(
        Problem.from_mapping(PROBLEM, name="wave"),
        NestedField(Polynomial(1.0, b)),
        "the loss fell below the tolerance",
        3,
        HISTORY,
        facts,
    )


@pytest.fixture
def rebuild(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stand in for the parts that read a configuration and build a network from it."""
    case = SimpleNamespace(problem=Problem.from_mapping(PROBLEM, name="wave"))
    config, build = ModuleType("residua.config"), ModuleType("residua.solvers.build")

    def load_case(path: Path, problem: Problem | None = None) -> SimpleNamespace:
        if path.read_text() != "fine":
            raise ConfigurationError("not a case")
        return case

    def build_field(case: Any, architecture: dict) -> NestedField:
        if architecture["kind"] != "polynomial":
            raise ValueError("no such kind")
        return NestedField(Polynomial(0.0, 0.0))

    config.load_case = load_case  # type: ignore[attr-defined]
    build.build_field = build_field  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "residua.config", config)
    monkeypatch.setitem(sys.modules, "residua.solvers.build", build)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A saved run, small and without a figure."""
    solved().save(tmp_path / "run", reference=reference(), n=(6, 5), figure=False)
    (tmp_path / "run" / "config.resolved.yaml").write_text("fine")
    lines = [json.dumps(record) for record in HISTORY]
    (tmp_path / "run" / "metrics.jsonl").write_text("\n".join(lines) + '\n{"step": 8, "lo')
    return tmp_path / "run"


@pytest.mark.usefixtures("rebuild")
def test_a_saved_solution_loads_to_the_same_function(
    folder: Path, rng: np.random.Generator
) -> None:
    found, points = load(folder), rng.uniform(-1, 1, (40, 2))
    original = solved()
    assert np.array_equal(found(points), original(points))
    _, by_name = found(points, derivatives=("u_x",))
    np.testing.assert_allclose(by_name["u_x"], 1.0)
    assert (found.status, found.seed, found.problem.name) == (original.status, 3, "wave")
    assert list(found.history) == HISTORY, "half a last line costs that line only"
    assert found.metadata["solver"] == "pinn"
    assert not any(p.requires_grad for p in found.field.parameters())
    # The wrong twin: a network whose weights were not read.
    untrained = NestedField(Polynomial(0.0, 0.0))(torch.tensor(points)).detach().numpy()
    assert not np.allclose(untrained, found(points))


def test_plain_h5py_reads_everything(folder: Path) -> None:
    with h5py.File(folder / "solution.h5", "r") as file:
        assert file.attrs["problem"] == "wave"
        assert list(file.attrs["equations"]) == ["u_t + u_x = 0"]
        x, t = file["coordinates/x"][()], file["coordinates/t"][()]
        u = file["fields/u"]
        np.testing.assert_allclose(u[()], x[:, None] - t + 1e-3)
        assert [scale[0].name for scale in u.dims] == ["/coordinates/x", "/coordinates/t"]
        assert u.attrs["units"] == "1" and u.attrs["description"] == "field u(x, t)"
        np.testing.assert_allclose(file["reference/u"][()], x[:, None] - t, atol=1e-15)
        np.testing.assert_allclose(file["error/u"][()], 1e-3)
        # |u*|^2 = integral of (x - t)^2 = 2/3 * 1/2 + 2/3 * 1/8 over the box of area 1.
        expected = 1e-3 / np.sqrt(1 / 3 + 1 / 12)
        np.testing.assert_allclose(file["error/u"].attrs["relative_l2"], expected, rtol=1e-10)
        assert file["reference/u"].attrs["relative_l2_error_bar"] == 1e-9
        names: list[str] = []
        file.visititems(lambda n, o: names.append(n) if isinstance(o, h5py.Dataset) else None)
        assert len(names) == 7
        for name in names:
            assert file[name].ndim == 0 or file[name].fletcher32
        assert json.loads(file["network"].attrs["architecture"]) == {"kind": "polynomial"}


def test_summary_is_strict_json_with_its_keys(folder: Path) -> None:
    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    summary = json.loads((folder / "summary.json").read_text(), parse_constant=refuse)
    asked = "problem solver status seed seconds peak_memory_mib relative_l2 reference_error_bar"
    more = "reference_limited classical versions device threads config_digest"
    assert set(f"{asked} {more}".split()) <= set(summary)
    assert summary["relative_l2"]["u"] == pytest.approx(1e-3 / np.sqrt(5 / 12))
    assert summary["reference_limited"] == {"u": False}
    assert summary["classical"]["method"] == "exact"
    assert 0.1 < summary["classical"]["seconds_to_same_error"] < 0.4
    assert "architecture" not in summary and "notes" not in summary


def test_numbers_that_are_not_finite_become_null_with_a_note(tmp_path: Path) -> None:
    diverged = solved(b=float("nan"), seconds=float("inf"))
    diverged.save(tmp_path, reference=reference(), n=5)
    solved(b=1e300).save(tmp_path / "huge", reference=reference(), n=5)
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["relative_l2"] == {"u": None} and summary["seconds"] is None
    assert "relative_l2.u is not a number" in summary["notes"]
    assert "seconds is infinite" in summary["notes"]
    assert summary["classical"]["seconds_to_same_error"] is None


def test_without_a_reference_nothing_is_claimed(tmp_path: Path) -> None:
    solved().save(tmp_path, n=5, figure=False)
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["relative_l2"] == {"u": None} and summary["reference_limited"] is None
    with h5py.File(tmp_path / "solution.h5", "r") as file:
        assert "reference" not in file and "error" not in file


def test_saving_twice_replaces_and_leaves_nothing_else(folder: Path) -> None:
    before = sorted(folder.iterdir())
    solved(b=0.5).save(folder, n=5, figure=False)
    assert sorted(folder.iterdir()) == before
    with h5py.File(folder / "solution.h5", "r") as file:
        assert file["network/module.weight"][0, 1] == 0.5


def _replace(name: str, value: Any, **options: Any) -> Callable[[Path], None]:
    def damage(path: Path) -> None:
        with h5py.File(path, "r+") as file:
            del file[name]
            if value is not None:
                file.create_dataset(name, data=value, **options)

    return damage


def _link(link: Any) -> Callable[[Path], None]:
    def damage(path: Path) -> None:
        with h5py.File(path.parent / "other.h5", "w") as other:
            other["secret"] = np.zeros((1, 2))
        with h5py.File(path, "r+") as file:
            del file["network/module.weight"]
            file["network/module.weight"] = link

    return damage


def _flip(path: Path) -> None:
    """Change one byte inside the stored weights."""
    with h5py.File(path, "r") as file:
        start = file["network/module.weight"].id.get_chunk_info(0).byte_offset
    content = bytearray(path.read_bytes())
    content[start + 6] ^= 0x55
    path.write_bytes(content)


def _external(path: Path) -> None:
    (path.parent / "raw").write_bytes(bytes(16))
    with h5py.File(path, "r+") as file:
        del file["network/module.weight"]
        place = [(str(path.parent / "raw"), 0, 16)]
        file.create_dataset("network/module.weight", (1, 2), np.float64, external=place)


def _virtual(path: Path) -> None:
    layout = h5py.VirtualLayout((1, 2), np.float64)
    layout[:] = h5py.VirtualSource("other.h5", "secret", (1, 2))
    with h5py.File(path, "r+") as file:
        del file["network/module.weight"]
        file.create_virtual_dataset("network/module.weight", layout)


def _vast(path: Path) -> None:
    """A petabyte that was never written costs nothing on disk."""
    with h5py.File(path, "r+") as file:
        del file["network/module.weight"]
        shape = (1 << 24, 1 << 23)
        file.create_dataset("network/module.weight", shape, np.float64, chunks=(1024, 1024))


def _vast_blocks(path: Path) -> None:
    with h5py.File(path, "r+") as file:
        del file["network/module.weight"]
        options: dict[str, Any] = {"maxshape": (None, None), "chunks": (1 << 14, 1 << 14)}
        file.create_dataset("network/module.weight", (1, 2), np.float64, **options)


def _extra(path: Path) -> None:
    with h5py.File(path, "r+") as file:
        file["network/other"] = np.zeros(3)


def _attribute(group: str, name: str, value: Any) -> Callable[[Path], None]:
    def damage(path: Path) -> None:
        with h5py.File(path, "r+") as file:
            file[group].attrs[name] = value

    return damage


DAMAGES: dict[str, tuple[Callable[[Path], Any], str]] = {
    "missing": (Path.unlink, "there is no such file"),
    "empty": (lambda path: path.write_bytes(b""), "is empty"),
    "text": (lambda path: path.write_text("hello" * 100), "is not an HDF5 file"),
    "truncated": (lambda path: path.write_bytes(path.read_bytes()[:-3000]), "is truncated"),
    "flipped": (_flip, "checksum"),
    "no tensor": (_replace("network/module.weight", None), "'module.weight' is missing"),
    "no network": (_replace("network", None), "'network' is missing"),
    "wrong shape": (_replace("network/module.weight", np.zeros((2, 1))), r"has shape \(2, 1\)"),
    "text tensor": (_replace("network/module.weight", [["a", "b"]]), "expected numbers"),
    "not finite": (_replace("network/module.weight", [[np.nan, 1.0]]), "not finite"),
    "foreign filter": (
        _replace("network/module.weight", np.zeros((1, 2)), compression="lzf"),
        "unknown filter",
    ),
    "extra tensor": (_extra, "'other' is not part of"),
    "soft link": (_link(h5py.SoftLink("/fields/u")), "link"),
    "external link": (_link(h5py.ExternalLink("other.h5", "secret")), "link"),
    "external storage": (_external, "another file"),
    "virtual": (_virtual, "another file"),
    "vast": (_vast, "has shape"),
    "vast blocks": (_vast_blocks, "larger than itself"),
    "other program": (_attribute("/", "format", "something"), "not a solution"),
    "other version": (_attribute("/", "version", 99), "version 99"),
    "architecture": (_attribute("network", "architecture", "{"), "not JSON"),
    "deep architecture": (_attribute("network", "architecture", "[" * 10_000), "not JSON"),
    "unknown kind": (_attribute("network", "architecture", '{"kind": "x"}'), "no such kind"),
    "no kind": (_attribute("network", "architecture", "{}"), "does not fit"),
}


@pytest.mark.usefixtures("rebuild")
@pytest.mark.parametrize("kind", DAMAGES)
def test_a_damaged_file_is_named_with_its_cause(folder: Path, kind: str) -> None:
    damage, message = DAMAGES[kind]
    load(folder)  # sound before
    damage(folder / "solution.h5")
    with pytest.raises(DataError, match=message) as caught:
        load(folder)
    assert "solution.h5" in str(caught.value)
    assert caught.value.exit_code == 3


def test_a_real_configuration_goes_with_the_solution(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The folder alone gives back the problem, its parameters included."""
    from residua.config import load_case

    build = ModuleType("residua.solvers.build")
    build.build_field = lambda case, architecture: NestedField(Polynomial(0.0, 0.0))  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "residua.solvers.build", build)
    case = load_case("burgers", ["problem.parameters.nu=0.02"])
    original = solved()
    Solution(case.problem, original.field, "done", case=case).save(tmp_path, n=5, figure=False)
    found = load(tmp_path)
    assert found.case == case and found.problem == case.problem
    assert found.problem.values["nu"] == 0.02
    assert load_case("burgers").problem.values["nu"] != 0.02
    assert np.array_equal(found([[0.3, 0.1]]), original([[0.3, 0.1]]))


@pytest.mark.usefixtures("rebuild")
def test_a_folder_without_its_parts_is_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="there is no such folder"):
        load(tmp_path / "nowhere")
    (folder / "config.resolved.yaml").write_text("broken")
    with pytest.raises(DataError, match="not a case this program can read"):
        load(folder)
    (folder / "config.resolved.yaml").unlink()
    with pytest.raises(DataError, match=r"config\.resolved\.yaml: there is no such file"):
        load(folder)
