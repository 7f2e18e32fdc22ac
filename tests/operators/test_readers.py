"""Files of other programs, made here in miniature: what is read, and what is refused."""

from __future__ import annotations

import pickle
import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest
import scipy.io

from residua.errors import ConfigurationError, DataError
from residua.operators import datasets


@pytest.fixture
def normal(rng):
    return lambda *shape: rng.standard_normal(shape).astype(np.float32)


def hdf5(path: Path, contents: dict, **attributes) -> Path:
    with h5py.File(path, "w") as file:
        for name, values in contents.items():
            file[name] = values
        file.attrs.update(attributes)
    return path


# -- PDEBench --------------------------------------------------------------------------------------


def burgers(normal, path: Path, *, order=(0, 1, 2)) -> tuple[Path, np.ndarray]:
    u = normal(4, 5, 16)
    contents = {
        "tensor": u.transpose(order),
        "x-coordinate": (np.arange(16) + 0.5) / 16,
        "t-coordinate": np.linspace(0, 1, 6),  # one more than there are states
    }
    return hdf5(path, contents, Nu=0.01), u


def test_pdebench_scalar(normal, tmp_path):
    path, u = burgers(normal, tmp_path / "1D_Burgers_Sols_Nu0.01.hdf5")
    data = datasets.open(path)
    assert np.array_equal(data.states[:][:, :, 0], u)
    assert np.array_equal(data.inputs[1], u[1, :1])
    assert np.allclose(data.times, np.linspace(0, 1, 6)[:5]) and "last entry" in data.notes[0]
    assert data.constants == {"Nu": 0.01} and data.boundary == {"x": "periodic"}
    assert not data.splits
    assert len(data.with_splits({"test": (0, 1), "train": (1, 4)}).split("train")) == 3


def test_pdebench_axes_in_another_order(normal, tmp_path):
    path, _ = burgers(normal, tmp_path / "turned.hdf5", order=(2, 1, 0))
    with pytest.raises(DataError) as caught:
        datasets.open(path)
    text = str(caught.value)
    assert "'tensor' has shape (16, 5, 4), whose axes look like (x, t, sample)" in text
    assert "numpy.transpose(data, (2, 1, 0))" in text
    # What is advised is right.
    with h5py.File(path) as file:
        contents = {name: file[name][()] for name in file}
    contents["tensor"] = contents["tensor"].transpose(2, 1, 0)
    assert datasets.open(hdf5(tmp_path / "mended.hdf5", contents)).states.shape == (4, 5, 1, 16)


def test_pdebench_darcy(normal, tmp_path):
    a, u = np.abs(normal(3, 8, 8)), normal(3, 1, 8, 8)
    x = (np.arange(8) + 0.5) / 8
    path = hdf5(
        tmp_path / "2D_DarcyFlow_beta1.0_Train.hdf5",
        {"nu": a, "tensor": u, "x-coordinate": x, "y-coordinate": x}, beta=1.0,
    )  # fmt: skip
    data = datasets.open(path)
    assert data.input_channels == ("nu",) and data.constants == {"beta": 1.0}
    assert np.array_equal(data.inputs[:][:, 0], a) and np.array_equal(data.outputs[:], u)
    with pytest.raises(ConfigurationError, match="no states"):
        _ = data.states


def test_pdebench_flow(normal, tmp_path):
    names = ("Vx", "Vy", "density", "pressure")
    fields = {name: normal(2, 3, 4, 6) for name in names}
    coordinates = {f"{c}-coordinate": np.arange(n) + 0.5 for c, n in (("x", 4), ("y", 6), ("t", 3))}
    path = hdf5(tmp_path / "2D_CFD_Rand_periodic_Train.hdf5", {**fields, **coordinates}, eta=0.1)
    data = datasets.open(path)
    assert data.output_channels == ("density", "pressure", "Vx", "Vy")
    assert data.states.shape == (2, 3, 4, 4, 6) and data.periodic == (True, True)
    assert np.array_equal(data.states[1][:, 2], fields["Vx"][1])


def test_pdebench_groups(normal, tmp_path):
    contents, values = {}, {}
    for seed in range(3):
        values[seed] = normal(4, 5, 6, 2)
        contents[f"{seed:04d}/data"] = values[seed]
        for name, n in (("t", 4), ("x", 5), ("y", 6)):
            contents[f"{seed:04d}/grid/{name}"] = np.arange(float(n))
    data = datasets.open(hdf5(tmp_path / "2D_diff-react.h5", contents))
    assert data.states.shape == (3, 4, 2, 5, 6) and data.output_channels == ("u0", "u1")
    assert np.array_equal(data.states[1], values[1].transpose(0, 3, 1, 2))
    assert np.array_equal(data.outputs[[2, 0]][1], values[0][-1].transpose(2, 0, 1))
    contents["0001/data"] = contents["0001/data"][:3]
    with pytest.raises(DataError, match="has other sizes than"):
        _ = datasets.open(hdf5(tmp_path / "odd.h5", contents)).states[:]


def test_pdebench_incompressible(normal, tmp_path):
    velocity, force = normal(2, 3, 4, 4, 2), normal(2, 4, 4, 2)
    path = hdf5(
        tmp_path / "ns_incom.h5",
        {"velocity": velocity, "force": force, "particles": normal(2, 3, 4, 4, 1),
         "t": np.tile(np.linspace(0, 1, 3), (2, 1))},
    )  # fmt: skip
    data = datasets.open(path)
    assert data.input_channels[:2] == ("force_x", "force_y")
    assert data.states.shape == (2, 3, 3, 4, 4)
    assert np.array_equal(data.states[0][:, 1], velocity[0, ..., 1])


# -- FNO -------------------------------------------------------------------------------------------


def save_73(path: Path, arrays: dict[str, np.ndarray]) -> Path:
    """As MATLAB writes version 7.3: a header of 512 bytes, and all axes in reverse."""
    with h5py.File(path, "w", userblock_size=512) as file:
        for name, values in arrays.items():
            file[name] = values.T
    header = b"MATLAB 7.3 MAT-file, made for a test".ljust(124) + b"\x00\x02IM"
    with open(path, "r+b") as file:
        file.write(header)
    return path


@pytest.mark.parametrize("version", [5, 73])
def test_fno_darcy(normal, tmp_path, version):
    arrays = {"coeff": normal(6, 9, 9), "sol": normal(6, 9, 9), "Kcoeff": normal(6, 9, 9)}
    path = tmp_path / "piececonst.mat"
    scipy.io.savemat(path, arrays) if version == 5 else save_73(path, arrays)
    data = datasets.open(path)
    assert np.array_equal(data.inputs[:][:, 0], arrays["coeff"])
    assert np.array_equal(data.outputs[3][0], arrays["sol"][3])
    assert data.boundary["x"] == "dirichlet" and data.grid["x"][-1] == 1.0
    assert any("unit box, dirichlet" in note for note in data.notes)
    assert np.array_equal(data.subsample(4).inputs[0][0], arrays["coeff"][0, ::4, ::4])


@pytest.mark.parametrize("version", [5, 73])
def test_fno_navier_stokes(normal, tmp_path, version):
    arrays = {"a": normal(3, 8, 8), "u": normal(3, 8, 8, 5), "t": np.arange(1.0, 6.0)[None]}
    path = tmp_path / "ns.mat"
    scipy.io.savemat(path, arrays) if version == 5 else save_73(path, arrays)
    data = datasets.open(path)
    assert data.states.shape == (3, 5, 1, 8, 8) and np.allclose(data.times, [1, 2, 3, 4, 5])
    assert np.array_equal(data.states[2][:, 0], arrays["u"][2].transpose(2, 0, 1))
    assert np.array_equal(data.inputs[1][0], arrays["a"][1]) and data.periodic == (True, True)
    again = pickle.loads(pickle.dumps(data))
    assert np.array_equal(again.states[0], data.states[0])


def test_fno_burgers(normal, tmp_path):
    arrays = {"a": normal(4, 32), "u": normal(4, 32)}
    scipy.io.savemat(tmp_path / "burgers_data_R10.mat", arrays)
    data = datasets.open(tmp_path / "burgers_data_R10.mat")
    assert data.inputs.shape == data.outputs.shape == (4, 1, 32)
    assert data.grid["x"][-1] == pytest.approx(31 / 32)


def test_matlab_files_that_are_refused(normal, tmp_path):
    path = tmp_path / "odd.mat"
    scipy.io.savemat(path, {"coeff": normal(9, 9, 6), "sol": normal(9, 9, 6)})
    with pytest.raises(DataError, match=r"axes look like \(x, y, sample\); name them"):
        datasets.open(path)
    assert datasets.open(path, axes="x y sample").inputs.shape == (6, 1, 9, 9)
    scipy.io.savemat(path, {"pressure": normal(3)})
    with pytest.raises(DataError, match="holds pressure; known are 'coeff' with 'sol'"):
        datasets.open(path)
    scipy.io.savemat(path, {"a": np.array([["x", "y"]], dtype=object), "u": normal(3, 4)})
    with pytest.raises(DataError, match="'a' is of type object; store real numbers"):
        datasets.open(path)
    scipy.io.savemat(path, {"a": normal(4, 8), "u": normal(3, 8)})
    with pytest.raises(DataError, match="'u' has 3 samples where 'a' has 4"):
        datasets.open(path)
    scipy.io.savemat(path, {"a": normal(40, 32), "u": normal(40, 32)})
    path.write_bytes(path.read_bytes()[:1500])
    with pytest.raises(DataError, match="no readable MATLAB file"):
        datasets.open(path)


# -- .npy ------------------------------------------------------------------------------------------


def test_a_pair_of_npy_files(normal, tmp_path):
    a, u = normal(5, 7, 7), normal(5, 7, 7)
    np.save(tmp_path / "Helmholtz_inputs.npy", a)
    with pytest.raises(DataError, match="no file beside it looks like its outputs; name it"):
        datasets.open(tmp_path / "Helmholtz_inputs.npy")
    np.save(tmp_path / "Helmholtz_outputs.npy", u)
    data = datasets.open(tmp_path / "Helmholtz_inputs.npy")
    assert np.array_equal(data.inputs[:][:, 0], a) and np.array_equal(data.outputs[2][0], u[2])
    assert data.boundary == {"x": "unknown", "y": "unknown"} and data.subsample(2)
    assert np.array_equal(pickle.loads(pickle.dumps(data)).inputs[1], data.inputs[1])
    np.save(tmp_path / "X.npy", a.transpose(1, 2, 0))
    with pytest.raises(DataError, match=r"look like \(x, y, sample\)"):
        datasets.open(tmp_path / "X.npy", outputs=tmp_path / "Helmholtz_outputs.npy")
    mixed = datasets.open(
        tmp_path / "X.npy",
        outputs=tmp_path / "Helmholtz_outputs.npy",
        axes=("x y sample", "sample x y"),
    )
    assert np.array_equal(mixed.inputs[:], data.inputs[:])
    with pytest.raises(ConfigurationError, match="not an order of axes"):
        datasets.open(tmp_path / "X.npy", axes="samples x y")


def test_npy_channels_and_instants(normal, tmp_path):
    a, u = normal(3, 2, 8), normal(3, 4, 8)
    np.save(tmp_path / "in.npy", a)
    np.save(tmp_path / "out.npy", u)
    data = datasets.open(
        tmp_path / "in.npy", outputs=tmp_path / "out.npy", axes=("sample channel x", "sample t x")
    )
    assert np.array_equal(data.inputs[:], a) and data.states.shape == (3, 4, 1, 8)
    assert np.array_equal(data.outputs[:][:, 0], u[:, -1])


def test_nothing_is_unpickled(tmp_path):
    class Trap:
        def __reduce__(self):
            return (open, (str(tmp_path / "sprung"), "w"))

    np.save(tmp_path / "inputs.npy", np.array([Trap()], dtype=object), allow_pickle=True)
    np.save(tmp_path / "outputs.npy", np.zeros((1, 3)))
    with pytest.raises(DataError, match="no readable .npy file of numbers"):
        datasets.open(tmp_path / "inputs.npy")
    assert not (tmp_path / "sprung").exists()


def test_a_truncated_npy_file(normal, tmp_path):
    np.save(tmp_path / "inputs.npy", normal(5, 9))
    np.save(tmp_path / "outputs.npy", normal(5, 9))
    path = tmp_path / "outputs.npy"
    path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(DataError, match="outputs.npy: is no readable .npy file"):
        datasets.open(tmp_path / "inputs.npy")


# -- The Well --------------------------------------------------------------------------------------


def test_the_well(normal, tmp_path):
    path = tmp_path / "well.hdf5"
    still, u, v = normal(6, 8), normal(2, 3, 6, 8), normal(2, 3, 6, 8, 2)
    with h5py.File(path, "w") as file:
        file.attrs.update(dataset_name="made", grid_type="cartesian", n_spatial_dims=2)
        file.attrs.update(n_trajectories=2, simulation_parameters=["Re"], Re=100.0)
        file.create_group("dimensions").attrs["spatial_dims"] = ["x", "y"]
        for name, n in (("time", 3), ("x", 6), ("y", 8)):
            file[f"dimensions/{name}"] = np.arange(n, dtype=np.float32)
        wall = file.create_group("boundary_conditions/y_wall")
        wall.attrs.update(associated_dims=["y"], bc_type="WALL")
        ring = file.create_group("boundary_conditions/x_periodic")
        ring.attrs.update(associated_dims=["x"], bc_type="PERIODIC")
        file.create_group("scalars").attrs["field_names"] = ["Re"]
        file["scalars/Re"] = 100.0
        file["scalars/Re"].attrs.update(sample_varying=False, time_varying=False)
        for group, name, values, sample, time in (
            ("t0_fields", "density", still, False, False),
            ("t0_fields", "pressure", u, True, True),
            ("t1_fields", "velocity", v, True, True),
        ):
            file.require_group(group).attrs["field_names"] = []
            file[f"{group}/{name}"] = values
            file[f"{group}/{name}"].attrs.update(
                sample_varying=sample, time_varying=time, dim_varying=[True, True]
            )
        file["t0_fields"].attrs["field_names"] = ["density", "pressure"]
        file["t1_fields"].attrs["field_names"] = ["velocity"]
    data = datasets.open(path)
    assert data.layout == "The Well" and data.boundary == {"x": "periodic", "y": "wall"}
    assert data.input_channels == ("density", "pressure", "velocity_x", "velocity_y")
    assert np.array_equal(data.inputs[:][1], [still, u[1, 0], v[1, 0, ..., 0], v[1, 0, ..., 1]])
    assert np.array_equal(data.states[:][:, :, 2], v[..., 1]) and data.constants == {"Re": 100.0}
    other = tmp_path / "other.hdf5"
    shutil.copy(path, other)
    with h5py.File(other, "r+") as file:
        file.attrs["n_trajectories"] = 3
    with pytest.raises(DataError, match="has 2 samples where n_trajectories is 3"):
        datasets.open(other)
