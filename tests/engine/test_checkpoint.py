"""Checkpoints: exact, verified against every kind of damage, safe against a stop at any step."""

from __future__ import annotations

import json
import math
import os
import pickle
import random
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from residua.engine import checkpoint
from residua.engine.checkpoint import CheckpointWarning, load_latest, save
from residua.errors import DataError, DivergedError


def state(seed: int = 0) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(seed)
    return {
        "network": {"w": torch.randn(5, 4, generator=generator, dtype=torch.float64)},
        "seed": seed,
    }


def same(left: Any, right: Any) -> bool:
    if isinstance(left, torch.Tensor):
        return left.dtype == right.dtype and torch.equal(left, right)
    if isinstance(left, dict):
        return left.keys() == right.keys() and all(same(left[k], right[k]) for k in left)
    if isinstance(left, list | tuple):
        return type(left) is type(right) and (
            len(left) == len(right) and all(map(same, left, right))
        )
    return type(left) is type(right) and left == right


def load_quietly(folder: Path) -> tuple[dict[str, Any], checkpoint.CheckpointInfo]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", CheckpointWarning)
        return load_latest(folder)


def test_the_state_comes_back_exactly(tmp_path: Path) -> None:
    network = torch.nn.Linear(3, 2, dtype=torch.float64)
    optimiser = torch.optim.Adam(network.parameters(), amsgrad=True)
    network(torch.ones(4, 3).double()).square().sum().backward()
    optimiser.step()
    rng = np.random.default_rng(3)
    given = {
        "network": network.state_dict(),  # an OrderedDict
        "optimiser": optimiser.state_dict(),
        "numpy": rng.bit_generator.state,
        "torch": torch.Generator().manual_seed(2**63).get_state(),
        "text": "u_t + u*u_x = \u03bdu_xx",
        "numbers": [1, -0.0, 5e-324, math.inf, 2**200, True, None, (1, 2.5)],
        "small": [torch.tensor(1.5, dtype=torch.float16), torch.zeros(0, 3), torch.tensor(True)],
        "parameter": torch.nn.Parameter(torch.arange(3.0)),
        "numpy numbers": [np.float64(0.1), np.int32(7), np.bool_(True), np.str_("a")],
        "version": torch.__version__,
    }
    path = save(tmp_path, 12, given)
    loaded, info = load_latest(tmp_path)
    assert (info.path, info.step, info.size, info.rejected) == (path, 12, path.stat().st_size, ())
    assert same(dict(given["network"]), loaded["network"])
    assert same(given["optimiser"], loaded["optimiser"])
    assert same(given["numbers"], loaded["numbers"])
    assert math.copysign(1, loaded["numbers"][1]) == -1
    assert same(given["small"], loaded["small"])
    assert type(loaded["parameter"]) is torch.Tensor
    assert not loaded["parameter"].requires_grad
    assert same(loaded["numpy numbers"], [0.1, 7, True, "a"])
    assert type(loaded["version"]) is str
    assert loaded["text"] == given["text"]
    again = np.random.default_rng(0)
    again.bit_generator.state = loaded["numpy"]
    assert np.array_equal(again.random(5), rng.random(5))
    assert torch.equal(torch.Generator().set_state(loaded["torch"]).get_state(), given["torch"])


def test_training_resumes_bit_for_bit(tmp_path: Path) -> None:
    def run(steps: range, resumed: dict[str, Any] | None) -> tuple[torch.Tensor, dict[str, Any]]:
        generator = torch.Generator().manual_seed(1)
        network = torch.nn.Linear(3, 3, dtype=torch.float64)
        torch.nn.init.ones_(network.weight)
        torch.nn.init.zeros_(network.bias)
        optimiser = torch.optim.Adam(network.parameters(), 1e-2)
        if resumed is not None:
            network.load_state_dict(resumed["network"])
            optimiser.load_state_dict(resumed["optimiser"])
            if "rng" in resumed:
                generator.set_state(resumed["rng"])
        for _ in steps:
            x = torch.rand(8, 3, generator=generator, dtype=torch.float64)
            optimiser.zero_grad()
            (network(x).tanh() - x.sin()).square().mean().backward()
            optimiser.step()
        return network.weight.detach().clone(), {
            "network": network.state_dict(),
            "optimiser": optimiser.state_dict(),
            "rng": generator.get_state(),
        }

    whole, _ = run(range(30), None)
    _, half = run(range(15), None)
    save(tmp_path, 15, half)
    loaded, _ = load_latest(tmp_path)
    resumed, _ = run(range(15), loaded)
    assert torch.equal(resumed, whole)
    del loaded["rng"]  # wrong twin: the random state forgotten
    assert not torch.equal(run(range(15), loaded)[0], whole)


def test_two_are_kept_and_views_are_cut_to_size(tmp_path: Path) -> None:
    for step in range(1, 6):
        save(tmp_path, step, state(step))
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    assert [entry["step"] for entry in manifest["checkpoints"]] == [4, 5]
    files = sorted(path.name for path in tmp_path.iterdir())
    assert files == sorted(["manifest.json", *(e["file"] for e in manifest["checkpoints"])])
    large = torch.zeros(100_000)
    assert save(tmp_path, 6, {"view": large[:3]}).stat().st_size < 10_000
    with pytest.raises(ValueError, match="at least 2"):
        save(tmp_path, 7, {}, keep=1)


def test_two_hundred_bit_flips_are_all_caught(tmp_path: Path) -> None:
    save(tmp_path, 1, state(1))
    newest = save(tmp_path, 2, state(2))
    good = newest.read_bytes()
    draw = random.Random(0)
    naive = 0
    for _ in range(200):
        bit = draw.randrange(8 * len(good))
        bad = bytearray(good)
        bad[bit // 8] ^= 1 << bit % 8
        newest.write_bytes(bad)
        with pytest.warns(CheckpointWarning, match="SHA-256"):
            loaded, info = load_latest(tmp_path)
        assert info.step == 1
        assert same(loaded, state(1))
        assert len(info.rejected) == 1
        try:  # control: what the format itself lets through
            naive += torch.load(newest, weights_only=True)["format"] == 1
        except Exception:
            continue
    assert naive > 20


def test_truncations_are_all_caught(tmp_path: Path) -> None:
    save(tmp_path, 1, state(1))
    newest = save(tmp_path, 2, state(2))
    good = newest.read_bytes()
    for length in [0, 1, len(good) - 1, *random.Random(1).sample(range(len(good)), 50)]:
        newest.write_bytes(good[:length])
        with pytest.warns(CheckpointWarning, match=f"{length} bytes where {len(good)}"):
            assert load_latest(tmp_path)[1].step == 1
    newest.write_bytes(good + b"\0")
    with pytest.warns(CheckpointWarning, match="bytes where"):
        assert load_latest(tmp_path)[1].step == 1


def test_a_damaged_manifest_never_loses_or_misreads_the_run(tmp_path: Path) -> None:
    save(tmp_path, 1, state(1))
    save(tmp_path, 2, state(2))
    path = tmp_path / "manifest.json"
    good = path.read_bytes()
    for bit in random.Random(2).sample(range(8 * len(good)), 300):
        bad = bytearray(good)
        bad[bit // 8] ^= 1 << bit % 8
        path.write_bytes(bad)
        loaded, info = load_quietly(tmp_path)
        assert info.step == 2
        assert same(loaded, state(2))
    for content in (b"", good[: len(good) // 2], b"[]", b"null", b"[" * 100_000, b"\xff\xfe"):
        path.write_bytes(content)
        with pytest.warns(CheckpointWarning, match="manifest is damaged"):
            assert load_latest(tmp_path)[1].step == 2
    path.unlink()
    with pytest.warns(CheckpointWarning, match="manifest is missing"):
        assert load_latest(tmp_path)[1].step == 2
    with pytest.warns(CheckpointWarning, match="missing"):
        save(tmp_path, 3, state(3))
    assert load_latest(tmp_path)[1].step == 3


def test_swapped_missing_and_linked_files_are_refused(tmp_path: Path) -> None:
    one, two = save(tmp_path, 1, state(1)), save(tmp_path, 2, state(2))
    good = two.read_bytes()
    two.write_bytes(one.read_bytes())
    assert load_quietly(tmp_path)[1].step == 1
    two.unlink()
    with pytest.warns(CheckpointWarning, match="missing"):
        assert load_latest(tmp_path)[1].step == 1
    elsewhere = tmp_path / "elsewhere"
    elsewhere.write_bytes(good)
    two.symlink_to(elsewhere)
    with pytest.warns(CheckpointWarning, match="not a regular file"):
        assert load_latest(tmp_path)[1].step == 1
    one.unlink()
    with pytest.raises(DataError, match="no usable checkpoint.*regular file.*missing") as caught:
        load_quietly(tmp_path)
    assert caught.value.exit_code == 3


def test_no_checkpoint_is_data_error(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "absent"):
        with pytest.raises(DataError, match="there is none yet"):
            load_latest(folder)
    assert not (tmp_path / "absent").exists()


def forge(folder: Path, content: bytes) -> None:
    """List `content` as step 9 with sound digests, as someone with access to the folder could."""
    digest = checkpoint.hashlib.sha256(content).hexdigest()
    entry = checkpoint._Entry(f"step-000000009-{digest[:16]}.pt", 9, len(content), digest)
    (folder / entry.file).write_bytes(content)
    checkpoint._write_manifest(folder, [*checkpoint._entries(folder)[0], entry])


class Payload:
    """Creates a file when unpickled without restriction."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (os.mkdir, (str(self.path),))


def test_a_payload_is_not_executed(tmp_path: Path) -> None:
    folder, mark = tmp_path / "c", tmp_path / "executed"
    save(folder, 1, state(1))
    content = {"format": 1, "step": 9, "state": {"x": Payload(mark)}}
    torch.save(content, tmp_path / "forged")
    for forged in ((tmp_path / "forged").read_bytes(), pickle.dumps(content, 2)):
        forge(folder, forged)
        with pytest.warns(CheckpointWarning, match="restricted loader"):
            assert load_latest(folder)[1].step == 1
        assert not mark.exists()
    torch.load(tmp_path / "forged", weights_only=False)  # control: the payload works
    assert mark.exists()


@pytest.mark.parametrize(
    "content",
    [
        {"format": 2, "step": 9, "state": {}},
        {"format": 1, "step": 8, "state": {}},
        {"format": 1, "step": 9, "state": [1]},
        [1, 2],
    ],
)
def test_other_content_is_refused(tmp_path: Path, content: Any) -> None:
    save(tmp_path, 1, state(1))
    torch.save(content, tmp_path / "forged")
    forge(tmp_path, (tmp_path / "forged").read_bytes())
    with pytest.warns(CheckpointWarning, match="another version|not the checkpoint of step 9"):
        assert load_latest(tmp_path)[1].step == 1


def test_a_manifest_cannot_point_outside(tmp_path: Path) -> None:
    folder = tmp_path / "c"
    outside = save(tmp_path / "d", 5, state(5))
    save(folder, 1, state(1))
    content = outside.read_bytes()
    digest = checkpoint.hashlib.sha256(content).hexdigest()
    entry = checkpoint._Entry(f"../d/{outside.name}", 5, len(content), digest)
    checkpoint._write_manifest(folder, [entry])
    with pytest.warns(CheckpointWarning, match="damaged"):
        assert load_latest(folder)[1].step == 1


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64, torch.complex128])
def test_values_that_are_not_finite_are_never_saved(
    tmp_path: Path, bad: float, dtype: torch.dtype
) -> None:
    save(tmp_path, 1, state(1))
    before = sorted(path.name for path in tmp_path.iterdir())
    weights = torch.ones(100, dtype=dtype)
    weights[37] = bad
    with pytest.raises(DivergedError, match=r"state\['net'\]\[1\] holds values .* not finite"):
        save(tmp_path, 2, {"net": [torch.ones(2), weights]})
    with pytest.raises(DivergedError, match=r"state\['loss'\] is not a number"):
        save(tmp_path, 2, {"loss": math.nan})
    assert sorted(path.name for path in tmp_path.iterdir()) == before


@pytest.mark.parametrize("bad", [np.ones(2), {1, 2}, Path("x"), torch.nn.Linear(1, 1), 1j])
def test_only_plain_values_are_taken(tmp_path: Path, bad: Any) -> None:
    with pytest.raises(TypeError, match=r"state\['a'\]\[0\].*cannot hold"):
        save(tmp_path, 1, {"a": [bad]})
    with pytest.raises(TypeError, match="key"):
        save(tmp_path, 1, {"a": {(1, 2): 3}})
    assert not list(tmp_path.iterdir())


def test_going_back_drops_what_lies_ahead(tmp_path: Path) -> None:
    """After a fall back from a damaged step 20 to 10, saving 15 must keep 10, not 20."""
    save(tmp_path, 10, state(10))
    bad = save(tmp_path, 20, state(20))
    bad.write_bytes(bad.read_bytes()[::-1])
    assert load_quietly(tmp_path)[1].step == 10
    damaged = save(tmp_path, 15, state(15))
    assert not bad.exists()
    damaged.write_bytes(b"")
    assert load_quietly(tmp_path)[1].step == 10
    # The same step twice, with another content: the new one counts.
    save(tmp_path, 15, state(15))
    save(tmp_path, 15, state(16))
    assert load_latest(tmp_path)[0]["seed"] == 16
