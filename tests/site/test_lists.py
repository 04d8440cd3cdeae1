"""Every page that lists works, row by row: the home page, all methods, sections, groups, timeline, family, llms.txt."""

from __future__ import annotations

import csv
import io
import json
import re
from pathlib import Path
from typing import Any

import pytest

from .reading import row_data, script_data, shown, tables  # type: ignore[import-not-found]

ADDS, JOINS = "Adds the input of a block to its output.", "Concatenates early features to late ones."
ATTENDS, DROPS, SAYS, GATES = (
    "Attends to the input.",
    "Drops whole units.",
    "Says why adding works.",
    "Gates the input.",
)


@pytest.fixture(scope="session")
def page(small_pages: Path) -> dict[str, str]:
    """The text of every file that is one, by path."""
    files = (path for path in small_pages.rglob("*") if path.suffix in (".md", ".txt", ".csv", ".json", ".js"))
    return {path.relative_to(small_pages).as_posix(): path.read_text("utf-8") for path in files}


def test_all_methods(page: dict[str, str]) -> None:
    assert tables(page["methods/index.md"]) == {
        "All entries": [
            ["Method", "Year", "Tasks", "Merge", "Runs here", "What it changed"],
            ["AlphaNet<alpha.html>", "2015", "classification", "add", "yes", ADDS],
            ["DeltaNet<delta.html>", "2014", "classification, detection", "", "no", DROPS],
            ["GammaNet<gamma.html>", "2016", "detection, denoising", "attention", "no", ATTENDS],
            ["BetaNet<beta.html>", "2017", "segmentation, rescaling", "concat, add", "yes", JOINS],
            ["ZetaNet<zeta.html>", "2019", "deblurring", "gate", "yes", GATES],
            ["EpsilonNet<epsilon.html>", "2018", "classification", "multiply", "yes", SAYS],
        ]
    }
    data = row_data(page["methods/index.md"])
    assert data["choices"] == [
        *("Kind", "Task", "Merge", "Span", "Framework", "Official code", "Licence", "Runs here", "Errata", "Notes"),
    ]
    kinds = {row["key"]: row["facets"]["Kind"][0] for row in data["rows"]}
    assert kinds == {
        **{"alpha": "method", "delta": "regulariser", "gamma": "method", "beta": "method"},
        **{"zeta": "application", "epsilon": "theory"},
    }


def test_the_home_page_lists_what_runs(page: dict[str, str]) -> None:
    assert tables(page["index.md"]) == {
        "Methods that run": [
            ["Method", "Year", "What it changed"],
            ["AlphaNet<methods/alpha.html>", "2015", ADDS],
            ["BetaNet<methods/beta.html>", "2017", JOINS],
            ["ZetaNet<methods/zeta.html>", "2019", GATES],
            ["EpsilonNet<methods/epsilon.html>", "2018", SAYS],
        ]
    }


SECTION_ROWS = {
    "alpha": ["2015", "AlphaNet<../methods/alpha.html>", "add", "short", ADDS, "yes"],
    "beta": ["2017", "BetaNet<../methods/beta.html>", "concat, add", "long, short", JOINS, "yes"],
    "gamma": ["2016", "GammaNet<../methods/gamma.html>", "attention", "long", ATTENDS, "no"],
    "delta": ["2014", "DeltaNet<../methods/delta.html>", "", "", DROPS, "no"],
    "epsilon": ["2018", "EpsilonNet<../methods/epsilon.html>", "multiply", "short", SAYS, "yes"],
}


@pytest.mark.parametrize(
    ("name", "title", "keys", "running", "others"),
    [
        ("themes/iv-a", "IV.A From short to long", ["alpha", "beta"], 2, "IV.B Wider units<iv-b.html>"),
        ("themes/iv-b", "IV.B Wider units", ["delta", "beta"], 1, "IV.A From short to long<iv-a.html>"),
        ("explanations/v-a", "V.A Information flow", ["alpha", "epsilon"], 2, "V.B Ensembles<v-b.html>"),
        ("explanations/v-b", "V.B Ensembles", ["delta", "gamma", "epsilon"], 1, "V.A Information flow<v-a.html>"),
    ],
)
def test_sections_of_the_survey(
    page: dict[str, str], name: str, title: str, keys: list[str], running: int, others: str
) -> None:
    text, number = page[f"{name}.md"], title.partition(" ")[0]
    assert f"\n# {title}\n" in text
    assert tables(text) == {
        f"Works of section {number}": [
            ["Year", "Work", "Merge", "Span", "What it changed", "Runs here"],
            *(SECTION_ROWS[key] for key in keys),
        ]
    }
    head, chips = (shown(paragraph) for paragraph in re.findall(r"(?s)<p>(.*?)</p>", text))
    assert head == (
        f"The {len(keys)} works that belong to section {number} of the survey, in order of year; "
        f"{running} of them can be run here."
    )
    assert chips == others
    assert [row["key"] for row in row_data(text)["rows"]] == keys


def groups(text: str) -> dict[str, str]:
    """What a page of groups shows, by heading."""
    parts = re.split(r"(?m)^## (.*) \{ #.* \}$", text)
    return {title: shown(body) for title, body in zip(parts[1::2], parts[2::2], strict=True)}


ALPHA, BETA = "AlphaNet<methods/alpha.html> (2015)", "BetaNet<methods/beta.html> (2017)"
GAMMA, DELTA = "GammaNet<methods/gamma.html> (2016)", "DeltaNet<methods/delta.html> (2014)"
EPSILON, ZETA = "EpsilonNet<methods/epsilon.html> (2018)", "ZetaNet<methods/zeta.html> (2019)"


def test_groups_with_their_works(page: dict[str, str]) -> None:
    single = "With one work each"
    assert groups(page["tasks.md"]) == {
        "classification": DELTA + ALPHA + EPSILON,
        "detection": DELTA + GAMMA,
        single: f"deblurring: {ZETA}denoising: {GAMMA}rescaling: {BETA}segmentation: {BETA}",
    }
    assert groups(page["frameworks.md"]) == {
        "Caffe": BETA + ZETA,
        "PyTorch": ALPHA + ZETA,
        single: f"Lasagne: {DELTA}MXNet: {GAMMA}TensorFlow: {ALPHA}Theano: {DELTA}",
    }
    assert groups(page["venues.md"]) == {
        "BMVC": f"In the records: British Machine Vision Conference (BMVC) {GAMMA}{ZETA}",
        "CVPR": "In the records: IEEE Conference on Computer Vision and Pattern Recognition (CVPR) " + ALPHA + EPSILON,
        single: f"Sample Press: {DELTA}TMI: {BETA}",
    }
    assert groups(page["datasets.md"]) == {
        single: f"BSD68: {GAMMA}CIFAR-10: {ALPHA}CIFAR-100: {ALPHA}GoPro: {ZETA}ImageNet-1K: {EPSILON}"
        f"ISBI 2012: {BETA}KITTI: {DELTA}MNIST: {DELTA}MS COCO: {GAMMA}",
    }
    assert groups(page["years.md"]) == {
        **{"2014": DELTA, "2015": ALPHA, "2016": GAMMA, "2017": BETA, "2018": EPSILON, "2019": ZETA},
    }


def test_the_overview_counts_the_works_of_each_group(page: dict[str, str]) -> None:
    text = page["browse.md"]
    assert "6 works from 2014 to 2019" in text
    parts = re.split(r"(?m)^## (.*)$", text)
    assert {title: shown(body) for title, body in zip(parts[1::2], parts[2::2], strict=True)} == {
        "Themes of section IV": "IV.A From short to long<themes/iv-a.html>: 2 works"
        "IV.B Wider units<themes/iv-b.html>: 2 works",
        "Explanations of section V": "V.A Information flow<explanations/v-a.html>: 2 works"
        "V.B Ensembles<explanations/v-b.html>: 3 works",
        "Tasks": "classification: 3<tasks.html#classification> detection: 2<tasks.html#detection> "
        "deblurring: 1<tasks.html#deblurring> denoising: 1<tasks.html#denoising> "
        "rescaling: 1<tasks.html#rescaling> segmentation: 1<tasks.html#segmentation>",
        "Data sets": "BSD68: 1<datasets.html#bsd68> CIFAR-10: 1<datasets.html#cifar-10> "
        "CIFAR-100: 1<datasets.html#cifar-100> GoPro: 1<datasets.html#gopro> ImageNet-1K: 1<datasets.html#imagenet-1k> "
        "ISBI 2012: 1<datasets.html#isbi-2012> KITTI: 1<datasets.html#kitti> MNIST: 1<datasets.html#mnist> "
        "all 9<datasets.html>",
        "Venues": "BMVC: 2<venues.html#bmvc> CVPR: 2<venues.html#cvpr> Sample Press: 1<venues.html#sample-press> "
        "TMI: 1<venues.html#tmi>",
        "Frameworks": "Caffe: 2<frameworks.html#caffe> PyTorch: 2<frameworks.html#pytorch> "
        "Lasagne: 1<frameworks.html#lasagne> MXNet: 1<frameworks.html#mxnet> "
        "TensorFlow: 1<frameworks.html#tensorflow> Theano: 1<frameworks.html#theano>",
        "Years": "2014: 1<years.html#2014> 2015: 1<years.html#2015> 2016: 1<years.html#2016> 2017: 1<years.html#2017> "
        "2018: 1<years.html#2018> 2019: 1<years.html#2019>",
    }


def test_the_timeline_as_a_list_and_as_a_picture(page: dict[str, str]) -> None:
    text = page["timeline.md"]
    assert tables(text) == {
        "All works in order of year": [
            ["Year", "Work", "Lane", "Merge", "What it changed"],
            ["2014", "DeltaNet<methods/delta.html>", "classification", "", DROPS],
            ["2015", "AlphaNet<methods/alpha.html>", "classification", "add", ADDS],
            ["2016", "GammaNet<methods/gamma.html>", "detection", "attention", ATTENDS],
            ["2017", "BetaNet<methods/beta.html>", "segmentation", "concat, add", JOINS],
            ["2018", "EpsilonNet<methods/epsilon.html>", "theory", "multiply", SAYS],
            ["2019", "ZetaNet<methods/zeta.html>", "reconstruction", "gate", GATES],
        ]
    }
    assert "<p>6 works from 2014 to 2019, each a link to its page." in text
    lanes = {row["key"]: row["facets"]["Lane"] for row in row_data(text)["rows"]}
    assert lanes == {
        **{"delta": ["classification"], "alpha": ["classification"], "gamma": ["detection"]},
        **{"beta": ["segmentation"], "epsilon": ["theory"], "zeta": ["reconstruction"]},
    }
    (picture,) = re.findall(r'<svg class="skb-timeline"[^>]*role="group".*?</svg>', text)
    drawn = re.findall(r'<a href="methods/(\w+)\.html"><title>(.*?)</title>(.*?)</a>', picture)
    titles = {key: title for key, title, _ in drawn}
    assert titles["beta"] == f"BetaNet (2017), concat, add: {JOINS}"
    assert titles["delta"] == f"DeltaNet (2014), no skip of its own: {DROPS}"
    marks = {key: re.findall(r'class="skb-(?:disc skb-)?(\w+)"|sign"[^>]*>(.)<', body) for key, _, body in drawn}
    assert [first or sign for first, sign in marks["beta"]] == ["concat", "‖", "add", "+", "runs"]
    assert [first or sign for first, sign in marks["delta"]] == ["none"]
    assert [first or sign for first, sign in marks["gamma"]] == ["attention", "∗"]


def test_each_work_of_the_timeline_stands_at_its_year(page: dict[str, str]) -> None:
    (picture,) = re.findall(r'<svg class="skb-timeline"[^>]*role="group".*?</svg>', page["timeline.md"])
    labels = {year: float(x) for x, year in re.findall(r'<text class="skb-year" x="([\d.]+)"[^>]*>(\d+)<', picture)}
    titled = re.findall(r"<title>\w+ \((\d+)\).*?</title><circle [^>]*cx=\"([\d.]+)\"", picture)
    assert len(titled) == 6
    assert {year: float(x) - labels[year] for year, x in titled} == dict.fromkeys(
        ("2014", "2015", "2016", "2017", "2018", "2019"), 6.0
    )


def test_legends_of_the_pictures(page: dict[str, str]) -> None:
    (legend,) = re.findall('<p class="skb-legend">(.*?)</p>', page["timeline.md"])
    assert re.findall(r'<circle class="skb-disc skb-(\w+)"[^>]*/><text[^>]*>(.)</text></svg> (\w+)<', legend) == [
        *(("add", "+", "add"), ("concat", "‖", "concat"), ("gate", "σ", "gate"), ("multiply", "×", "multiply")),
        *(("attention", "∗", "attention"), ("indices", "#", "indices")),
    ]
    assert re.findall(r'<circle class="skb-none"[^>]*/></svg> ([\w ]+)<', legend) == ["no skip of its own"]
    (legend,) = re.findall('<p class="skb-legend">(.*?)</p>', page["family.md"])
    assert re.findall(r'<path class="skb-(\w+)"[^>]*/></svg> (\w+ \(\w+\))<', legend) == [
        *(("extends", "extends (solid)"), ("uses", "uses (dashed)"), ("explains", "explains (dotted)")),
    ]
    assert re.findall(r'<circle class="skb-(\w+)"[^>]*/></svg> ([\w ]+)<', legend) == [
        *((name, name) for name in ("add", "concat", "gate", "multiply", "attention", "indices")),
        ("none", "no skip of its own"),
    ]


def test_the_family_as_a_table_and_as_a_picture(page: dict[str, str]) -> None:
    text = page["family.md"]
    alpha = "AlphaNet<methods/alpha.html>"
    assert tables(text) == {
        "Relations between the works": [
            ["Year", "Work", "Type", "To", "How"],
            ["2016", "GammaNet<methods/gamma.html>", "uses", alpha, "AlphaNet is its backbone."],
            ["2017", "BetaNet<methods/beta.html>", "extends", alpha, "Concatenates where AlphaNet adds."],
            ["2018", "EpsilonNet<methods/epsilon.html>", "explains", alpha, "AlphaNet is an ensemble."],
            [
                *("2018", "EpsilonNet<methods/epsilon.html>", "uses", "BetaNet<methods/beta.html>"),
                "BetaNet is the example.",
            ],
        ]
    }
    assert [row["facets"] | row["numbers"] for row in row_data(text)["rows"]] == [
        {"Type": ["uses"], "Work": ["GammaNet"], "To": ["AlphaNet"], "Year": 2016},
        {"Type": ["extends"], "Work": ["BetaNet"], "To": ["AlphaNet"], "Year": 2017},
        {"Type": ["explains"], "Work": ["EpsilonNet"], "To": ["AlphaNet"], "Year": 2018},
        {"Type": ["uses"], "Work": ["EpsilonNet"], "To": ["BetaNet"], "Year": 2018},
    ]
    assert "All 4 relations" in text
    (picture,) = re.findall(r'<svg id="skb-family".*?</svg>', text)
    assert re.findall(r'<path class="skb-(\w+)" data-from="(\w+)" data-to="(\w+)"', picture) == [
        *(("uses", "gamma", "alpha"), ("extends", "beta", "alpha"), ("explains", "epsilon", "alpha")),
        ("uses", "epsilon", "beta"),
    ]
    nodes = re.findall(r'id="(\w+)" href="methods/(\w+)\.html"><title>(.*?)</title>(.*?)</a>', picture)
    assert [(node, target) for node, target, _, _ in nodes] == [
        (key, key) for key in ("delta", "alpha", "gamma", "beta", "epsilon", "zeta")
    ]
    found = {node: (title, re.findall(r'<circle class="skb-(\w+)"', body)) for node, _, title, body in nodes}
    assert found["beta"] == (f"BetaNet (2017), concat, add: {JOINS}", ["concat", "add"])
    assert found["delta"] == (f"DeltaNet (2014), no skip of its own: {DROPS}", ["none"])
    assert [node for node, _, _, body in nodes if 'class="skb-runs"' in body] == ["alpha", "beta", "epsilon", "zeta"]


def test_llms_txt(page: dict[str, str]) -> None:
    text = page["llms.txt"]
    assert "Companion to the survey A small survey (arXiv 2405.01725)" in text
    assert text.partition("## Classification\n")[2] == (
        f"\n- [AlphaNet (2015)](methods/alpha.html): {ADDS}; runs here\n"
        f"- [DeltaNet (2014)](methods/delta.html): {DROPS}\n"
        f"\n## Detection\n\n- [GammaNet (2016)](methods/gamma.html): {ATTENDS}\n"
        f"\n## Segmentation\n\n- [BetaNet (2017)](methods/beta.html): {JOINS}; runs here\n"
        f"\n## Reconstruction\n\n- [ZetaNet (2019)](methods/zeta.html): {GATES}; runs here\n"
        f"\n## Theory\n\n- [EpsilonNet (2018)](methods/epsilon.html): {SAYS}; runs here\n"
    )


def json_ld(text: str) -> dict[str, Any]:
    (script,) = re.findall(r'<script type="application/ld\+json">(.*?)</script>', text)
    found: dict[str, Any] = json.loads(script)
    return found


def test_what_search_engines_read_of_a_work(page: dict[str, str]) -> None:
    assert json_ld(page["methods/alpha.md"]) == {
        "@context": "https://schema.org",
        "@type": "ScholarlyArticle",
        "name": "Adding the input",
        "alternateName": ["AlphaNet", "The First"],
        "author": [{"@type": "Person", "name": "Jane Doe"}, {"@type": "Person", "name": "Max Low"}],
        "datePublished": "2015",
        "isPartOf": {
            "@type": "PublicationIssue",
            "name": "IEEE Conference on Computer Vision and Pattern Recognition (CVPR)",
        },
        "abstract": ADDS,
        "keywords": ["classification", "add"],
        "sameAs": ["https://arxiv.org/abs/1501.00001"],
        "identifier": "arXiv:1501.00001",
        "workExample": [
            {
                "@type": "SoftwareSourceCode",
                "codeRepository": "https://github.com/doe/alpha",
                "runtimePlatform": "PyTorch",
                "license": "MIT",
            }
        ],
    }
    beta, gamma, delta = (json_ld(page[f"methods/{key}.md"]) for key in ("beta", "gamma", "delta"))
    assert (beta["sameAs"], beta["identifier"]) == (["https://doi.org/10.1000/beta"], "10.1000/beta")
    assert "license" not in beta["workExample"][0]
    assert "workExample" not in gamma  # its only repository is by others
    assert "sameAs" not in delta


def test_the_exported_list_gives_code_of_the_authors_alone(page: dict[str, str]) -> None:
    rows = {row["key"]: row for row in csv.DictReader(io.StringIO(page["catalog.csv"]))}
    assert {key: (row["official"], row["framework"], row["licence"]) for key, row in rows.items()} == {
        "alpha": ("https://github.com/doe/alpha", "PyTorch", "MIT"),
        "beta": ("https://example.com/beta", "Caffe", "unknown"),
        "gamma": ("", "", ""),
        "delta": ("https://github.com/roe/delta", "Theano; Lasagne", "unknown"),
        "epsilon": ("", "", ""),
        "zeta": ("https://github.com/roe/zeta; https://github.com/roe/zeta-old", "PyTorch; Caffe", "BSD-3-Clause; MIT"),
    }


def test_what_search_engines_read_of_the_catalogue(page: dict[str, str]) -> None:
    found = json_ld(page["index.md"])
    assert found["description"].startswith("6 works on skip connections")
    assert found["description"].endswith("a companion to A small survey")
    assert found["isBasedOn"] == "https://arxiv.org/abs/2405.01725"


def test_what_the_search_page_filters_by(page: dict[str, str]) -> None:
    documents = {one["key"]: one for one in script_data(page["assets/search-data.js"])["entries"]}
    assert documents["beta"]["facets"] == {
        "author": ["jane doe"],
        "dataset": ["isbi 2012"],
        "errata": ["no"],
        "folder": ["segmentation"],
        "framework": ["caffe"],
        "kind": ["method"],
        "licence": ["unknown"],
        "merge": ["add", "concat"],
        "notes": ["no"],
        "official": ["yes"],
        "runs": ["yes"],
        "span": ["long", "short"],
        "table": ["segmentation"],
        "task": ["rescaling", "segmentation"],
        "theme": ["iv.a", "iv.b"],
        "venue": ["ieee transactions on medical imaging"],
    }
    assert documents["beta"]["numbers"] == {
        "year": [2017],
        "params": [7700001, 31000002],
        "macs": [9000000001, 150000000003],
    }
    gamma = documents["gamma"]["facets"]
    assert (gamma["runs"], gamma["official"], gamma["errata"]) == (["no"], ["no"], ["no"])
    assert not {"framework", "licence", "theme"} & gamma.keys()  # its only code is by others
    assert gamma["explanation"] == ["v.b"]
    assert documents["delta"]["facets"]["errata"] == ["yes"]
    assert (documents["beta"]["label"], documents["beta"]["year"]) == ("BetaNet", 2017)
    assert documents["alpha"]["contribution"] == ADDS
    assert documents["alpha"]["title"] == "Adding the input"
    assert documents["gamma"]["skips"] == "attention long skip from query to value, softmax"
