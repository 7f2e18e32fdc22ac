"""solution.vtkhdf against the VTKHDF specification, version 2, ImageData."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest

from residua.solvers import vtkhdf

X = np.linspace(-1, 1, 5)
Y = np.linspace(0, 3, 4)
T = np.linspace(0, 0.5, 3)


def check(path: Path, *, points: tuple[int, int, int], steps: int) -> dict[str, np.ndarray]:
    """What the specification asks of every ImageData file; returns the arrays."""
    with h5py.File(path, "r") as file:
        root = file["VTKHDF"]
        kind = root.attrs.get_id("Type")
        assert kind.get_type().get_class() == h5py.h5t.STRING
        assert not kind.get_type().is_variable_str(), "readers want a string of fixed length"
        assert kind.get_type().get_cset() == h5py.h5t.CSET_ASCII
        assert root.attrs["Type"] == b"ImageData"
        assert root.attrs["Version"].shape == (2,) and root.attrs["Version"][0] == 2
        assert root.attrs["Version"].dtype.kind == "i"
        assert root.attrs["WholeExtent"].dtype.kind == "i"
        assert root.attrs["WholeExtent"].tolist() == [
            *(0, points[0] - 1),
            *(0, points[1] - 1),
            *(0, points[2] - 1),
        ]
        for name, size in (("Origin", 3), ("Spacing", 3), ("Direction", 9)):
            assert root.attrs[name].shape == (size,) and root.attrs[name].dtype == np.float64
        assert (root.attrs["Spacing"] > 0).all()
        assert root.attrs["Direction"].tolist() == np.eye(3).ravel().tolist()
        # One axis for each direction with more than one point, slowest first.
        image = tuple(n for n in reversed(points) if n > 1)
        arrays = {}
        for name, data in root["PointData"].items():
            assert data.dtype == np.float32
            assert data.shape == ((steps, *image) if steps else image)
            assert data.fletcher32
            arrays[name] = data[()]
        assert ("Steps" in root) == bool(steps)
        if steps:
            group = root["Steps"]
            assert group.attrs["NSteps"] == steps and np.ndim(group.attrs["NSteps"]) == 0
            assert group["Values"].shape == (steps,)
            for name in arrays:
                offsets = group["PointDataOffsets"][name]
                assert offsets.dtype.kind == "i"
                assert offsets[()].tolist() == list(range(steps))
        return arrays


def test_two_space_coordinates_and_time(tmp_path: Path) -> None:
    x, y, t = np.meshgrid(X, Y, T, indexing="ij")
    path = vtkhdf.write(
        tmp_path / "a.vtkhdf", {"x": X, "y": Y, "t": T}, {"u": x + 10 * y + 100 * t}, time="t"
    )
    arrays = check(path, points=(5, 4, 1), steps=3)
    expected = X[None, None, :] + 10 * Y[None, :, None] + 100 * T[:, None, None]
    np.testing.assert_allclose(arrays["u"], expected, rtol=1e-6)
    with h5py.File(path, "r") as file:
        assert file["VTKHDF/Steps/Values"][()].tolist() == T.tolist()
        assert file["VTKHDF"].attrs["Origin"].tolist() == [-1.0, 0.0, 0.0]
        assert file["VTKHDF"].attrs["Spacing"].tolist() == [0.5, 1.0, 1.0]


def test_order_of_the_coordinates_does_not_matter(tmp_path: Path) -> None:
    """Time declared first gives the same file as time declared last."""
    values = np.random.default_rng(0).random((5, 3))
    last = vtkhdf.write(tmp_path / "a", {"x": X, "t": T}, {"u": values}, time="t")
    first = vtkhdf.write(tmp_path / "b", {"t": T, "x": X}, {"u": values.T}, time="t")
    one, other = (check(path, points=(5, 1, 1), steps=3)["u"] for path in (last, first))
    assert np.array_equal(one, other)
    assert not np.array_equal(one, values.astype(np.float32)[:3])


def test_steady_plane_and_ordinary_differential_equation(tmp_path: Path) -> None:
    plane = vtkhdf.write(tmp_path / "a", {"x": X, "y": Y}, {"u": np.ones((5, 4))})
    check(plane, points=(5, 4, 1), steps=0)
    orbit = vtkhdf.write(tmp_path / "b", {"t": T}, {"a": T, "b": -T}, time="t")
    assert set(check(orbit, points=(3, 1, 1), steps=0)) == {"a", "b"}


@pytest.mark.parametrize(
    ("axes", "shape", "message"),
    [
        ({"x": np.array([0.0, 1.0, 3.0])}, (3,), "uniform"),
        ({"x": X[::-1]}, (5,), "increasing"),
        ({"x": X[:1]}, (1,), "at least two"),
        ({"x": X}, (4,), "the axes span"),
        ({"a": X, "b": X, "c": X, "d": X}, (5, 5, 5, 5), "at most 3"),
    ],
)
def test_what_no_image_can_hold_is_refused_and_leaves_no_file(
    tmp_path: Path, axes: dict, shape: tuple, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        vtkhdf.write(tmp_path / "a", axes, {"u": np.zeros(shape)})
    assert list(tmp_path.iterdir()) == []
