"""The rows of the survey's four tables, written down from its text: table, order, name and reference number.

The catalogue is generated from nothing here; a row that gets lost, moves or changes its name is seen.
"""

from __future__ import annotations

from collections import Counter

import pytest

from skipkb.catalog.loading import load
from skipkb.catalog.paths import PACKAGE

ROWS: dict[str, str] = {
    "classification": """
        ResNet [1]; Highway Net [47]; PyramidNet [96]; Wu et. al [58]; ResNeXt [80]; DenseNet [75];
        Inception-v4 [79]; DPN [59]; WRN [60]; i-ResNet [61]; Mark et. al [62]; Wang et.al [63]; MaxViT
        [64]; MLP-Mixer [65]; ConvNeXt [66]; Uninet [67]; CBAM [85]; Res2Net [81]
    """,
    "detection": """
        Mask R-CNN [168]; YOLOv3 [169]; MaxViT [64]; ConvNeXt [66]; ScratchDet [170]; PoolNet [171]; CPD
        [172]; OPANAS [173]; RetinaNet [174]; U2-Net [175]
    """,
    "segmentation": """
        FCN [68]; U-Net [69]; SegNet [70]; DiSegNet [71]; Unet++ [72]; nnU-Net [73]; ResUNet-a [77]; ConvNet
        [78]; Inception-ResNet [79]; DANet [86]; DeepLab [91]; DeepLabv3 [92]; DeepLabv3+ [93]; ESPNet
        [100]; ESPNetv2 [101]; DCU-Net [107]; CCNet [117]; EMANet [118]; Swin Transformer [120]; TransUNet
        [124]; TransGAN [125]; SAM [149]
    """,
    "reconstruction": """
        SlimCAEs [176]; MAXIM [177]; GMM-and-Attention [178]; GAN Compression [179]; D-BSN [180]; D2HNe
        [181]; DDRNet [182]; R2R [183]; MWDCNN [184]; DeamNet [185]; NBNet [186]; DeFMO [187]; PSD [188];
        MIMO-UNet [189]; DarkDeblurNet [190]; MSFS-Net [191]; UFPNet [192]; JCD [193]; MIRNet [194]; MemNet
        [195]; Idinvert [196]; IRN [197]; RIAD [198]; ELAN [199]; SwinIR [200]; Uformer [201]; RFDN [202]
    """,
}


@pytest.mark.parametrize("table", ROWS)
def test_no_row_is_lost(table: str) -> None:
    catalogue = load()
    (found,) = [each for each in catalogue.survey.tables if each.key == table]
    printed = [" ".join(row.split()) for row in ROWS[table].split(";")]
    ours = []
    for key in found.rows:
        work = catalogue.entries[key]
        (row,) = [row for row in work.survey.rows if row.table == table]
        ours.append(f"{row.name} [{work.survey.reference}]")
    assert ours == printed
    assert found.survey_rows == len(printed)


def test_groups_of_table_four() -> None:
    catalogue = load()
    (found,) = [each for each in catalogue.survey.tables if each.key == "reconstruction"]
    groups = [row.group for key in found.rows for row in catalogue.entries[key].survey.rows if row.table == found.key]
    assert groups == ["Compression"] * 4 + ["Denoise"] * 7 + ["Deblur"] * 7 + ["Super-Resolution"] * 9


def test_every_reference_has_a_record() -> None:
    catalogue = load()
    references = catalogue.survey.references
    assert len(references) == 202
    assert references[134] == references[138]  # one paper, listed twice
    assert len(set(references)) == 201
    assert set(references) <= set(catalogue.references)


def test_how_many_references_are_entries_is_what_the_readme_says() -> None:
    catalogue = load()
    surveys = [work.survey for work in catalogue.entries.values()]
    numbers = {number for survey in surveys for number in [survey.reference, *survey.repeated] if number}
    for name in ("README.md", "CHANGELOG.md", "docs/index.md"):
        text = (PACKAGE.parent / name).read_text("utf-8")
        assert f"{len(numbers)}" in text, name
        assert str(202 - len(numbers)) in text or name == "docs/index.md", name


NAMED_IN_THE_TEXT = [
    "alexnet", "curl_pruning", "dcn", "drn", "ghostnet", "googlenet", "mobilenet_v1", "mobilenet_v2", "mobilenet_v3",
    "mobilenext", "nin", "preact_resnet", "reskd", "resnest", "senet", "shake_shake", "shakedrop", "shufflenet",
    "sknet", "srnet", "stochastic_depth", "xception",
]  # fmt: skip
"""Classification methods and residual units of sections IV.B to IV.D and V.C that stand in no table."""


def test_table_one_runs_and_what_the_text_names_beside_it() -> None:
    catalogue = load()
    (table,) = [each for each in catalogue.survey.tables if each.key == "classification"]
    for key in [*table.rows, *NAMED_IN_THE_TEXT]:
        entry = catalogue.entries[key]
        assert entry.variants, f"{key} does not run"
        assert entry.smoke
        assert entry.implementation is None


PAGE_ITEMS = {
    "I": {"1": 11, "2": 5, "3": 26, "4": 11, "5": 11},
    "II": {"1": 16, "2": 10, "3": 21, "4": 4, "5": 7, "6": 7, "7": 9},
    "III": {"1": 5, "2": 2, "3": 4, "4": 4, "5": 1},
}
"""How many items the survey's project page lists, by part and section; in the first of Part II two have number 14."""


def test_every_item_of_the_project_page_stands_in_an_entry() -> None:
    items = [item for work in load().entries.values() for item in work.survey.page]
    found = Counter((item.part, item.section.partition(".")[0]) for item in items)
    assert found == {(part, number): n for part, sections in PAGE_ITEMS.items() for number, n in sections.items()}
    assert len(items) == 154
