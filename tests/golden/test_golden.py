"""Our networks compute what the released code computes, and the comparison sees where one does not."""

from __future__ import annotations

import functools
import json
import re
import zlib
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import skipkb
from skipkb.catalog.entry import Entry
from skipkb.evidence import golden
from skipkb.evidence.records import Input, Names, Record, line, read_records, records_dir, records_of
from skipkb.models.classification import cbam

RECORDS = read_records()


def _name(record: Record) -> str:
    return re.sub(r"\W+", "-", record.title)


@functools.cache
def _entry(key: str) -> Entry:
    return skipkb.get(key)  # raises for a key that the catalogue does not have


@pytest.mark.parametrize("record", RECORDS, ids=_name)
def test_our_network_computes_what_the_released_one_did(record: Record) -> None:
    variants = {variant.name: variant for variant in _entry(record.key).variants}
    if record.variant is None:
        named = [name for name in variants if name in re.split(r"[^\w-]+", record.configuration)]
        alike = [name for name, variant in variants.items() if variant.parameters == record.params]
        assert not named + alike, f"{record.title} looks like {named + alike}; put its name into the record"
        pytest.skip(f"no model of {record.title} here yet")
    assert record.variant in variants, f"{record.variant} is not a variant of {record.key}"
    found = golden.compare(record, skipkb.create_model(record.variant, **record.overrides))
    assert found.names_equal, "names or shapes of the state dict are not those of the released code"
    assert found.parameters_equal, "the number of parameters is not that of the released code"
    assert found.difference <= found.tolerance
    assert found.agrees


def test_every_file_of_records_is_read() -> None:
    lines = [text for file in records_dir().glob("*.jsonl") for text in file.read_text().splitlines()]
    assert sorted(lines) == sorted(line(record) for record in RECORDS)
    assert len(set(map(_name, RECORDS))) == len(RECORDS)
    assert {record.key for record in RECORDS if record.variant} == {r.key for k in _keys() for r in records_of(k)}
    assert len(RECORDS) > 100


def _keys() -> set[str]:
    return {record.key for record in RECORDS}


def test_a_line_that_is_not_a_record_is_an_error_with_its_place(tmp_path: Path) -> None:
    good = json.loads(line(RECORDS[0]))
    for wrong in ({"whose": "nobody"}, {"surprise": 1}, {"outputs": []}, {"overrides": {"depth": 1}, "variant": None}):
        (tmp_path / "some.jsonl").write_text(json.dumps(good) + "\n" + json.dumps(good | wrong) + "\n")
        with pytest.raises(ValueError, match=r"(?s)some\.jsonl:2: .*" + next(iter(wrong))):
            read_records(tmp_path)


# ------------------------------------------------------------------------- the rule sees what is wrong


def _record_of(model: nn.Module, **changes: object) -> Record:
    """What this network gives, as a record."""
    golden.fill(model)
    spec = Input(shapes=[[1, 3, 96, 96]], seed=0, scale=1.0)
    with torch.no_grad():
        outputs = golden.summary(model.eval()(*golden.inputs(spec)))
    state = model.state_dict()
    return RECORDS[0].model_copy(
        update={
            "params": sum(p.numel() for p in model.parameters()),
            "names": Names(n=len(state), sha256=golden.names_sha256(state)),
            "input": spec,
            "outputs": outputs,
            **changes,
        }
    )


@pytest.fixture(scope="module")
def gated() -> Record:
    """A record of CBAM's ResNet-18, which has a concatenation, linear layers with biases, and sums."""
    return _record_of(cbam.cbam_resnet18())


def test_the_same_network_agrees(gated: Record) -> None:
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    model = cbam.cbam_resnet18()
    after = torch.random.get_rng_state()
    assert golden.compare(gated, model).agrees
    assert not torch.equal(before, after)
    assert torch.equal(torch.random.get_rng_state(), after), "the caller's random numbers are left alone"


def test_two_swapped_inputs_of_a_concatenation_are_seen(gated: Record, monkeypatch: pytest.MonkeyPatch) -> None:
    join = torch.cat
    monkeypatch.setattr(torch, "cat", lambda tensors, dim=0: join(list(reversed(tensors)), dim))
    found = golden.compare(gated, cbam.cbam_resnet18())
    assert found.names_equal
    assert found.parameters_equal
    assert found.difference > 100 * found.tolerance
    assert not found.agrees


def test_a_bias_that_is_gone_is_seen(gated: Record) -> None:
    model = cbam.cbam_resnet18()
    _gate(model).mlp[1].bias = None
    found = golden.compare(gated, model)
    assert not found.names_equal
    assert not found.parameters_equal
    assert not found.agrees


def test_a_bias_that_is_not_added_is_seen(gated: Record, monkeypatch: pytest.MonkeyPatch) -> None:
    model = cbam.cbam_resnet18()
    layer = _gate(model).mlp[3]
    monkeypatch.setattr(layer, "forward", lambda x: x @ layer.weight.T)
    found = golden.compare(gated, model)
    assert found.names_equal
    assert found.parameters_equal
    assert found.difference > found.tolerance


def test_a_missing_skip_and_another_epsilon_are_seen(gated: Record) -> None:
    for change in ("skip", "epsilon"):
        model = cbam.cbam_resnet18()
        norms = [part for part in model.modules() if isinstance(part, nn.BatchNorm2d)]
        if change == "skip":
            block = next(part for part in model.modules() if isinstance(part, cbam.BasicBlock))
            block.forward = lambda x, block=block: torch.relu(block.cbam(block.bn2(block.conv2(x))))  # type: ignore[method-assign]
        else:
            norms[3].eps = 1e-3
        found = golden.compare(gated, model)
        assert found.names_equal, change
        assert found.difference > found.tolerance, change


def _gate(model: nn.Module) -> cbam.ChannelGate:
    return next(part for part in model.modules() if isinstance(part, cbam.ChannelGate))


def test_what_is_not_a_number_never_agrees(gated: Record) -> None:
    model = cbam.cbam_resnet18()
    model.register_forward_hook(lambda module, x, output: output * float("nan"))
    assert golden.compare(gated, model).difference == float("inf")
    model = cbam.cbam_resnet18()
    model.register_forward_hook(lambda module, x, output: output[:, :10])
    assert golden.compare(gated, model).difference == float("inf")


def test_tolerance_follows_the_record(gated: Record) -> None:
    assert gated.tolerance == 1e-5
    assert gated.model_copy(update={"sensitivity": 2e-7}).tolerance == 1e-5
    assert gated.model_copy(update={"sensitivity": 2e-5}).tolerance == pytest.approx(2e-4)
    assert gated.model_copy(update={"recorded_with": "Flax"}).tolerance == 1e-3


# ---------------------------------------------------------------------------------- the rule itself


class Odd(nn.Module):
    """One tensor of each kind that the rule treats in its own way."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(4)
        self.linear = nn.Linear(4, 3)
        self.gamma = nn.Parameter(torch.zeros(5))
        self.temperature = nn.Parameter(torch.zeros(()))
        self.register_buffer("window", torch.zeros(2, 2, dtype=torch.float64))
        self.register_buffer("index", torch.arange(3))

    def forward(self, x: Tensor) -> dict[str, object]:
        return {"y": self.linear(x), "rest": (x, [self.gamma]), "none": None, "index": self.index}


def test_values_depend_on_name_and_kind() -> None:
    def drawn(name: str, *shape: int) -> Tensor:
        return torch.randn(shape, generator=torch.Generator().manual_seed(zlib.crc32(name.encode())))

    model = Odd()
    golden.fill(model, gain=0.5, restore=["emperature"])
    state = model.state_dict()
    assert torch.equal(state["norm.running_var"], 1 + 0.1 * drawn("norm.running_var", 4).abs())
    assert torch.equal(state["norm.running_mean"], 0.1 * drawn("norm.running_mean", 4))
    assert torch.equal(state["norm.weight"], 1 + 0.1 * drawn("norm.weight", 4))
    assert torch.equal(state["norm.bias"], 0.1 * drawn("norm.bias", 4))
    assert torch.equal(state["linear.weight"], drawn("linear.weight", 3, 4) / 2 * 0.5)
    assert torch.equal(state["gamma"], 1 + 0.1 * drawn("gamma", 5))
    assert torch.equal(state["window"], (drawn("window", 2, 2) / 2**0.5 * 0.5).double())
    assert state["temperature"] == 0
    assert state["index"].tolist() == [0, 1, 2]
    assert state["norm.num_batches_tracked"] == 0
    golden.fill(model, by="order")
    place = list(state).index("norm.bias")
    seeded = torch.randn(4, generator=torch.Generator().manual_seed(place))
    assert torch.equal(model.state_dict()["norm.bias"], 0.1 * seeded)


def test_outputs_are_found_inside_anything_and_sampled_evenly() -> None:
    x = torch.linspace(0, 1, 61).reshape(1, 61)
    found = golden.summary({"a": x, "b": ([x[:, :1]], None), "c": torch.arange(3)})
    assert [output.shape for output in found] == [[1, 61], [1, 1]]
    assert found[0].first == x[0, ::4].double().tolist()
    assert (found[0].mean, found[0].absmax) == (pytest.approx(0.5), 1)
    assert found[0].std == pytest.approx(x.double().std(unbiased=False).item())
    with pytest.raises(ValueError, match="no values"):
        golden.summary(torch.zeros(0, 3))
