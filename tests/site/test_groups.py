"""Pages by theme, explanation, task, data set, venue, year and framework: each work where it belongs, once."""

from __future__ import annotations

import re
from collections import Counter

import pytest

from skipkb.catalog.loading import Catalogue
from skipkb.site.groups import anchor, group_pages, method_chips, section_page_name, section_titles, venue_links
from skipkb.vocabulary import dataset_name, framework_names, venue_series

from .real import load  # type: ignore[import-not-found]

INDEXES = ("tasks", "datasets", "venues", "frameworks", "years")


@pytest.fixture(scope="module")
def pages() -> dict[str, str]:
    return group_pages(load())


def sections(page: str) -> dict[str, list[str]]:
    """The works on a page of groups, by the group's anchor."""
    found: dict[str, list[str]] = {}
    for part in re.split(r"^## ", page, flags=re.M)[1:]:
        items = re.findall(r'<li id="([^"]+)">(.*?)</li>', part)
        if not items:
            (name,) = re.findall(r"\{ #(\S+) \}", part)
            items = [(name, part)]
        for name, text in items:
            assert name not in found, f"two groups have the address {name}"
            found[name] = re.findall(r'href="methods/([^"]+)\.html"', text)
    return found


def test_a_section_of_the_survey_lists_its_works_once_in_order_of_year(pages: dict[str, str]) -> None:
    works = load().entries
    for name, title in section_titles(load()).items():
        page = pages[f"{section_page_name(name)}.md"]
        assert f"# {name} {title}\n" in page
        keys = re.findall(r'href="\.\./methods/([^"]+)\.html"', page)
        assert Counter(keys) == Counter(k for k, w in works.items() if name in (*w.themes, *w.explanations))
        years = [works[key].year for key in keys]
        assert years == sorted(years)
        assert keys


@pytest.mark.parametrize("index", INDEXES)
def test_each_work_is_once_in_each_of_its_groups(pages: dict[str, str], index: str) -> None:
    expected: dict[str, set[str]] = {}
    for key, work in load().entries.items():
        names = {
            "tasks": work.tasks,
            "datasets": map(dataset_name, work.datasets),
            "venues": [venue_series(work.venue)],
            "frameworks": [name for r in work.code for name in framework_names(r.framework)],
            "years": [str(work.year)],
        }[index]
        for name in names:
            expected.setdefault(anchor(name), set()).add(key)
    found = sections(pages[f"{index}.md"])
    assert {name: set(keys) for name, keys in found.items()} == expected
    assert all(len(keys) == len(set(keys)) for keys in found.values())


def test_chips_of_a_work_lead_to_groups_that_have_it(pages: dict[str, str]) -> None:
    groups = {index: sections(pages[f"{index}.md"]) for index in INDEXES}
    catalogue = load()
    for work in catalogue.entries.values():
        targets = re.findall(r'href="\.\./([^"]+)"', method_chips(work, catalogue) + venue_links(work))
        assert len(targets) >= len(work.tasks) + len(work.themes) + len(work.explanations) + 2
        for target in targets:
            page, _, name = target.partition("#")
            if name:
                assert work.key in groups[page.removesuffix(".html")][name]
            else:
                assert f'href="../methods/{work.key}.html"' in pages[page.replace(".html", ".md")]


@pytest.mark.parametrize(
    ("spelling", "name"),
    [
        ("Advances in Neural Information Processing Systems (NeurIPS)", "NeurIPS"),
        ("IEEE/CVF Conference on Computer Vision and Pattern Recognition (CVPR)", "CVPR"),
        ("IEEE/CVF Conference on Computer Vision and Pattern Recognition Workshops (CVPRW)", "CVPR workshops"),
        ("IEEE Transactions on Pattern Analysis and Machine Intelligence", "TPAMI"),
        ("British Machine Vision Conference (BMVC)", "BMVC"),
        ("Journal of Nothing", "Journal of Nothing"),
    ],
)
def test_venues_go_by_their_series(spelling: str, name: str) -> None:
    assert venue_series(spelling) == name


@pytest.mark.parametrize(
    ("spelling", "name"),
    [
        ("MS COCO keypoints", "MS COCO"),
        ("ImageNet ILSVRC-2012", "ImageNet-1K"),
        ("ImageNet ILSVRC-2010", "ImageNet ILSVRC-2010"),
        ("ImageNet32", "ImageNet32"),
        ("ImageNet-22K", "ImageNet-21K"),
        ("COCO-Stuff 10k", "COCO-Stuff 10k"),
    ],
)
def test_data_sets_go_by_one_spelling(spelling: str, name: str) -> None:
    assert dataset_name(spelling) == name


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("TensorFlow 1.14", ["TensorFlow"]),
        ("Caffe, PyTorch (mmdetection)", ["Caffe", "PyTorch"]),
        ("cuda-convnet (C++, CUDA)", ["cuda-convnet"]),
        ("CUDA, C++ with Python 2", ["CUDA", "C++", "Python"]),
        ("Caffe2", ["Caffe2"]),
        ("none", []),
    ],
)
def test_frameworks_are_split_and_lose_their_versions(text: str, names: list[str]) -> None:
    assert framework_names(text) == names


def test_the_overview_leads_to_every_page_and_to_groups_that_exist(pages: dict[str, str]) -> None:
    overview = pages["browse.md"]
    for name in pages:
        assert name == "browse.md" or f'href="{name.removesuffix(".md")}.html' in overview
    for page, name, count in re.findall(r'href="(\w+)\.html#([^"]+)">[^<]*: (\d+)</a>', overview):
        assert len(sections(pages[f"{page}.md"])[name]) == int(count)


def test_names_are_escaped() -> None:
    catalogue = load()
    key = next(iter(catalogue.entries))
    nasty = "<script>alert(1)</script>[x](y)"
    work = catalogue.entries[key].model_copy(update={"name": nasty, "datasets": [nasty], "venue": nasty})
    for page in group_pages(Catalogue(catalogue.survey, {key: work}, catalogue.references)).values():
        body = re.sub(r"<script type.*?</script>", "", page)
        assert "<script" not in body
        assert "[x]" not in body
