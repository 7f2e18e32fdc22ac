"""The registry: names, plug-ins, and the refusal of duplicates."""

from importlib import metadata
from pathlib import Path

import pytest

from residua.errors import ConfigurationError
from residua.problems import registry

SMALL = {
    "coordinates": {"t": [0, 1]},
    "fields": ["u"],
    "equations": ["u_t = -u"],
    "conditions": [{"where": "t = 0", "u": 1}],
}
FAMILIES = {
    *("advection", "allen_cahn", "burgers", "fisher_kpp", "heat", "helmholtz_2d", "kdv"),
    *("klein_gordon", "kuramoto_sivashinsky", "kuramoto_sivashinsky_chaotic", "lorenz"),
    *("lotka_volterra", "poisson_1d", "poisson_2d", "reaction", "reaction_diffusion"),
    *("sine_gordon", "wave"),
}


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_registered", {})


def test_the_library_is_complete() -> None:
    assert set(registry.names()) >= FAMILIES
    assert all(registry.source(name) for name in FAMILIES)


def test_parameters_are_set_by_name() -> None:
    assert registry.get("burgers", nu=0.02).values == {"nu": 0.02}
    assert registry.get("burgers").values != {"nu": 0.02}


def test_unknown_names_get_the_nearest() -> None:
    with pytest.raises(ConfigurationError, match="did you mean 'burgers'"):
        registry.get("burger")
    with pytest.raises(ConfigurationError, match="known are advection"):
        registry.get("zzzzzz")


def test_registered_once_and_not_twice() -> None:
    registry.register(SMALL, name="decay")
    assert "decay" in registry.names() and registry.get("decay").fields == ("u",)
    for name in ("decay", "burgers"):
        with pytest.raises(ConfigurationError, match="exists"):
            registry.register(SMALL, name=name)
    with pytest.raises(ConfigurationError, match="usable name"):
        registry.register(SMALL)


def test_later_changes_to_the_mapping_do_not_reach_the_registry() -> None:
    mapping = {**SMALL, "equations": ["u_t = -u"]}
    registry.register(mapping, name="decay")
    mapping["equations"][0] = "u_t = nonsense"
    assert registry.get("decay").equations[0].text == "u_t = -u"


def test_files_are_registered_under_their_name(tmp_path: Path) -> None:
    file = tmp_path / "decay.yaml"
    file.write_text(
        "coordinates: {t: [0, 1]}\nfields: [u]\nequations:\n  - u_t = -1e-1*u\n"
        "conditions:\n  - {where: t = 0, u: 1}\n"
    )
    assert registry.register(file).name == "decay"
    bad = tmp_path / "bad.yaml"
    bad.write_text(file.read_text().replace("-1e-1*u", "-k*u"))
    with pytest.raises(ConfigurationError) as caught:
        registry.register(bad)
    assert str(caught.value).startswith(f"{bad}:4: equations[0]: undeclared name 'k'")
    assert "bad" not in registry.names()


def test_plug_ins_are_imported_when_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = []

    class Point:
        name, group, value = "plugged", registry.GROUP, "somewhere:problem"

        def load(self) -> dict:
            loaded.append(1)
            return SMALL

    monkeypatch.setattr(metadata, "entry_points", lambda group: [Point()])
    registry._plugins.cache_clear()
    registry._build.cache_clear()
    try:
        assert "plugged" in registry.names() and not loaded
        assert registry.get("plugged").fields == ("u",) and loaded
        monkeypatch.setattr(Point, "name", "burgers")
        registry._plugins.cache_clear()
        with pytest.raises(ConfigurationError, match="two installed packages"):
            registry.names()
    finally:
        registry._plugins.cache_clear()
        registry._build.cache_clear()
