"""Models by name."""

from __future__ import annotations

import pytest
import torch

import skipkb
from skipkb import factory
from skipkb.catalog.imports import ImportPathError, resolve
from skipkb.catalog.index import query


def test_names_come_in_natural_order() -> None:
    names = skipkb.list_models()
    assert len(names) == len(set(names))
    resnets = [
        name for name in names if name in ("resnet18", "resnet20", "resnet34", "resnet50", "resnet101", "resnet152")
    ]
    assert resnets == ["resnet18", "resnet20", "resnet34", "resnet50", "resnet101", "resnet152"]
    assert names.index("highway10") < names.index("highway10-width16") < names.index("highway19")


def test_patterns() -> None:
    assert skipkb.list_models("highway1?") == ["highway10", "highway19"]
    assert skipkb.list_models("HIGHWAY10*") == ["highway10", "highway10-width16"]
    assert skipkb.list_models("highway1[!0]") == ["highway19"]
    assert skipkb.list_models("resnet") == []
    assert set(skipkb.list_models("*resnet*")) < set(skipkb.list_models())


def test_every_model_has_its_builder() -> None:
    rows = query("SELECT name, build FROM variant")
    assert len(rows) == len(skipkb.list_models()) > 10
    for name, build in rows:
        assert callable(resolve(build)), name


def test_a_model_is_what_its_entry_says() -> None:
    import torch

    torch.set_num_threads(1)
    for name in ("highway10", "highway10-width16"):  # one builder, told apart by the entry's arguments
        model = skipkb.create_model(name)
        (parameters,) = query("SELECT parameters FROM variant WHERE name = ?", [name])[0]
        assert sum(parameter.numel() for parameter in model.parameters()) == parameters
    with torch.device("meta"):
        assert skipkb.create_model("resnet20", num_classes=7)(torch.empty(2, 3, 32, 32)).shape == (2, 7)


def test_own_arguments_go_before_those_of_the_entry() -> None:
    import torch

    with torch.device("meta"):
        wide = skipkb.create_model("highway10-width16", width=32)
        assert {tuple(p.shape) for p in wide.parameters()} == {
            tuple(p.shape) for p in skipkb.create_model("highway10").parameters()
        }


def test_a_wrong_argument_is_a_type_error() -> None:
    with pytest.raises(TypeError, match="num_clases"):
        skipkb.create_model("resnet20", num_clases=10)


@pytest.mark.parametrize(
    ("name", "near"),
    [("resnet5O", "resnet50"), ("ResNet50", "resnet50"), ("highway-10", "highway10"), ("SwinIR", "swinir_")],
)
def test_an_unknown_model_is_answered_with_the_nearest(name: str, near: str) -> None:
    with pytest.raises(skipkb.UnknownNameError, match=f"no model is named '{name}'; did you mean ") as caught:
        skipkb.create_model(name)
    assert any(suggestion.startswith(near) for suggestion in caught.value.suggestions)
    assert set(caught.value.suggestions) <= set(skipkb.list_models())


def test_the_name_of_a_method_is_answered_with_its_models() -> None:
    with pytest.raises(skipkb.UnknownNameError, match="did you mean 'resnet18' or 'resnet20' or 'resnet34'"):
        skipkb.create_model("ResNet")
    with pytest.raises(skipkb.UnknownNameError, match="did you mean 'unet'"):
        skipkb.create_model("U-Net")


def test_nothing_near() -> None:
    with pytest.raises(skipkb.UnknownNameError) as caught:
        skipkb.create_model("zzzzzz")
    assert str(caught.value) == "no model is named 'zzzzzz'"


def test_import_paths() -> None:
    assert resolve("json:dumps") is __import__("json").dumps
    for path, message in [
        ("json", "which has the form package.module:name"),
        ("json:", "which has the form package.module:name"),
        ("skipkb.no.such:thing", "there is no module 'skipkb.no'"),
        ("json:dumsp", "module 'json' has no 'dumsp'; did you mean 'dump'"),
    ]:
        with pytest.raises(ImportPathError, match=message):
            resolve(path)


def test_modules_are_imported_off_the_meta_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """Constants that a module makes while it is imported have values, also where the model is built without any."""
    devices = []

    def watched(path: str) -> object:
        devices.append(torch.empty(0).device.type)
        return resolve(path)

    monkeypatch.setattr(factory, "resolve", watched)
    with torch.device("meta"):
        model = skipkb.create_model("resnet18")
    assert devices == ["cpu"]
    assert model.fc.weight.is_meta
