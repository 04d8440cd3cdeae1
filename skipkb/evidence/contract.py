"""The contract: what every implemented entry must show, each check with a number and its limit.

The published variants are built and counted at full size on the meta device, without weights; those of which there
is a record of the authors' code get weights by a rule and run. The smoke configuration, small and of the same code,
trains on real pictures. A check that needs another's success is not tried without it.
"""

from __future__ import annotations

import math
import re
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from skipkb.catalog.imports import resolve
from skipkb.evidence import data, golden, meta
from skipkb.evidence.checks import EQUAL, contract
from skipkb.evidence.counts import differences, read_counts, read_graphs, refresh_command
from skipkb.evidence.records import records_of
from skipkb.evidence.results import Check, Equal
from skipkb.evidence.subject import Subject, to_device

BATCH_LIMIT = 1e-5  # float32: another batch size may take another convolution algorithm
EXPORT_LIMIT = 1e-5  # the captured graph may be rearranged
CUDA_LIMIT = 1e-4  # TF32 off
BF16_LIMIT = 0.1  # eight bits of mantissa, through a whole network
LOSS_LIMIT = 0.9  # of the loss before the first step

Relation = Literal["==", "<=", "<", ">="]


# ----------------------------------------------------------------- full size, on the meta device


def builds(subject: Subject) -> Check:
    """Every variant can be built; the number is how many."""
    built = subject.variants
    return _check(len(built), "==", len(subject.entry.variants), "variants", ", ".join(built))


def parameters(subject: Subject) -> Check:
    """Every variant has exactly the declared number of parameters."""
    found = {name: meta.parameters(model) for name, model in subject.variants.items()}
    declared = {variant.name: variant.parameters for variant in subject.entry.variants}
    return _exact(found, declared, "parameters")


def macs(subject: Subject) -> Check:
    """Every variant needs exactly the declared multiply-accumulates for the declared input."""
    found = {name: figures["macs"] for name, figures in subject.counts["variants"].items()}
    declared = {variant.name: variant.macs for variant in subject.entry.variants}
    return _exact(found, declared, "MACs")


def output_shape(subject: Subject) -> Check:
    """Every variant gives the declared output shape; the number is how many do not."""
    found = {name: figures["output"] for name, figures in subject.counts["variants"].items()}
    wrong = [
        f"{variant.name}: found {found[variant.name]}, declared {variant.output}"
        for variant in subject.entry.variants
        if found[variant.name] != variant.output
    ]
    detail = wrong or [f"{v.name}: {v.input} -> {found[v.name]}" for v in subject.entry.variants]
    return _check(len(wrong), "==", 0, "wrong shapes", "; ".join(detail))


def skips(subject: Subject) -> Check:
    """Every variant has exactly the declared skip connections; the number is how many counts are not as declared."""
    wrong = []
    for variant in subject.entry.variants:
        found = subject.graphs[variant.name].counts()
        declared: dict[str, int] = dict(variant.skips.items())
        wrong += [
            f"{variant.name} {name}: found {found.get(name, 0)}, declared {declared.get(name, 0)}"
            for name in sorted({*found, *declared})
            if found.get(name, 0) != declared.get(name, 0)
        ]
    detail = wrong or [f"{name} {dict(graph.counts())}" for name, graph in subject.graphs.items()]
    return _check(len(wrong), "==", 0, "counts off", "; ".join(detail))


def captures_agree(subject: Subject) -> Check:
    """Calls of the Python API and aten operators show the same skips; the number is how many counts differ."""
    wrong = []
    for variant in subject.entry.variants:
        above = subject.graphs[variant.name].counts()
        below = meta.trace(subject.variants[variant.name], subject.blank(variant), capture="dispatch").counts()
        wrong += [
            f"{variant.name} {name}: {above.get(name, 0)} above, {below.get(name, 0)} below"
            for name in sorted({*above, *below})
            if above.get(name, 0) != below.get(name, 0)
        ]
    return _check(len(wrong), "==", 0, "counts differ", "; ".join(wrong) or "function and dispatch level agree")


def counted_evidence(subject: Subject) -> Check:
    """The committed counts are those of today's source; the number is how many figures are not."""
    key = subject.entry.key
    if subject.record:
        _ = subject.counts
        return _check(0, "==", 0, "differences", "recorded by this run")
    committed = read_counts(key, subject.evidence)
    wrong = ["there is no file of counts"] if committed is None else differences(subject.counts, committed)
    now, then = subject.drawn(), read_graphs(key, subject.evidence)
    wrong += [f"the skip graph of {v} is not the one found" for v in sorted({*now, *then}) if now.get(v) != then.get(v)]
    detail = f"{'; '.join(wrong)}; `{refresh_command(key)}` refreshes it" if wrong else "current"
    return _check(len(wrong), "==", 0, "differences", detail)


@torch.no_grad()
def equals_the_authors_code(subject: Subject) -> Check:
    """The outputs are those recorded from the released networks; the number is how many records they differ from.

    Weights and inputs are made by a rule, see :mod:`skipkb.evidence.golden`. An entry without a record passes with
    the words that it has none.
    """
    variants = {variant.name: variant for variant in subject.entry.variants}
    details, off = [], 0
    for record in records_of(subject.entry.key):
        variant = variants.get(record.variant or "")
        if variant is None:
            raise ValueError(f"there is a record of {record.variant!r}, which is not a variant of this entry")
        found = golden.compare(record, resolve(variant.build)(**(variant.kwargs | record.overrides)))
        details.append(f"{variant.name}: {found.difference:.0e} from {record.repository}@{record.commit[:12]}")
        if found.agrees:
            subject.equal.append(
                Equal(
                    variant=variant.name,
                    repository=record.repository,
                    commit=record.commit,
                    whose=record.whose,
                    difference=found.difference,
                )
            )
        else:
            off += 1
            details[-1] += f" (names equal: {found.names_equal}, parameters equal: {found.parameters_equal})"
    return _check(off, "==", 0, "records off", "; ".join(details) or "no record of released code")


# -------------------------------------------------------------- the smoke configuration, really run


@torch.no_grad()
def forward(subject: Subject) -> Check:
    """Real photographs go through: the right shape comes out, and no number that is not finite."""
    inputs = subject.inputs()
    output = subject.build()(*inputs)
    if problem := _shape_problem(output, subject):
        return _check(None, "==", 0, "not finite", problem)
    bad = sum(int((~leaf.isfinite()).sum()) for leaf in _leaves(output).values())
    shape = meta.shapes(output)
    return _check(bad, "==", 0, "not finite", f"{', '.join(str(list(x.shape)) for x in inputs)} -> {shape}")


@torch.no_grad()
def deterministic(subject: Subject) -> Check:
    """Two passes in eval mode give the same output, bit for bit."""
    model = subject.build()
    first, second = model(*subject.inputs()), model(*subject.inputs())
    return _check(_difference(first, second), "<=", 0.0, "largest difference")


@torch.no_grad()
def batch_independent(subject: Subject) -> Check:
    """In eval mode a picture gives the same output alone as beside another one."""
    model = subject.build()
    pair = subject.inputs(2)
    alone, together = _leaves(_run(model, tuple(x[:1] for x in pair))), _leaves(_run(model, pair))
    # What has no batch axis (anchors, for instance) has one size for both and is compared whole.
    beside = {
        name: leaf[: len(alone[name])] if leaf.dim() and name in alone else leaf for name, leaf in together.items()
    }
    return _check(_difference(alone, beside, relative=True), "<=", BATCH_LIMIT, "relative difference")


@torch.no_grad()
def state_dict(subject: Subject) -> Check:
    """Saved with safetensors and loaded into a network with other weights, it is the same network."""
    from safetensors.torch import load_model, save_model

    model, other = subject.build(seed=0), subject.build(seed=1)
    with tempfile.TemporaryDirectory() as directory:
        file = Path(directory) / "model.safetensors"
        save_model(model, str(file))
        load_model(other, str(file), strict=True)
        size = file.stat().st_size
    difference = max(
        _difference(model.state_dict(), other.state_dict()),
        _difference(_run(model, subject.inputs()), _run(other, subject.inputs())),
    )
    detail = f"{len(model.state_dict())} tensors, {size:,} bytes"
    return _check(difference, "<=", 0.0, "largest difference", detail)


@torch.no_grad()
def bf16_autocast(subject: Subject) -> Check:
    """Under bfloat16 autocast the output stays finite and close to float32."""
    model = subject.build()
    exact = _run(model, subject.inputs())
    with torch.autocast(subject.device.type, dtype=torch.bfloat16):
        rough = _run(model, subject.inputs())
    return _check(_difference(exact, rough, relative=True), "<=", BF16_LIMIT, "relative difference")


def gradient(subject: Subject) -> Check:
    """The gradient of the loss reaches every parameter in training; the number is how many it never reached."""
    allowed = subject.smoke.unreached
    waiting = [name for training in subject.trainings for name in training.unreached]
    expected = {name for name in waiting if allowed and re.search(allowed.names, name)}
    if allowed and not expected:
        raise ValueError(f"all parameters are reached, so remove smoke.unreached ({allowed.reason})")
    missed = [(t, [name for name in t.unreached if name not in expected]) for t in subject.trainings]
    worst, names = max(missed, key=lambda pair: len(pair[1]))
    never = f"never reached: {_some(names)} ({worst.where}); " if names else ""
    detail = f"{never}{worst.parameters} parameter tensors, {subject.smoke.steps} steps"
    if allowed:
        detail += f"; {len(expected)} wait in some training: {allowed.reason}"
    return _check(len(names), "==", 0, "unreached", detail)


def loss_falls(subject: Subject) -> Check:
    """Training on one fixed real batch lowers the loss; the number is the last over the first in the worst case."""
    worst = max(subject.trainings, key=lambda training: training.ratio if math.isfinite(training.ratio) else math.inf)
    detail = f"{worst.first:.4g} -> {worst.last:.4g} in {subject.smoke.steps} steps"
    if len(subject.trainings) > 1:
        detail += f", the worst of {len(subject.trainings)} trainings ({worst.where})"
    return _check(worst.ratio, "<", LOSS_LIMIT, "of the first loss", detail)


@torch.no_grad()
def exports(subject: Subject) -> Check:
    """torch.export captures the network, or fails as the entry says it must."""
    model, inputs = subject.build(), subject.inputs()
    reason = subject.smoke.not_exportable
    try:
        captured = torch.export.export(model, inputs, strict=False).module()
    except Exception as error:  # what export raises is not documented, and many things
        if reason is None:
            raise
        return _check(1, "==", 1, "expected failure", f"{reason} ({type(error).__name__})")
    if reason is not None:
        detail = f"export works now, so remove smoke.not_exportable ({reason})"
        return _check(0, "==", 1, "expected failure", detail)
    difference = _difference(_run(model, inputs), _run(captured, inputs), relative=True)
    return _check(difference, "<=", EXPORT_LIMIT, "relative difference")


@torch.no_grad()
def agrees_with_cpu(subject: Subject) -> Check:
    """The device computes what the CPU computes, with TF32 off."""
    model = subject.build()
    here = model(*subject.inputs())
    there = model.cpu()(*(x.cpu() for x in subject.inputs()))
    difference = _difference(there, to_device(here, torch.device("cpu")), relative=True)
    return _check(difference, "<=", CUDA_LIMIT, "relative difference")


# ------------------------------------------------------------------------------- the whole contract


MEASURES: dict[str, Callable[[Subject], Check]] = {
    "builds": builds,
    "parameters": parameters,
    "macs": macs,
    "output shape": output_shape,
    "skips": skips,
    "captures agree": captures_agree,
    "counted evidence": counted_evidence,
    EQUAL: equals_the_authors_code,
    "forward": forward,
    "deterministic": deterministic,
    "batch independent": batch_independent,
    "state dict": state_dict,
    "bf16 autocast": bf16_autocast,
    "gradient": gradient,
    "loss falls": loss_falls,
    "export": exports,
    "agrees with CPU": agrees_with_cpu,
}
"""The checks of :data:`skipkb.evidence.checks.CONTRACT` by name."""


def perform(subject: Subject, on_start: Callable[[str], None] | None = None) -> Iterator[tuple[str, Check]]:
    """Run the contract and yield each check as it ends; an exception fails its check and no other.

    ``on_start`` is told the name of a check before it begins.
    """
    passed: set[str] = set()
    for item in contract(str(subject.device)):
        if on_start:
            on_start(item.name)
        start = time.perf_counter()
        if item.needs and item.needs not in passed:
            check = _check(None, "==", None, "", f"not run, because {item.needs!r} failed")
        else:
            try:
                check = MEASURES[item.name](subject)
            except Exception as error:  # any mistake of a model file is a failed check
                traceback.print_exc()
                check = _check(None, "==", None, "", _explain(error))
        if check.ok:
            passed.add(item.name)
        yield item.name, check.model_copy(update={"seconds": round(time.perf_counter() - start, 3)})


# --------------------------------------------------------------------------------------- small parts


def _check(value: float | None, relation: Relation, limit: float | None, unit: str, detail: str = "") -> Check:
    """A check that holds if ``value relation limit`` does; what is not finite never holds."""
    if value is not None and not math.isfinite(value):
        detail, value = f"the number is {value}" + (f"; {detail}" if detail else ""), None
    ok = (
        value is not None
        and limit is not None
        and {
            "==": value == limit,
            "<=": value <= limit,
            "<": value < limit,
            ">=": value >= limit,
        }[relation]
    )
    return Check(value=value, relation=relation, limit=limit, unit=unit, ok=ok, detail=detail)


def _exact(found: dict[str, int], declared: dict[str, int], unit: str) -> Check:
    """Figures that must agree to the last digit; the number is the largest difference."""
    wrong = [name for name in declared if found[name] != declared[name]]
    detail = [f"{name}: found {found[name]:,}, declared {declared[name]:,}" for name in wrong]
    detail = detail or [f"{name} {number:,}" for name, number in found.items()]
    largest = max(abs(found[name] - declared[name]) for name in declared)
    return _check(largest, "==", 0, f"{unit} off", "; ".join(detail))


def _run(model: Callable[..., Any], inputs: tuple[Tensor, ...]) -> Any:
    """A pass with fixed random numbers, so that a network that draws some fails one check and not all."""
    torch.manual_seed(0)
    return model(*inputs)


def _leaves(output: Any, name: str = "output") -> dict[str, Tensor]:
    """The tensors inside a tensor, tuple, list or dict, by path."""
    if isinstance(output, Tensor):
        return {name: output}
    if isinstance(output, dict):
        inner = [(f"{name}.{key}", value) for key, value in output.items()]
    elif isinstance(output, tuple | list):
        inner = [(f"{name}[{i}]", value) for i, value in enumerate(output)]
    else:
        raise TypeError(f"{name} is {type(output).__name__}; it is a Tensor, a tuple or a dict of them")
    return {path: leaf for key, value in inner for path, leaf in _leaves(value, key).items()}


def _difference(expected: Any, actual: Any, *, relative: bool = False) -> float:
    """Largest absolute difference over all tensors; relative to the largest magnitude of each if asked."""
    left, right = _leaves(expected), _leaves(actual)
    if left.keys() != right.keys():
        raise ValueError(f"one output has {_some(left)}, the other {_some(right)}")
    largest = 0.0
    for name, a in left.items():
        b = right[name]
        if a.shape != b.shape:
            raise ValueError(f"{name} has shape {list(a.shape)} once and {list(b.shape)} the other time")
        if not a.numel():
            continue
        a, b = a.double(), b.double()
        difference = (a - b).abs().max().item()
        if relative and difference:
            difference /= a.abs().max().item() or 1.0
        if math.isnan(difference):
            return math.nan
        largest = max(largest, difference)
    return largest


def _shape_problem(output: Any, subject: Subject) -> str | None:
    """Whether the output has the shape that the data's target asks for, where that says one."""
    kind = subject.smoke.data
    wanted = data.misfit(kind, output, subject.batch[1])
    return f"the output has shape {list(output.shape)}; the {kind} batch asks for {wanted}" if wanted else None


def _some(names: Any, most: int = 4) -> str:
    """The first few names, and how many more there are."""
    shown = list(names)
    more = f" and {len(shown) - most} more" if len(shown) > most else ""
    return ", ".join(shown[:most]) + more


def _explain(error: BaseException) -> str:
    """An exception in one line, with the place where it was raised outside of torch."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if "site-packages" not in frame.filename] or list(frames)
    place = f" ({Path(own[-1].filename).name}:{own[-1].lineno})" if own else ""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0] if lines else 'no message'}{place}"
