"""The fingerprint: well-formed, small, safe, true to the counts, and the same each time."""

from __future__ import annotations

import itertools
import re
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import pytest

from skipkb.skips.draw.description import describe
from skipkb.skips.draw.folds import Fold, find_folds
from skipkb.skips.draw.picture import ARCS, fingerprint
from skipkb.skips.draw.stages import find_stages
from skipkb.skips.graph import SkipGraph
from skipkb.vocabulary import MERGES

from .networks import NETWORKS, Sketch, resnet, unet, vit  # type: ignore[import-not-found]

SVG = "{http://www.w3.org/2000/svg}"
HOSTILE = "</title><script>alert(1)</script> & \"'\x00\x1b\ud800 ]]> {}#fp;*/"


@pytest.fixture(params=NETWORKS)
def graph(request: pytest.FixtureRequest) -> SkipGraph:
    made: SkipGraph = NETWORKS[request.param]()
    return made


def arcs(svg: str) -> dict[str, int]:
    """Curves drawn, by class; the legend's samples lie outside the transformed group."""
    root = ElementTree.fromstring(svg)
    found: dict[str, int] = {}
    for path in root.findall(f"{SVG}g/{SVG}path[@class]"):
        found[path.attrib["class"]] = found.get(path.attrib["class"], 0) + len(re.findall("[cq]", path.attrib["d"]))
    return {kind: number for kind, number in found.items() if number}


def edges(graph: SkipGraph) -> dict[str, int]:
    found: dict[str, int] = {}
    for skip in (*graph.skips, *graph.gates, *graph.weak):
        found[skip.kind] = found.get(skip.kind, 0) + len(skip.edges)
    return found


@pytest.mark.parametrize("thumbnail", [False, True])
def test_is_accessible_self_contained_svg(graph: SkipGraph, thumbnail: bool) -> None:
    svg = fingerprint(graph, thumbnail=thumbnail)
    root = ElementTree.fromstring(svg)
    title, desc = root.find(f"{SVG}title"), root.find(f"{SVG}desc")
    assert root.attrib["role"] == "img"
    assert title is not None
    assert desc is not None
    assert (root.attrib["aria-labelledby"], root.attrib["aria-describedby"]) == (title.attrib["id"], desc.attrib["id"])
    assert title.text == graph.model
    assert {element.tag.removeprefix(SVG) for element in root.iter()} <= {
        "svg",
        "title",
        "desc",
        "style",
        "g",
        "path",
        "text",
    }
    assert not re.search(r"href|url\(|@import|on\w+=|//", svg.replace("http://www.w3.org/2000/svg", ""))
    _, _, width, height = map(float, root.attrib["viewBox"].split())
    for path in root.findall(f".//{SVG}path"):
        assert re.fullmatch(r"[MLHVhvcqz0-9 .-]*", path.attrib["d"])
    assert width == (220 if thumbnail else 720)
    assert height == 99 if thumbnail else 40 < height < 400


def test_every_edge_is_an_arc(graph: SkipGraph) -> None:
    drawn = arcs(fingerprint(graph))
    folds = find_folds(graph)
    if folds:
        assert sum(drawn.values()) < sum(edges(graph).values()) or not drawn
        assert "Folded: of" in describe(graph, folds)
    else:
        assert drawn == edges(graph)


def test_folded_away_are_the_arcs_of_the_copies_left_out() -> None:
    graph = NETWORKS["ResNet-101"]()
    (fold,) = find_folds(graph)
    assert (fold.period, fold.times, fold.keep) == (3, 22, 1)
    assert arcs(fingerprint(graph)) == {"add": 33 - 20}
    assert "of 22 equal blocks of 3 layers only the first and the last are drawn" in fingerprint(graph)
    assert "×22" in fingerprint(graph)


def test_the_description_says_the_counts(graph: SkipGraph) -> None:
    said, counts = describe(graph), graph.counts()
    skips = counts["add"] + counts["concat"]
    assert f"{len(graph.layers)} weighted layer" in said
    assert (f"{skips} skip connection" in said) if skips else ("No skip connection" in said)
    for kind, noun in (("add", "addition"), ("concat", "concatenation"), ("gate", "gate"), ("multiply", "product")):
        found = [int(number) for number in re.findall(rf"(\d+) {noun}s?\b", said)]
        assert found == ([counts[kind]] if counts[kind] else [])
    for name in ("identity", "projection", "lateral", "gated"):
        assert (f"{counts[name]} {name}" in said) == bool(counts[name])
    if skips:
        assert f"{counts['long']} long, {counts['cross_scale']} across scales" in said


def test_the_description_of_a_densenet_and_of_a_gated_network() -> None:
    assert describe(NETWORKS["DenseNet-121"]()) == (
        "121 weighted layers in order of execution, between 112×112 and 7×7. 58 skip connections: 58 concatenations, "
        "with 535 shortcuts. On the shortcut: 58 identity. 54 long, 0 across scales."
    )
    assert describe(NETWORKS["SE-ResNet-50"]()).endswith("16 gates.")


@pytest.mark.parametrize(
    ("name", "large", "small"),
    [
        ("Empty", 900, 800),
        ("MLP", 1100, 900),
        ("U-Net", 3000, 2000),
        ("ResNet-18", 3000, 2000),
        ("ResNet-50", 3600, 2600),
        ("ResNet-152", 4000, 3000),
        ("ViT-L/16", 3600, 2800),
        ("SwinIR", 3800, 2900),
        ("SE-ResNet-50", 5200, 3400),
        ("DenseNet-121", 9600, 4400),
    ],
)
def test_is_small(name: str, large: int, small: int) -> None:
    graph = NETWORKS[name]()
    assert len(fingerprint(graph).encode()) < large
    assert len(fingerprint(graph, thumbnail=True).encode()) < small


def test_is_the_same_each_time_and_after_json(graph: SkipGraph) -> None:
    assert fingerprint(graph) == fingerprint(graph) == fingerprint(SkipGraph.from_json(graph.to_json()))


def test_hostile_names_are_text() -> None:
    graph = resnet("x", (1, 1))
    layers = tuple(replace(layer, name=HOSTILE, type=HOSTILE) for layer in graph.layers)
    skips = tuple(
        replace(s, merge=HOSTILE, edges=tuple(replace(e, source=HOSTILE) for e in s.edges)) for s in graph.skips
    )
    svg = fingerprint(replace(graph, model=HOSTILE, layers=layers, skips=skips))
    root = ElementTree.fromstring(svg.encode())
    assert "script" not in {element.tag.removeprefix(SVG) for element in root.iter()}
    assert root.findtext(f"{SVG}title") == HOSTILE.replace("\x00", "�").replace("\x1b", "�").replace("\ud800", "�")
    assert re.fullmatch(r"[a-z0-9-]+", root.attrib["id"])


def test_a_long_title_is_cut_on_the_picture_only() -> None:
    root = ElementTree.fromstring(fingerprint(unet(), title="long " * 100))
    shown = [text.text or "" for text in root.findall(f"{SVG}text")]
    assert shown[0].endswith("…")
    assert len(shown[0]) < 90
    assert root.findtext(f"{SVG}title") == ("long " * 100).strip()


def test_ids_differ_between_pictures_of_one_page() -> None:
    graphs = {name: make() for name, make in NETWORKS.items()}
    svgs = [
        fingerprint(g, title=t, thumbnail=s)
        for (n, g), s in itertools.product(graphs.items(), (False, True))
        for t in ("Same", n)
    ]
    ids = [re.findall(r' id="([^"]+)"', svg) for svg in svgs]
    flat = [name for names in ids for name in names]
    assert len(flat) == len(set(flat)) == 3 * len(svgs)
    for svg, (root, *_) in zip(svgs, ids, strict=True):
        style = svg[svg.index("<style>") : svg.index("</style>")]
        assert all(
            f"#{root}" in rule for rule in re.findall(r"([^{}]+)\{[^{}]*\}", style) if not rule.startswith("<style>@")
        )


def test_only_true_repetition_is_folded() -> None:
    assert find_folds(NETWORKS["DenseNet-121"]()) == []
    assert find_folds(resnet("ResNet", (3, 4, 6, 3))) == []  # short enough as it is
    assert find_folds(NETWORKS["SwinIR"]()) == [Fold(1, 25, 6)]

    growing = Sketch("PyramidNet")  # every block is wider than the one before
    for k in range(60):
        start = growing.here
        growing.conv(32, 16 + k)
        growing.conv(32, 16 + k)
        growing.merge(start)
    assert find_folds(growing.graph()) == []


@pytest.mark.parametrize("at", [20, 21])
def test_an_arc_out_of_a_repeated_block_is_never_lost(at: int) -> None:
    """A repetition tied to the outside half-way, at a block's border or within it, is folded on either side of it."""
    to = Sketch("Tied")
    for block in range(60):
        start = to.here
        to.conv(16)
        to.conv(16)
        to.merge(start)
        if block == 59:
            to.merge(at, "concat")
    graph = to.graph()
    folds = find_folds(graph, above=30)
    assert folds
    assert all(at not in range(fold.hidden.start + 1, fold.hidden.stop) for fold in folds)
    assert arcs(fingerprint(graph))["concat"] == 1


def test_equal_layers_with_unequal_skips_are_not_folded_together() -> None:
    to = Sketch("Every other block has a skip, at first")
    for block in range(60):
        start = to.here
        to.conv(16)
        to.conv(16)
        if block >= 30 or block % 2 == 0:
            to.merge(start)
    assert [(fold.start, fold.period, fold.times) for fold in find_folds(to.graph(), above=10)] == [
        (0, 4, 15),
        (60, 2, 30),
    ]


def test_a_network_of_nothing_but_one_block_still_shows_its_comb() -> None:
    graph = vit(depth=48)
    (fold,) = find_folds(graph)
    assert fold.times == 48
    assert fold.keep > 3
    assert arcs(fingerprint(graph)) == {"add": 4 * fold.keep}


def test_stages_are_runs_of_one_resolution() -> None:
    def sides(graph: SkipGraph) -> list[int]:
        return [stage.size[0] for stage in find_stages(graph) if stage.places > 1]

    assert sides(NETWORKS["ResNet-50"]()) == [112, 56, 28, 14, 7]
    assert sides(NETWORKS["SE-ResNet-50"]()) == [112, 56, 28, 14, 7]
    assert sides(NETWORKS["ViT-B/16"]()) == [14]
    assert sides(unet()) == [570, 282, 138, 66, 30, 56, 104, 200, 388]
    assert sum(len(stage.aside) for stage in find_stages(NETWORKS["SE-ResNet-50"]())) == 32


def test_the_skyline_of_an_encoder_decoder_is_a_valley() -> None:
    svg = fingerprint(unet(), thumbnail=True)
    (line,) = re.findall(r'stroke-opacity="\.6"[^>]* d="([^"]+)"', svg)
    heights = [-int(y) for y in re.findall(r"(?:M\S+ |V)(-\d+)", line)]
    deepest = heights.index(min(heights))
    assert heights[: deepest + 1] == sorted(heights[: deepest + 1], reverse=True)
    assert heights[deepest:] == sorted(heights[deepest:])
    assert 0 < deepest < len(heights) - 1


def test_kinds_and_shortcuts_look_different() -> None:
    def paths(name: str) -> list[dict[str, str]]:
        root = ElementTree.fromstring(fingerprint(NETWORKS[name]()))
        return [p.attrib for p in root.findall(f"{SVG}g/{SVG}path[@class]") if re.search("[cq]", p.attrib["d"])]

    solid, dashed = sorted(paths("ResNet-50"), key=lambda path: "stroke-dasharray" in path)
    assert "stroke-dasharray" not in solid
    assert dashed["stroke-dasharray"] == "5 3"
    assert {path["class"] for path in paths("SE-ResNet-50")} == {"add", "gate"}
    assert [path["stroke-dasharray"] for path in paths("Highway") if path["class"] == "add"] == ["0 4"]
    assert 'fill-opacity=".1"' in fingerprint(unet())  # across scales
    assert 'fill-opacity=".1"' not in fingerprint(NETWORKS["SwinIR"]())


def luminance(colour: str) -> float:
    def linear(value: int) -> float:
        share = value / 255
        return share / 12.92 if share <= 0.04045 else ((share + 0.055) / 1.055) ** 2.4

    red, green, blue = (linear(int(colour[k : k + 2], 16)) for k in (1, 3, 5))
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


@pytest.mark.parametrize(("shade", "page"), [("light", "#ffffff"), ("dark", "#1e2129"), ("dark", "#000000")])
def test_arcs_stand_out_from_the_page(shade: str, page: str) -> None:
    for kind in MERGES.values():
        colour = getattr(kind, shade)
        low, high = sorted((luminance(colour), luminance(page)))
        assert (high + 0.05) / (low + 0.05) >= 3


def test_a_net_too_dense_is_thinned_and_says_so() -> None:
    graph = NETWORKS["DenseNet-121"]()
    large, small = fingerprint(graph), fingerprint(graph, thumbnail=True)
    assert arcs(large) == {"concat": 535}
    assert "arcs are shown" not in large
    drawn = arcs(small)["concat"]
    assert 100 < drawn <= ARCS[1]
    assert f"{drawn} of 535 arcs are shown" in small


def test_width_is_honoured_and_checked() -> None:
    assert 'width="400"' in fingerprint(unet(), width=400)
    with pytest.raises(ValueError, match="at least 60"):
        fingerprint(unet(), width=10)


def test_nothing_is_drawn_beyond_the_frame(graph: SkipGraph) -> None:
    for thumbnail in (False, True):
        root = ElementTree.fromstring(fingerprint(graph, thumbnail=thumbnail))
        group = root.find(f"{SVG}g")
        assert group is not None
        (ground,) = map(float, re.findall(r"translate\(0 (\S+)\)", group.attrib["transform"]))
        for path in group.findall(f"{SVG}path"):
            for x, y in re.findall(r"M(-?[\d.]+) ?(-?[\d.]+)", path.attrib["d"]):
                assert 0 <= float(x) <= float(root.attrib["width"])
                assert 0 <= ground + float(y) <= float(root.attrib["height"])


def test_to_svg_writes_the_file(tmp_path: Path) -> None:
    path = tmp_path / "unet.svg"
    svg = unet().to_svg(path, title="U-Net")
    assert path.read_bytes() == svg.encode()
    assert "<title" in svg
