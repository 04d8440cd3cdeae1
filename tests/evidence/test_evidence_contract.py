"""The contract: a good entry holds all of it, and each kind of mistake fails exactly its own check."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from skipkb.catalog.entry import Entry
from skipkb.catalog.imports import ImportPathError, resolve
from skipkb.evidence import contract, counts, golden, meta, training
from skipkb.evidence.checks import CONTRACT, EQUAL
from skipkb.evidence.contract import perform
from skipkb.evidence.records import Input, Names, Record
from skipkb.evidence.results import Check
from skipkb.evidence.subject import SEEDS, Subject
from skipkb.evidence.training import Training
from skipkb.skips import SkipGraph

Toy = Callable[..., Entry]


def check_all(entry: Entry, tmp_path: Path) -> dict[str, Check]:
    """All checks, with up-to-date counts if the entry can be counted at all."""
    subject = Subject(entry, evidence=tmp_path)
    try:
        commit(subject, tmp_path)
    except Exception:
        subject = Subject(entry, evidence=tmp_path, record=True)
    return dict(perform(subject))


def commit(subject: Subject, directory: Path) -> Path:
    """Write the counted evidence as a recording run does; returns the file of counts."""
    counts.write_graphs(subject.entry.key, subject.drawn(), directory)
    return counts.write_counts(subject.counts, directory)


def failed(checks: dict[str, Check]) -> set[str]:
    return {name for name, check in checks.items() if not check.ok}


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def test_a_good_entry_passes_every_check_with_a_number(toy: Toy, tmp_path: Path) -> None:
    seen = []
    entry = toy("Good")
    commit(Subject(entry), tmp_path)
    checks = dict(perform(Subject(entry, evidence=tmp_path), on_start=seen.append))
    assert failed(checks) == set(), checks
    assert list(checks) == seen == [item.name for item in CONTRACT if item.only_on != "cuda"]
    assert all(check.value is not None and check.limit is not None and check.unit for check in checks.values())
    assert checks["builds"].value == 1
    assert 0 < checks["loss falls"].value < 0.9  # type: ignore[operator]
    assert checks["forward"].detail == "[4, 3, 16, 16] -> [4, 4]"


@pytest.mark.parametrize(
    ("name", "variant", "smoke", "check", "detail"),
    [
        ("Good", {"parameters": 2835}, {}, "parameters", "found 2,836, declared 2,835"),
        ("Good", {"macs": 2801727}, {}, "macs", "found 2,801,728, declared 2,801,727"),
        ("Good", {"output": [1, 5]}, {}, "output shape", "found [1, 4], declared [1, 5]"),
        ("Good", {"skips": {"add": 2, "identity": 1}}, {}, "skips", "good-full add: found 1, declared 2"),
        ("Good", {"skips": {}}, {}, "skips", "good-full identity: found 1, declared 0"),
        ("Random", {}, {}, "deterministic", ""),
        ("BatchLeak", {}, {}, "batch independent", ""),
        ("NotSaved", {}, {}, "state dict", ""),
        ("Bf16Overflow", {}, {}, "bf16 autocast", ""),
        ("Dead", {"parameters": 2842}, {}, "gradient", "never reached: unused.weight, unused.bias"),
        ("Frozen", {}, {}, "loss falls", "in 8 steps"),
        ("DataDependent", {}, {}, "export", "toy_models.py:"),
        ("Good", {}, {"not_exportable": "a loop"}, "export", "remove smoke.not_exportable (a loop)"),
    ],
)
def test_one_mistake_fails_one_check(
    toy: Toy, tmp_path: Path, name: str, variant: dict[str, Any], smoke: dict[str, Any], check: str, detail: str
) -> None:
    checks = check_all(toy(name, variant=variant, smoke=smoke), tmp_path)
    assert failed(checks) == {check}, {name: checks[name] for name in failed(checks)}
    assert detail in checks[check].detail


@pytest.mark.parametrize(
    ("name", "smoke"),
    [
        ("ZeroStart", {}),
        ("TwoOutputs", {"objective": "toy_models:dict_objective"}),
        ("DataDependent", {"not_exportable": "branches on the sum of the picture"}),
    ],
)
def test_what_only_looks_like_a_mistake_passes(toy: Toy, tmp_path: Path, name: str, smoke: dict[str, Any]) -> None:
    declared = {
        "ZeroStart": {"parameters": 2837},
        "TwoOutputs": {"output": {"logits": [1, 4], "grid": [3]}},
    }
    checks = check_all(toy(name, variant=declared.get(name), smoke=smoke), tmp_path)
    assert failed(checks) == set(), checks


@pytest.mark.parametrize(
    ("name", "check", "detail"),
    [
        ("NotBuilt", "builds", "RuntimeError: this width was never tried (toy_models.py:"),
        ("HeavyBuilder", "builds", "puts 'head.bias' on cpu by itself"),
        ("NotFinite", "forward", ""),
        ("WrongShape", "forward", "has shape [4, 4, 1]; the classification batch asks for [4, classes]"),
    ],
)
def test_what_depends_on_a_failed_check_is_not_tried(
    toy: Toy, tmp_path: Path, name: str, check: str, detail: str
) -> None:
    checks = check_all(toy(name), tmp_path)
    dependent = {item.name for item in CONTRACT if item.needs == check and item.only_on != "cuda"}
    assert failed(checks) == {check, *dependent}
    assert detail in checks[check].detail
    assert {checks[name].detail for name in dependent} == {f"not run, because {check!r} failed"}


def test_a_loss_that_is_not_finite_fails_and_stays_json(toy: Toy, tmp_path: Path) -> None:
    checks = check_all(toy("Good", smoke={"learning_rate": 1e30}), tmp_path)
    assert failed(checks) == {"loss falls"}
    assert checks["loss falls"].value is None
    assert checks["loss falls"].detail.startswith("the number is nan")


@pytest.mark.parametrize(
    ("damage", "detail"),
    [
        (None, "there is no file of counts"),
        ('"parameters": 2836', "good-full parameters: 2835 is now 2836"),
        ("{", "no JSON"),
    ],
)
def test_stale_counts_fail_with_the_command_that_refreshes_them(
    toy: Toy, tmp_path: Path, damage: str | None, detail: str
) -> None:
    entry = toy("Good")
    if damage:
        file = commit(Subject(entry), tmp_path)
        replacement = "" if damage == "{" else '"parameters": 2835'
        text = file.read_text()
        assert damage in text
        file.write_text(text.replace(damage, replacement))
    checks = dict(perform(Subject(entry, evidence=tmp_path)))
    assert failed(checks) == {"counted evidence"}
    assert detail in checks["counted evidence"].detail
    assert "`skipkb smoke good --record`" in checks["counted evidence"].detail


def test_counts_are_the_same_bytes_each_time_and_another_torch_is_no_difference(toy: Toy, tmp_path: Path) -> None:
    entry = toy("Good")
    found = Subject(entry).counts
    first = counts.write_counts(found, tmp_path).read_bytes()
    assert counts.write_counts(Subject(entry).counts, tmp_path).read_bytes() == first
    assert [file.name for file in (tmp_path / "counts").iterdir()] == ["good.json"]
    committed = counts.read_counts("good", tmp_path)
    assert committed is not None
    assert counts.differences(found, committed | {"torch": "2.6.0"}) == []
    assert committed["variants"]["good-full"] == {
        "parameters": 2836,
        "buffers": 1,
        "macs": 2801728,
        "input": [1, 3, 32, 32],
        "output": [1, 4],
        "modules": {"Conv2d": 2, "Linear": 1},
        "skips": {"add": 1, "identity": 1},
    }


def test_full_size_networks_never_get_memory(toy: Toy) -> None:
    """A linear head of 40 GB of weights is counted in a moment."""
    model = meta.build(toy("Good", variant={"kwargs": {"width": 10**5, "classes": 10**5}}).variants[0])
    assert model.head.weight.is_meta
    assert meta.parameters(model.head) == 10**10 + 10**5


def test_differences_are_judged_per_tensor_and_never_hide_a_nan() -> None:
    small, large = torch.tensor([1e-6]), torch.tensor([1e6])
    assert contract._difference((small, large), (2 * small, large), relative=True) == pytest.approx(1)
    assert contract._difference(small, torch.tensor([float("nan")])) != 0
    with pytest.raises(ValueError, match=r"shape \[1\] once and \[2\]"):
        contract._difference(small, torch.ones(2))


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("toy_models", "not an import path"),
        ("toy_model:Good", "there is no module 'toy_model'"),
        ("toy_models.inner:Good", "there is no module 'toy_models.inner'"),
        ("toy_models:Goood", "has no 'Goood'; did you mean 'Good'"),
    ],
)
def test_an_import_path_that_leads_nowhere_says_so(path: str, message: str) -> None:
    with pytest.raises(ImportPathError, match=message):
        resolve(path)


def test_a_missing_dependency_is_not_taken_for_a_missing_module(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "needs_more.py").write_text("import no_such_package\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(ModuleNotFoundError, match="no_such_package"):
        resolve("needs_more:anything")


def test_reading_evidence_loads_no_torch() -> None:
    modules = (
        "evidence, evidence.recorded, evidence.key, evidence.counts, evidence.runner, evidence.report, evidence.process"
    )
    imports = "; ".join(f"import skipkb.{module}" for module in modules.split(", "))
    code = f"import sys; {imports}; from skipkb.evidence import run; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[2])


def test_a_stale_skip_graph_fails(toy: Toy, tmp_path: Path) -> None:
    entry = toy("Good")
    commit(Subject(entry), tmp_path)
    file = counts.graphs_file("good", tmp_path)
    assert counts.read_graphs("good", tmp_path) == Subject(entry).drawn()
    file.write_text(file.read_text().replace("stem", "stern"))
    checks = dict(perform(Subject(entry, evidence=tmp_path)))
    assert failed(checks) == {"counted evidence"}
    assert "the skip graph of good-full is not the one found" in checks["counted evidence"].detail


def test_captures_that_disagree_fail(toy: Toy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Plain(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.relu()

    def blind(model: torch.nn.Module, x: tuple[torch.Tensor, ...], capture: str = "function") -> SkipGraph:
        return trace(Plain() if capture == "dispatch" else model, x)

    trace = meta.trace
    monkeypatch.setattr(meta, "trace", blind)
    entry = toy("Good")
    commit(Subject(entry), tmp_path)
    checks = dict(perform(Subject(entry, evidence=tmp_path)))
    assert failed(checks) == {"captures agree"}
    assert "good-full add: 1 above, 0 below" in checks["captures agree"].detail


# ------------------------------------------------------------------------------------------ training


@pytest.mark.parametrize("first_last", [(2.0, 0.5, 0.25), (-1.0, -2.0, 0.0), (-1.0, -0.5, 1.5), (0.0, 0.0, None)])
def test_the_fall_of_a_loss_is_a_ratio_that_falls(first_last: tuple[float, float, float | None]) -> None:
    first, last, ratio = first_last
    found = Training("seed 0", first, last, [], 1).ratio
    assert found == (pytest.approx(ratio) if ratio is not None else float("inf"))


def test_the_worst_training_is_the_one_that_counts(toy: Toy, monkeypatch: pytest.MonkeyPatch) -> None:
    made = {0: (2.0, 0.2, []), 1: (2.0, 1.2, []), 2: (2.0, 0.4, ["head.bias"])}
    asked = []

    def train(subject: Subject, seed: int) -> Training:
        asked.append(seed)
        first, last, unreached = made[seed]
        return Training(f"seed {seed}", first, last, unreached, 6)

    monkeypatch.setattr("skipkb.evidence.subject.train", train)
    subject = Subject(toy("Good"))
    loss, reached = contract.loss_falls(subject), contract.gradient(subject)
    assert tuple(asked) == SEEDS, "trained once for both checks"
    assert (loss.value, loss.limit, loss.ok) == (0.6, 0.9, True)
    assert loss.detail == "2 -> 1.2 in 8 steps, the worst of 3 trainings (seed 1)"
    assert (reached.value, reached.ok) == (1, False)
    assert reached.detail.startswith("never reached: head.bias (seed 2)")


@pytest.mark.parametrize(("last", "ok"), [(0.899, True), (0.9, False), (0.95, False), (float("nan"), False)])
def test_the_limit_of_the_loss(toy: Toy, monkeypatch: pytest.MonkeyPatch, last: float, ok: bool) -> None:
    monkeypatch.setattr("skipkb.evidence.subject.train", lambda subject, seed: Training("", 1.0, last, [], 1))
    assert contract.loss_falls(Subject(toy("Good"))).ok is ok


def test_one_that_is_not_a_number_is_the_worst(toy: Toy, monkeypatch: pytest.MonkeyPatch) -> None:
    losses = {0: 0.5, 1: float("nan"), 2: 0.8}
    monkeypatch.setattr("skipkb.evidence.subject.train", lambda subject, seed: Training("", 1.0, losses[seed], [], 1))
    assert not contract.loss_falls(Subject(toy("Good"))).ok


def test_a_gradient_of_zero_has_not_reached() -> None:
    parameter = torch.nn.Parameter(torch.zeros(3))
    assert not training._reached(parameter)
    parameter.grad = torch.zeros(3)
    assert not training._reached(parameter)
    parameter.grad = torch.tensor([0.0, 0.0, -1e-20])
    assert training._reached(parameter)


def test_a_parameter_that_gets_only_zeros_fails(toy: Toy, tmp_path: Path) -> None:
    checks = check_all(toy("Silenced", variant={"parameters": 2837}), tmp_path)
    assert failed(checks) == {"gradient"}
    assert checks["gradient"].detail.startswith("never reached: gain (seed 0)")


def test_parameters_that_are_trained_only_some_of_the_time_are_named_with_the_reason(toy: Toy, tmp_path: Path) -> None:
    waits = {"names": "^gain$", "reason": "only the best is trained"}
    checks = check_all(toy("Silenced", variant={"parameters": 2837}, smoke={"unreached": waits}), tmp_path)
    assert failed(checks) == set()
    assert checks["gradient"].detail.endswith("; 1 wait in some training: only the best is trained")
    other = toy("Silenced", variant={"parameters": 2837}, smoke={"unreached": waits | {"names": "head"}})
    assert failed(check_all(other, tmp_path)) == {"gradient"}
    done = contract.perform(Subject(toy("Good", smoke={"unreached": waits}), evidence=tmp_path))
    assert "so remove smoke.unreached" in dict(done)["gradient"].detail
    with pytest.raises(ValueError, match="is not a regular expression"):
        toy("Good", smoke={"unreached": waits | {"names": "("}})


def test_everywhere_is_each_kernel_each_number_of_threads_and_each_seed(toy: Toy) -> None:
    found = Subject(toy("Good"), everywhere=True).trainings
    assert [one.where for one in found[:3]] == ["seed 0", "seed 1", "seed 2"]
    settings = [one.where for one in found[3:]]
    assert len(set(settings)) == 12
    assert settings[0] == "seed 0, default kernels, 1 thread"
    assert {where.split(", ")[2] for where in settings} == {"1 thread", "2 threads"}
    for one in found[3:]:
        assert one.ratio == pytest.approx(found[int(one.where[5])].ratio, rel=0.05), "the same network, other kernels"
    assert len(Subject(toy("Good")).trainings) == 3


def test_a_failure_elsewhere_is_told(toy: Toy) -> None:
    with pytest.raises(RuntimeError, match=r"training with default kernels failed: .*has no 'nowhere'"):
        training.everywhere(Subject(toy("Good", smoke={"objective": "toy_models:nowhere"})), (0,))


# ------------------------------------------------------------------------- equal to the authors' code


def record_of(entry: Entry, *, variant: str, **changes: Any) -> Record:
    """What a release would have given that computes the same as the toy."""
    model = resolve(entry.variants[0].build)(**entry.variants[0].kwargs)
    names = Names(n=len(model.state_dict()), sha256=golden.names_sha256(model.state_dict()))
    given = Input(shapes=[[2, 3, 16, 16]], seed=0, scale=1.0)
    golden.fill(model)
    with torch.no_grad():
        outputs = golden.summary(model(*golden.inputs(given)))
    record = Record(
        key=entry.key, variant=variant, configuration="toy", whose="authors", repository="owner/name", commit="a" * 40,
        file="toy.py", build="Toy()", params=2836, names=names, input=given, mode="eval", fill="name", outputs=outputs,
    )  # fmt: skip
    return record.model_copy(update=changes)


def test_equal_outputs_are_marked_with_repository_and_commit(toy: Toy, monkeypatch: pytest.MonkeyPatch) -> None:
    entry = toy("Good")
    monkeypatch.setattr(contract, "records_of", lambda key: [record_of(entry, variant=f"{key}-full")])
    subject = Subject(entry)
    check = contract.equals_the_authors_code(subject)
    assert (check.value, check.ok) == (0, True)
    assert check.detail.endswith("from owner/name@aaaaaaaaaaaa")
    (equal,) = subject.equal
    assert (equal.variant, equal.repository, equal.commit) == ("good-full", "owner/name", "a" * 40)
    assert equal.difference <= 1e-6


def test_other_outputs_fail_and_are_not_marked(toy: Toy, monkeypatch: pytest.MonkeyPatch) -> None:
    entry = toy("Good")
    right = record_of(entry, variant="good-full")
    shifted = right.outputs[0].model_copy(update={"mean": right.outputs[0].mean + 1e-3})
    for wrong in ({"outputs": [shifted]}, {"params": 2835}, {"names": Names(n=6, sha256="0" * 64)}):
        monkeypatch.setattr(contract, "records_of", lambda key, wrong=wrong: [right, right.model_copy(update=wrong)])
        subject = Subject(entry)
        check = contract.equals_the_authors_code(subject)
        assert (check.value, check.ok) == (1, False), wrong
        assert len(subject.equal) == 1


def test_a_record_of_another_variant_is_an_error_and_none_at_all_is_said(
    toy: Toy, monkeypatch: pytest.MonkeyPatch
) -> None:
    entry = toy("Good")
    assert contract.equals_the_authors_code(Subject(entry)).detail == "no record of released code"
    monkeypatch.setattr(contract, "records_of", lambda key: [record_of(entry, variant="good-half")])
    checks = dict(perform(Subject(entry, record=True)))
    assert not checks[EQUAL].ok
    assert "not a variant of this entry" in checks[EQUAL].detail


def test_the_largest_difference_is_the_one_that_counts() -> None:
    one = torch.zeros(1000)
    one[0] = 1.0
    other = one.clone()
    other[500] = 0.5
    assert contract._difference(one, other) == 0.5
