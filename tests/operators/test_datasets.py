"""A data set in our layout: written, read, selected, split; and what is wrong with it is said."""

from __future__ import annotations

import pickle
from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from residua.errors import ConfigurationError, DataError
from residua.operators import datasets
from residua.operators.datasets.dataset import Dataset
from residua.operators.datasets.info import describe, scan
from residua.operators.datasets.layout import Description, Field, Sample, write
from residua.operators.datasets.splits import check_disjoint, parse, shares

SAMPLES = 10


def steady(path: Path, samples: int = SAMPLES, *, dtype: str = "float64", double: int = 0) -> Path:
    """A file of a and u; with `double`, so many last samples are the first once more."""
    generator = np.random.default_rng(4)
    nodes = np.linspace(0, 1, 9), np.linspace(0, 2, 5)
    made = [
        Sample({k: generator.standard_normal((9, 5)) for k in "au"}, {"error_bar": 1e-3 * (n + 1)})
        for n in range(samples)
    ]
    made[samples - double :] = made[:double]
    described = Description(
        "made", "-lap(u) = a", "white", "none", {"x": nodes[0], "y": nodes[1]},
        {"x": "dirichlet", "y": "neumann"}, (Field("a", "input"), Field("u", "output")),
        constants={"f": 2.0},
    )  # fmt: skip
    write(path, described, samples, made.__getitem__, splits=shares(samples),
          provenance={"seed": 4, "settings": {"b": 1}}, dtype=dtype)  # fmt: skip
    return path


def moving(path: Path, samples: int = SAMPLES) -> Path:
    """A file of states of two fields on a ring, and a parameter."""
    generator = np.random.default_rng(5)
    described = Description(
        "made", "u_t = v", "white", "none", {"x": np.arange(8) / 8}, {"x": "periodic"},
        (Field("u", "state"), Field("v", "state")), np.array([0.0, 0.5, 2.0]),
        scalars=("nu", "error_bar"),
    )  # fmt: skip

    def one(number: int) -> Sample:
        fields = {k: generator.standard_normal((3, 8)) for k in "uv"}
        return Sample(fields, {"nu": number / 10, "error_bar": 1e-6})

    write(path, described, samples, one, splits=shares(samples), provenance={}, dtype="float32")
    return path


@pytest.fixture
def data(tmp_path) -> Dataset:
    return datasets.open(steady(tmp_path / "steady.h5"))


def changed(path: Path, name: str, values) -> Path:
    """The file with another dataset in the place of one, its attributes kept."""
    with h5py.File(path, "r+") as file:
        attributes = dict(file[name].attrs) if name in file else {}
        if name in file:
            del file[name]
        made = file.create_dataset(name, data=values)
        for key, value in attributes.items():
            made.attrs[key] = value
    return path


def test_what_is_written_is_read(data):
    assert data.inputs.shape == data.outputs.shape == (SAMPLES, 1, 9, 5)
    assert (data.input_channels, data.output_channels) == (("a",), ("u",))
    assert data.boundary == {"x": "dirichlet", "y": "neumann"}
    assert np.array_equal(data.grid["y"], np.linspace(0, 2, 5)) and data.spacing == (0.125, 0.5)
    assert data.periodic == (False, False) and data.constants["f"] == 2.0
    assert data.attributes["seed"] == 4 and data.attributes["settings"] == '{"b": 1}'
    with h5py.File(data.path) as file:
        assert np.array_equal(data.inputs[:][:, 0], file["t0_fields/a"][()])
    assert data.inputs.dtype == np.float64 and np.asarray(data.outputs).shape == data.outputs.shape


def test_it_has_what_the_well_asks_for(tmp_path):
    with h5py.File(moving(tmp_path / "moving.h5")) as file:
        assert {"dataset_name", "grid_type", "n_spatial_dims", "n_trajectories"} <= set(file.attrs)
        assert set(file) >= {"boundary_conditions", "dimensions", "scalars", "t0_fields",
                             "t1_fields", "t2_fields"}  # fmt: skip
        assert list(file["dimensions"].attrs["spatial_dims"]) == ["x"]
        assert file["boundary_conditions/x_boundary"].attrs["bc_type"] == "PERIODIC"
        assert file["t0_fields/u"].shape == (SAMPLES, 3, 8)
        assert file["t0_fields/u"].attrs["time_varying"] and file["scalars/nu"].shape == (SAMPLES,)


def test_states(tmp_path):
    data = datasets.open(moving(tmp_path / "moving.h5"))
    assert data.states.shape == (SAMPLES, 3, 2, 8) and data.inputs.shape == (SAMPLES, 2, 8)
    states = data.states[:]
    assert np.array_equal(data.inputs[:], states[:, 0])
    assert np.array_equal(data.outputs[:], states[:, -1])
    assert np.array_equal(data.times, [0, 0.5, 2]) and data.inputs.dtype == np.float32
    assert np.allclose(data.split("test").scalars["nu"], [0.9])


@given(
    index=st.one_of(
        st.integers(-SAMPLES, SAMPLES - 1),
        st.slices(SAMPLES),
        st.lists(st.integers(-SAMPLES, SAMPLES - 1), max_size=6),
    ),
    stride=st.sampled_from([1, 2, 4]),
)
def test_indexing_is_that_of_an_array(index, stride, whole):
    data, values = whole
    found = data.subsample(stride).inputs[index]
    assert np.array_equal(found, values[:, :, ::stride, ::stride][index])


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    data = datasets.open(steady(tmp_path_factory.mktemp("data") / "steady.h5"))
    return data, data.inputs[:]


def test_nothing_is_read_before_it_is_asked_for(data, monkeypatch):
    read = []
    original = h5py.Dataset.__getitem__

    def noted(self, index, *more, **options):
        read.append(self.name)
        return original(self, index, *more, **options)

    monkeypatch.setattr(h5py.Dataset, "__getitem__", noted)
    inputs = data.split("train").subsample(2).inputs
    assert not read
    assert inputs[0].shape == (1, 5, 3) and read == ["/t0_fields/a"]


def test_selections_and_strides(data):
    test = data.split("test")
    assert len(test) == 1 and np.array_equal(test.inputs[0], data.inputs[9])
    assert np.array_equal(data.select([3, 1]).outputs[1], data.outputs[1])
    assert test.scalars["error_bar"] == pytest.approx([0.01])
    thin = data.subsample(2).subsample(2)
    assert np.array_equal(thin.inputs[2], data.inputs[2][:, ::4, ::4])
    assert np.array_equal(thin.grid["x"], [0, 0.5, 1])
    with pytest.raises(ConfigurationError, match="does not divide the 8 steps of 9 dirichlet"):
        data.subsample(3)
    with pytest.raises(IndexError, match="there are 10 samples"):
        data.inputs[10]


def test_it_travels_to_another_process(data):
    again = pickle.loads(pickle.dumps(data))
    assert np.array_equal(again.inputs[2], data.inputs[2])


# -- splits ----------------------------------------------------------------------------------------


@given(samples=st.integers(0, 500))
def test_shares_are_a_partition(samples):
    found = shares(samples)
    assert np.array_equal(np.concatenate(list(found.values())), np.arange(samples))
    assert abs(len(found["train"]) - 0.8 * samples) <= 1


@given(
    ranges=st.lists(
        st.tuples(st.integers(0, 99), st.integers(1, 40)).map(lambda p: (p[0], p[0] + p[1])),
        min_size=2,
        max_size=4,
    )
)
def test_splits_overlap_exactly_where_their_numbers_do(ranges):
    rows = {f"s{n}": np.arange(*r) for n, r in enumerate(ranges)}
    union = set().union(*(set(r.tolist()) for r in rows.values()))
    leaks = len(union) < sum(map(len, rows.values()))
    if leaks:
        with pytest.raises(ConfigurationError, match="share sample"):
            check_disjoint(rows)
    else:
        check_disjoint(rows)


def test_splits_as_a_person_writes_them():
    found = parse(["train=0:8", "test=8:10"], 10)
    assert found["train"].tolist() == list(range(8)) and found["test"].tolist() == [8, 9]
    for texts, message in (
        (["train=0:8", "test=7:10"], "'train' and 'test' share sample 7"),
        (["train=0:11"], "there are 0:10"),
        (["train"], "write NAME=FIRST:END"),
        (["train=0:2", "train=3:4"], "comes twice"),
        (["train=4:4"], "no such samples"),
    ):
        with pytest.raises(ConfigurationError, match=message):
            parse(texts, 10)


def test_other_splits_than_those_stored(data):
    other = data.with_splits({"train": (0, 3), "test": [5, 9]})
    assert len(other.split("train")) == 3 and other.split("test").rows.tolist() == [5, 9]
    with pytest.raises(ConfigurationError, match="share sample 2"):
        data.with_splits({"train": (0, 3), "test": (2, 4)})
    with pytest.raises(ConfigurationError, match="no such samples"):
        data.with_splits({"train": (0, 11)})
    with pytest.raises(ConfigurationError, match="did you mean 'train'"):
        other.split("trian")


@pytest.mark.parametrize("hashed", [True, False])
def test_the_same_input_in_two_splits_is_refused(tmp_path, hashed):
    path = steady(tmp_path / "leak.h5", double=1)  # sample 9, of the test split, is sample 0
    if not hashed:
        with h5py.File(path, "r+") as file:
            del file["splits/digests"]
    data = datasets.open(path)
    with pytest.raises(DataError, match="sample 9 of .* split 'test' .* as sample 0 .* 'train'"):
        data.split("train")
    apart = data.with_splits({"train": (0, 8), "test": (8, 9)})  # the twin is left out
    assert len(apart.split("train")) == 8


def test_the_same_input_in_two_files_is_refused(tmp_path):
    one = datasets.open(steady(tmp_path / "one.h5"))
    two = datasets.open(steady(tmp_path / "two.h5", 12))
    with pytest.raises(DataError, match="same input"):
        datasets.refuse_leaks({"train": one, "test": two})
    datasets.refuse_leaks({"train": one, "test": two.select([10, 11])})
    with pytest.raises(DataError, match="holds a sample twice"):
        datasets.refuse_leaks({"train": one.select([1, 1])})


# -- what is wrong ---------------------------------------------------------------------------------


def test_nan_is_named_where_it_is_read(tmp_path):
    path = steady(tmp_path / "nan.h5")
    with h5py.File(path, "r+") as file:
        file["t0_fields/u"][7, 3, 2] = np.nan
    data = datasets.open(path)
    assert np.isfinite(data.outputs[:7]).all()
    with pytest.raises(
        DataError, match=r"nan.h5: 't0_fields/u' holds NaN in sample 7, at \[3, 2\]"
    ):
        data.outputs[5:]
    with pytest.raises(DataError, match="sample 7"):
        list(scan(data))


def test_a_truncated_file(tmp_path):
    path = steady(tmp_path / "short.h5")
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(DataError, match=r"short.h5: .*truncated.*write it again"):
        datasets.open(path)


def test_files_that_are_none(tmp_path):
    with pytest.raises(DataError, match="there is no such file"):
        datasets.open(tmp_path / "absent.h5")
    (tmp_path / "text.h5").write_text("hello")
    with pytest.raises(DataError, match="is of an unknown kind; known are the layouts of"):
        datasets.open(tmp_path / "text.h5")
    with h5py.File(tmp_path / "odd.h5", "w") as file:
        file["pressure_at_7"] = np.zeros(3)
    with pytest.raises(DataError, match="holds pressure_at_7: an unknown layout; known are"):
        datasets.open(tmp_path / "odd.h5")


@pytest.mark.parametrize(
    ("name", "values", "message"),
    [
        ("t0_fields/u", np.zeros((SAMPLES, 5, 9)), "axes are in another order"),
        ("t0_fields/u", np.zeros((SAMPLES, 9, 6)), r"has \(9, 6\) nodes along \(x, y\)"),
        ("t0_fields/u", np.zeros((SAMPLES - 1, 9, 5)), "has 9 samples where n_trajectories is 10"),
        ("t0_fields/u", np.zeros((SAMPLES, 9)), r"has 2 axes.*store 3: \(sample, x, y\)"),
        ("t0_fields/u", np.zeros((SAMPLES, 9, 5), complex), "is of type complex128"),
        ("t0_fields/u", np.full((SAMPLES, 9, 5), b"text"), "is of type"),
        ("dimensions/x", np.linspace(1, 0, 9), "does not increase"),
        ("splits/test", np.array([10]), "names sample 10 of 10"),
        ("splits/test", np.array([0]), "share sample 0"),
        ("splits/digests", np.zeros((3, 32), np.uint8), r"has shape \(3, 32\)"),
        ("scalars/error_bar", np.zeros(3), "store one number for each of 10 samples"),
    ],
)
def test_contents_that_do_not_fit(tmp_path, name, values, message):
    path = changed(steady(tmp_path / "odd.h5"), name, values)
    with pytest.raises(DataError, match=message):
        datasets.open(path)


def test_links_lead_nowhere(tmp_path):
    path = steady(tmp_path / "links.h5")
    with h5py.File(path, "r+") as file:
        del file["t0_fields/u"]
        file["t0_fields/u"] = h5py.ExternalLink("elsewhere.h5", "/u")
    with pytest.raises(DataError, match="is a link that leads elsewhere"):
        datasets.open(path)


def test_a_layout_of_tomorrow(tmp_path):
    path = steady(tmp_path / "new.h5")
    with h5py.File(path, "r+") as file:
        file.attrs["residua_layout"] = 2
    with pytest.raises(DataError, match="has layout 2; this version reads layout 1"):
        datasets.open(path)


def test_info_says_what_is_there(data):
    text = "\n".join([*describe(data), *scan(data)])
    for part in (
        "Residua 'made', 10 samples", "grid x: 9 nodes, 0 to 1, spacing 0.125, dirichlet",
        "parameter f: 2", "split test: 9:10 (1 samples)", "error bar: median 5.50e-03",
        "values of a:", "all finite",
    ):  # fmt: skip
        assert part in text
