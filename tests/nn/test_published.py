"""A published builder stands for one configuration: its numbers cannot be changed, the free ones can."""

from __future__ import annotations

import inspect

import pytest

from skipkb.nn.published import published


def network(*, depth: int, width: int = 8, drop: float = 0.0, num_classes: int = 10, in_channels: int = 3) -> object:
    return {"depth": depth, "width": width, "drop": drop, "num_classes": num_classes, "in_channels": in_channels}


small = published(network, depth=18, num_classes=1000, free=["drop"])


def test_numbers_are_given_and_defaults_can_be_changed() -> None:
    assert small() == {"depth": 18, "width": 8, "drop": 0.0, "num_classes": 1000, "in_channels": 3}
    assert small(num_classes=5, in_channels=1, drop=0.5) == network(depth=18, drop=0.5, num_classes=5, in_channels=1)
    assert small()["num_classes"] == 1000, "one call leaves nothing behind for the next"  # type: ignore[index]


@pytest.mark.parametrize("wrong", [{"depth": 34}, {"width": 8}, {"num_clases": 5}])
def test_what_is_fixed_or_misspelt_is_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(TypeError, match=f"unexpected keyword argument '{next(iter(wrong))}'"):
        small(**wrong)
    with pytest.raises(TypeError):
        small(1000)


def test_its_signature_tells_what_it_takes() -> None:
    parameters = inspect.signature(small).parameters
    assert {name: parameter.default for name, parameter in parameters.items()} == {
        "drop": 0.0,
        "num_classes": 1000,
        "in_channels": 3,
    }


def test_one_builder_of_another() -> None:
    assert published(small, drop=0.25)(num_classes=2) == network(depth=18, drop=0.25, num_classes=2)
