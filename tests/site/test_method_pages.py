"""The page of a method, cell by cell: what it must say is written here from the small catalogue's YAML."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from .reading import shown, tables  # type: ignore[import-not-found]


@pytest.fixture(scope="session")
def alpha(small_pages: Path) -> str:
    return (small_pages / "methods" / "alpha.md").read_text("utf-8")


@pytest.fixture(scope="session")
def beta(small_pages: Path) -> str:
    return (small_pages / "methods" / "beta.md").read_text("utf-8")


@pytest.fixture(scope="session")
def gamma(small_pages: Path) -> str:
    return (small_pages / "methods" / "gamma.md").read_text("utf-8")


@pytest.fixture(scope="session")
def delta(small_pages: Path) -> str:
    return (small_pages / "methods" / "delta.md").read_text("utf-8")


def section(page: str, title: str) -> str:
    """What stands under a heading of the second level."""
    (body,) = re.findall(rf"(?ms)^## {re.escape(title)}\b.*?\n(.*?)(?=^## |\Z)", page)
    return body


def sections(page: str) -> list[str]:
    return re.findall(r"(?m)^## (.*?)(?: \{.*)?$", page)


def test_head_of_a_page(alpha: str, beta: str, delta: str) -> None:
    assert alpha.startswith('---\ntitle: "AlphaNet"\ndescription: "Adds the input of a block to its output."\n---\n')
    assert "\n# AlphaNet\n" in alpha
    (lead,) = re.findall('<p class="skb-lead">(.*?)</p>', alpha)
    assert lead == "Adds the input of a block to its output."
    assert shown(section(alpha, "What it changed")) == "Every fact here is verified, and the recorded run holds."
    papers = [re.findall('<p class="skb-paper">(.*?)</p>', page)[0] for page in (alpha, beta, delta)]
    assert [shown(paper) for paper in papers] == [
        "Jane Doe, Max Low. Adding the input. IEEE Conference on Computer Vision and Pattern Recognition (CVPR)"
        "<../venues.html#cvpr>, 2015<../years.html#2015>. arXiv:1501.00001<https://arxiv.org/abs/1501.00001>",
        "Jane Doe. Handing on detail. IEEE Transactions on Medical Imaging<../venues.html#tmi>, "
        "2017<../years.html#2017>. doi:10.1000/beta<https://doi.org/10.1000/beta> (-dead since 2026-02-05)",
        "Eve Roe. Dropping units. Sample Press<../venues.html#sample-press>, 2014<../years.html#2014>. "
        "<https://example.com/delta.pdf> (-dead since 2026-02-04)",
    ]


def test_chips_name_tasks_sections_and_data_sets(beta: str, gamma: str) -> None:
    chips = re.findall(r'<p>(?:<a class="skb-chip"|Data sets:).*?</p>', beta)
    assert [shown(line) for line in chips] == [
        "segmentation<../tasks.html#segmentation> rescaling<../tasks.html#rescaling> "
        "IV.A From short to long<../themes/iv-a.html> IV.B Wider units<../themes/iv-b.html>",
        "Data sets: ISBI 2012<../datasets.html#isbi-2012>",
    ]
    chips = re.findall(r'<p>(?:<a class="skb-chip"|Data sets:).*?</p>', gamma)
    assert [shown(line) for line in chips] == [
        "detection<../tasks.html#detection> denoising<../tasks.html#denoising> V.B Ensembles<../explanations/v-b.html>",
        "Data sets: MS COCO<../datasets.html#ms-coco> BSD68<../datasets.html#bsd68>",
    ]


def test_a_page_has_the_sections_that_its_entry_fills(alpha: str, beta: str, gamma: str, delta: str) -> None:
    both = ["What it changed", "Skip connections", "Models"]
    assert sections(alpha) == [
        *both,
        "Configurations the authors publish",
        "Related works",
        "In the survey",
        "Code",
        "The same architecture elsewhere",
        "Results the paper reports",
        "Deviations from the paper",
        "Evidence",
        "Cite",
        "Implementation",
    ]
    assert sections(beta) == [
        *both,
        *("Related works", "In the survey", "Code", "Deviations from the paper", "Evidence", "Cite", "Implementation"),
    ]
    assert sections(gamma) == [
        *both,
        *("Configurations the authors publish", "Related works", "In the survey", "Code"),
        *("Results the paper reports", "Cite"),
    ]
    assert sections(delta) == ["What it changed", "Models", "In the survey", "Code", "Cite"]


def test_skip_connections(beta: str) -> None:
    assert tables(beta)["Skip connections"] == [
        ["From", "To", "Merge", "Span", "On the shortcut"],
        ["encoder stage", "decoder stage", "concat", "long", "centre crop"],
        ["unit input", "unit output", "add", "short", "1x1 projection"],
    ]


def test_the_drawn_skips_say_the_same(alpha: str, beta: str) -> None:
    assert re.findall(r'<desc id="skip-description">(.*?)</desc>', alpha) == [
        "a short add skip from block input to block output (identity)"
    ]
    assert re.findall(r'<desc id="skip-description">(.*?)</desc>', beta) == [
        "a long concat skip from encoder stage to decoder stage (centre crop); "
        "a short add skip from unit input to unit output (1x1 projection)"
    ]
    (one,), (two,) = (re.findall(r'<svg class="skb-figure".*?</svg>', page) for page in (alpha, beta))
    assert re.findall(r'<text class="skb-sign"[^>]*>(.)</text>', one + two) == ["+", "‖", "+"]
    assert re.findall(r"skb-arc skb-(\w+)", one + two) == ["add", "concat", "add"]
    assert ("stroke-dasharray" in one, two.count("stroke-dasharray")) == (False, 2)  # solid is the identity alone
    assert (one.count("skb-layer"), two.count("skb-layer")) == (2, 5 + 2)  # a long skip crosses more
    long, short = (int(start) - int(lift) for start, lift in re.findall(r' d="M\d+ (\d+) C\d+ (-?\d+) ', two))
    assert long > short  # and its arc rises higher
    assert re.findall(r'<tspan x="(\d+)"[^>]*>(.*?)</tspan>', one) == [
        ("360", "identity"),
        ("96", "block input"),  # at the left end of the line
        ("624", "block output"),
        ("360", "short add skip"),
    ]
    assert '<title id="skip-title">Skip connections of BetaNet</title>' in two


def test_found_skips_stand_under_the_model_they_were_found_in(beta: str, small_pages: Path) -> None:
    captions = re.findall(r"<title [^>]*>([^<]*)</title>.*?<figcaption><code>(.*?)</figcaption>", beta)
    assert captions[:2] == [
        ("BetaNet, thin", "beta&#95;thin</code>: 1 add; 1 identity"),
        (
            "BetaNet, wide",
            "beta&#95;wide</code>: 1 add, 2 concat; 1 identity, 1 resampled, 1 projection; 2 long, 1 cross-scale",
        ),
    ]
    assert "The other networks (1)" in beta
    gallery = (small_pages / "fingerprints.md").read_text("utf-8")
    cards = re.findall(
        r'<li><a href="(.*?)"><svg.*?<title [^>]*>(.*?)</title>.*?<span>(.*?)</span></a><small>(.*?)</small>', gallery
    )
    thin, wide = "1 add; 1 identity", "1 add, 2 concat; 1 identity, 1 resampled, 1 projection; 2 long, 1 cross-scale"
    assert cards == [
        ("methods/beta.html", "BetaNet, thin", "BetaNet, thin", thin),
        ("methods/beta.html", "BetaNet, wide", "BetaNet, wide", wide),
    ]


def test_published_sizes_stand_beside_the_figures_they_are_of(alpha: str, beta: str) -> None:
    caption = "Declared, counted and published size"
    headers = ["Model", "Input", "Output", "Parameters", "Published", "MACs", "Published", "Outputs"]
    assert tables(alpha)[caption][0] == headers
    paper = "(+paper)<https://arxiv.org/abs/1501.00001>"
    lines = [*tables(alpha)[caption][1:], *tables(beta)[caption][1:]]
    without_badges = [[cell.partition(" / (")[0] for cell in line[:-1]] for line in lines]
    assert without_badges == [
        [
            *("alpha20 / AlphaNet-20", "1×3×32×32", "1×10"),
            *("1,234,567", f"1.2M {paper}", "45.68 M", f"46M multiply-adds {paper}"),
        ],
        [
            *("beta_wide / BetaNet, wide", "1×1×572×572", "mask 1×2×388×388; edge 1×1×388×388"),
            *("31,000,002", "not printed", "150.00 G", "150 GMACs (-unverified)"),
        ],
        [
            *("beta_thin / BetaNet, thin", "1×1×284×284", "1×2×100×100"),
            *("7,700,001", "not printed", "9.00 G", "not printed"),
        ],
    ]
    assert re.findall(r'<td class="skb-number" title="(.*?)">', section(beta, "Models")) == [
        *("31,000,002", "150,000,000,003", "7,700,001", "9,000,000,001"),
    ]


def test_how_models_are_made_and_what_loads_into_them(alpha: str, beta: str) -> None:
    assert 'model = skipkb.create_model("alpha20")' in section(alpha, "Models")
    assert 'model = skipkb.create_model("beta_wide")' in section(beta, "Models")
    assert "<li><code>beta&#95;wide</code>: The paper prints the widths.</li>" in section(beta, "Models")
    assert "How the exact figures follow" not in alpha
    assert tables(alpha)["Checkpoints that load without renaming"] == [
        ["Model", "Checkpoints of", "Built there by", "Proved by"],
        ["alpha20(port=True)", "otherlib", "otherlib.nets.alpha(depth=20)", "tests/parity/test_peers.py"],
        ["alpha20", "timm", "create_model('alpha20')", "tests/site/conftest.py"],
    ]


def test_a_work_without_code_says_why(gamma: str, delta: str) -> None:
    assert shown(section(gamma, "Models")) == "No running code here (planned): Nobody has written it yet."
    assert shown(section(delta, "Models")) == (
        "No running code here (not applicable): A regulariser has no network of its own."
    )


def test_printed_configurations(alpha: str, gamma: str) -> None:
    header = ["Configuration", "Input", "Parameters", "MACs", "Source"]
    assert tables(alpha)["As printed; not rebuilt here"] == [
        header,
        ["AlphaNet-200", "1x3x224x224", "64.5M", "15.0 GFLOPs", "(+repository)<https://github.com/doe/alpha>"],
    ]
    assert tables(gamma)["As printed; not rebuilt here"] == [
        header,
        ["GammaNet-A", "800 pixels", "not printed", "3.5 GFLOPs", "(-unverified)"],
        ["GammaNet-B", "", "44.5M", "not printed", "(+paper)<https://arxiv.org/abs/1602.00002>"],
        ["GammaNet-C", "", "90.1M", "7.5 GFLOPs", "(-unverified)"],
    ]


def test_relations_read_the_right_way_round_on_both_pages(alpha: str, beta: str, gamma: str, small_pages: Path) -> None:
    epsilon = (small_pages / "methods" / "epsilon.md").read_text("utf-8")
    related = {
        name: tables(page)["Related works in the catalogue"]
        for name, page in (("alpha", alpha), ("beta", beta), ("gamma", gamma), ("epsilon", epsilon))
    }
    header = ["", "Work", "How"]
    extends, is_backbone = "Concatenates where AlphaNet adds.", "AlphaNet is its backbone."
    is_ensemble, is_example = "AlphaNet is an ensemble.", "BetaNet is the example."
    assert related == {
        "alpha": [
            header,
            ["Used by", "GammaNet<gamma.html> (2016)", is_backbone],
            ["Extended by", "BetaNet<beta.html> (2017)", extends],
            ["Explained by", "EpsilonNet<epsilon.html> (2018)", is_ensemble],
        ],
        "beta": [
            header,
            ["Extends", "AlphaNet<alpha.html> (2015)", extends],
            ["Used by", "EpsilonNet<epsilon.html> (2018)", is_example],
        ],
        "gamma": [header, ["Uses", "AlphaNet<alpha.html> (2015)", is_backbone]],
        "epsilon": [
            header,
            ["Explains", "AlphaNet<alpha.html> (2015)", is_ensemble],
            ["Uses", "BetaNet<beta.html> (2017)", is_example],
        ],
    }


def test_the_small_family_has_ancestors_left_and_descendants_right(beta: str) -> None:
    (figure,) = re.findall(r'<figure class="skb-family">.*?</figure>', beta)
    places = re.findall(r'<a href="(\w+)\.html"><title>(.*?)</title><text x="([\d.]+)".*?text-anchor="(\w+)"', figure)
    (middle,) = re.findall(r'<text class="skb-runs" x="([\d.]+)"[^>]*>BetaNet</text>', figure)
    assert [(key, title, anchor) for key, title, _, anchor in places] == [
        ("alpha", "AlphaNet (2015): extends", "end"),
        ("epsilon", "EpsilonNet (2018): uses", "start"),
    ]
    assert float(places[0][2]) < float(middle) < float(places[1][2])
    assert re.findall(r'<path class="skb-(\w+)"', figure) == ["extends", "uses"]


def test_claims_of_the_survey(beta: str, gamma: str, delta: str) -> None:
    header = ["Where", "Column", "The survey says", "Verified"]
    paper, three = "(+paper)<https://example.com/delta.pdf>", "Table III<../tables/segmentation.html>"
    repository = "(+repository)<https://github.com/roe/delta>"
    one, two = "Table I<../tables/classification.html>", "Table II<../tables/detection.html>"
    assert tables(delta)["Claims of the survey"] == [
        header,
        [one, "Data sets", "SVHN", f"MNIST {paper}"],
        [one, "Code", "Keras", f"Theano {repository}"],
        [two, "Data sets", "VOC", f"KITTI {paper}"],
        [two, "Code", "Theano", f"Theano {repository}"],
    ]
    assert tables(beta)["Claims of the survey"] == [
        header,
        [three, "Data sets", "ISBI", "ISBI 2012 (-unverified)"],
        [three, "Code", "Caffe", "not checked (-unverified)"],
    ]
    gamma_claims = tables(gamma)["Claims of the survey"]
    assert [row[0] for row in gamma_claims[1:]] == [
        *("Table II<../tables/detection.html>",) * 2,
        *("Table IV<../tables/reconstruction.html>",) * 2,
    ]


def test_where_the_survey_has_the_work(alpha: str, beta: str, delta: str) -> None:
    firsts = [re.findall(r"<p>(.*?)</p>", section(page, "In the survey"))[0] for page in (alpha, beta, delta)]
    assert [shown(first) for first in firsts] == [
        "reference [1], section IV.A, figure 5",
        "reference [2]",
        "reference [4], section IV.B, section V.B, figure 7, figure 8",
    ]
    assert tables(delta)["Project page"] == [
        ["Place", "Listed as", "Link to the paper", "Link to code"],
        ["Part II, 3 Detection, item 12", "DeltaNet for boxes", "https://example.com/wrong.pdf", "none"],
        ["Part I, 1 Classification, item 4", "DeltaNet", "none", "https://github.com/roe/gone"],
    ]
    assert "Project page" not in tables(alpha)


def test_errata_say_where_what_and_how_sure(alpha: str, delta: str) -> None:
    theano = "The repository is written in Theano."
    items = re.findall(r'<li id="erratum-(\d+)">(.*?)</li>', delta)
    paper, repository = "(+paper)<https://example.com/delta.pdf>", "(+repository)<https://github.com/roe/delta>"
    survey = "(+survey)<https://arxiv.org/abs/2405.01725>"
    assert [(int(number), shown(text)) for number, text in items] == [
        (1, f"Table I, dataset (+confirmed) {paper} / Survey: SVHN / Truth: The paper evaluates on MNIST."),
        (
            2,
            f"Table I, framework (-disputed) {repository} / Survey: Keras / Truth: {theano}",
        ),
        (3, f"Table II, dataset (+confirmed) {paper} / Survey: VOC / Truth: The paper evaluates on KITTI."),
        (
            4,
            f"Table II, row of Delta, citation (+confirmed) {survey} / Survey: [5] / "
            "Truth: The first number of this work is 4.",
        ),
        (
            5,
            f"Table I, category (-disputed) {paper} / Survey: A network. / Truth: It is a regulariser.",
        ),
        (
            6,
            f"project page, Part I, section 1, item 4, link (+confirmed) {repository} / "
            "Survey: https://github.com/roe/gone / Truth: The code is at another address.",
        ),
    ]
    assert "Errata" not in alpha
    notes = re.findall(r'<li id="note-(\d+)">(.*?)</li>', delta)
    assert [(number, shown(text)) for number, text in notes] == [
        ("1", f"Table II {repository} / Survey: Theano / A Lasagne version came later."),
    ]
    assert "### Notes" not in alpha


def test_repositories_with_their_role_and_licence(alpha: str, beta: str, gamma: str) -> None:
    header = ["Repository", "Role", "Framework", "Licence", "What it holds"]
    assert tables(alpha)["Repositories"] == [
        header,
        [
            *("<https://github.com/doe/alpha>", "official", "PyTorch", "MIT"),
            "Models and weights. (+repository)<https://github.com/doe/alpha>",
        ],
        [
            *("<https://github.com/other/alpha-port>", "third-party", "TensorFlow 2.1", "GPL-3.0-only"),
            "A port. (+repository)<https://github.com/other/alpha-port>",
        ],
    ]
    assert tables(beta)["Repositories"][1:] == [
        [
            *("<https://example.com/beta>", "official", "Caffe", "unknown"),
            "The network definition. (-unverified)",
        ]
    ]
    assert tables(gamma)["Repositories"][1][:2] == ["<https://github.com/other/gamma>", "third-party"]


def test_peers_and_results(alpha: str, gamma: str) -> None:
    assert tables(alpha)["Peers"] == [
        ["Library", "Constructor", "Parameters", "Compared with ours", "Difference"],
        ["somelib 0.3.1", "alphanet(20)", "1,234,599", "not compared", "32 more biases. (+counted)"],
        [
            *("otherlib 1.0", "otherlib.nets.alpha(depth=20)", "1,234,567"),
            *("same outputs and gradients as alpha20(port=True), compared by a test", "none (+counted)"),
        ],
    ]
    header = ["Data set", "Metric", "Value", "Configuration", "Source"]
    assert tables(alpha)["As printed"] == [
        header,
        ["CIFAR-10", "error", "6.43%", "AlphaNet of 20 layers", "(+paper)<https://arxiv.org/abs/1501.00001>"],
    ]
    assert tables(gamma)["As printed"] == [header, ["MS COCO 2017", "AP", "41.2", "GammaNet-B", "(-unverified)"]]


def test_deviations_are_listed_with_reason_and_test(alpha: str, beta: str) -> None:
    assert shown(section(alpha, "Deviations from the paper")) == "None known."
    assert shown(section(beta, "Deviations from the paper")) == (
        "The mean replaces the sum. Why: It does not depend on the size. Pinned by tests/site/conftest.py."
    )


def test_the_record_and_the_source_are_the_works_own(alpha: str, beta: str) -> None:
    assert section(alpha, "Cite").lstrip().startswith("```bibtex\n@inproceedings{doe2015alpha,\n")
    source = (Path(__file__).parents[2] / "skipkb" / "models" / "classification" / "highway.py").read_text("utf-8")
    for page in (alpha, beta):
        implementation = section(page, "Implementation")
        assert implementation.count("<summary>") == 1  # both models of BetaNet are in one file
        assert "<summary><code>skipkb/models/classification/highway.py</code></summary>" in implementation
        assert source.rstrip() in implementation
