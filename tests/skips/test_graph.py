"""The graph as data: counts, JSON, tables, and graphs for other tools."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
import torch
import torchvision
from torch import nn

from skipkb.skips import Operand, Site, SkipGraph, trace_skips


@pytest.fixture(scope="module")
def densenet() -> SkipGraph:
    with torch.device("meta"):
        model = torchvision.models.densenet121().eval()
    return trace_skips(model, (1, 3, 224, 224))


@pytest.fixture(scope="module")
def shufflenet() -> SkipGraph:
    with torch.device("meta"):
        model = torchvision.models.shufflenet_v2_x1_0().eval()
    return trace_skips(model, (1, 3, 224, 224))


@pytest.fixture(scope="module")
def senet() -> SkipGraph:
    with torch.device("meta"):
        model = torchvision.models.efficientnet_b0().eval()
    return trace_skips(model, (1, 3, 224, 224))


@pytest.mark.parametrize(
    "site",
    [Site("layer1.0", 1, "iadd", 1), Site("", 1, "cat", 3), Site("head", 2, "add", 1), Site("a:b", 4, "aten.add", 12)],
)
def test_address_round_trip(site: Site) -> None:
    assert Site.parse(str(site)) == site
    assert Operand.parse(str(Operand(site, 3))) == Operand(site, 3)


def test_address_refused() -> None:
    with pytest.raises(ValueError, match="not a site: 'layer1'"):
        Site.parse("layer1")


@pytest.mark.parametrize("name", ["densenet", "shufflenet", "senet"])
def test_json_round_trip(name: str, request: pytest.FixtureRequest) -> None:
    graph: SkipGraph = request.getfixturevalue(name)
    text = graph.to_json()
    assert SkipGraph.from_json(text) == graph
    assert SkipGraph.from_json(text).to_json() == text
    json.loads(text)


def test_json_is_small(densenet: SkipGraph) -> None:
    assert sum(len(skip.edges) for skip in densenet.skips) == 535
    assert len(densenet.to_json()) < 40_000


def test_json_of_another_kind_is_refused() -> None:
    with pytest.raises(ValueError, match="not a skip graph"):
        SkipGraph.from_json('{"layers": []}')


def test_reading_a_graph_needs_no_torch(senet: SkipGraph) -> None:
    code = (
        "import sys; from skipkb.skips import SkipGraph; g = SkipGraph.from_json(sys.stdin.read()); str(g); g.to_dot();"
        "print(g.counts()['gate'], 'torch' in sys.modules)"
    )
    out = subprocess.run(
        [sys.executable, "-c", code], input=senet.to_json(), capture_output=True, text=True, check=True
    )
    assert out.stdout.split() == ["16", "False"]


def test_counts(shufflenet: SkipGraph, senet: SkipGraph) -> None:
    assert shufflenet.counts() == {}
    assert shufflenet.counts()["concat"] == 0
    assert shufflenet.counts(partial=True)["concat"] == 13
    assert list(senet.counts()) == ["add", "gate", "identity", "long"]


def test_line(senet: SkipGraph, densenet: SkipGraph) -> None:
    """Positions, steps and names fit together."""
    for graph in (senet, densenet):
        steps = [layer.step for layer in graph.layers]
        assert steps == sorted(steps)
        for skip in (*graph.skips, *graph.gates):
            assert skip.end == sum(layer.step <= skip.step for layer in graph.layers)
            for edge in skip.edges:
                assert edge.start == sum(layer.step <= edge.step for layer in graph.layers)
                assert edge.start < skip.end
                assert edge.layers <= skip.end - edge.start
            assert skip.index == (graph.skips if skip.kind in ("add", "concat") else graph.gates).index(skip)
    assert len({skip.merge for skip in senet.skips}) == len(senet.skips)


def test_layers_of_a_known_network() -> None:
    graph = trace_skips(torchvision.models.resnet18().eval(), (2, 3, 64, 64))
    first, last = graph.layers[0], graph.layers[-1]
    assert (first.name, first.type, first.kind, first.channels, first.size, first.places) == (
        "conv1", "Conv2d", "conv", 64, (32, 32), 1024,
    )  # fmt: skip
    assert (last.name, last.type, last.kind, last.channels, last.size, last.places) == (
        "fc",
        "Linear",
        "linear",
        1000,
        (),
        1,
    )
    skip = graph.skips[2]
    assert (skip.source, skip.merge) == ("layer1.1.relu#2:relu", "layer2.0:add")
    assert skip.shapes == {"source": (2, 64, 16, 16), "shortcut": (2, 128, 8, 8), "merge": (2, 128, 8, 8)}


def test_summary(senet: SkipGraph, shufflenet: SkipGraph) -> None:
    table = senet.summary()
    assert table.row_count == 9 + 16
    text = str(senet)
    assert "EfficientNet: 82 weighted layers; 9 add, 16 gate, 9 identity, 9 long" in text
    assert "13 partial" in str(shufflenet)
    assert "3 merges of branches of equal standing" in str(shufflenet)


def test_networkx(senet: SkipGraph, densenet: SkipGraph) -> None:
    for graph in (senet, densenet):
        network = graph.to_networkx()
        merges = len(graph.skips) + len(graph.gates)
        assert network.number_of_nodes() == 1 + len(graph.layers) + merges
        arcs = [data for _, _, data in network.edges(data=True) if data["skip"]]
        assert len(arcs) == sum(len(skip.edges) for skip in (*graph.skips, *graph.gates))
        import networkx

        assert networkx.is_directed_acyclic_graph(network)


def test_dot_and_mermaid_hold_every_skip(senet: SkipGraph) -> None:
    dot, mermaid = senet.to_dot(), senet.to_mermaid()
    assert dot.startswith('digraph "EfficientNet" {')
    assert dot.count("constraint=false") == 25
    assert mermaid.startswith("flowchart TD")
    assert mermaid.count("-. ") == 25


def test_awkward_module_names_do_not_break_the_exports() -> None:
    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.add_module('a "quoted" [name]#2:x', nn.Linear(4, 4))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x + torch.relu(next(iter(self.children()))(x))

    graph = trace_skips(nn.Sequential(Odd()), (2, 4))
    assert SkipGraph.from_json(graph.to_json()) == graph
    assert '\\"quoted\\"' in graph.to_dot()
    assert '"a "' not in graph.to_mermaid()
