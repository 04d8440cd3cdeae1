"""The data of the contract: real, deterministic, and what each kind promises."""

from __future__ import annotations

import socket
from typing import get_args

import pytest
import torch
from torch.nn import functional as F

from skipkb.evidence import data
from skipkb.evidence.data.sources import photograph
from skipkb.vocabulary import TABLE_DATA, DataKind

SHAPES = [(2, 3, 48, 64), (3, 1, 40, 40)]


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object, **kwargs: object) -> None:
        raise AssertionError("a picture was asked for over the network")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)


def shapes_of(kind: str) -> list[tuple[int, ...]]:
    shapes: dict[str, list[tuple[int, ...]]] = {
        "volume-segmentation": [(2, 1, 12, 32, 40), (1, 1, 8, 20, 20)],
        "generation": [(2, 16), (3, 64)],
        "sequence": [(2, 8), (3, 150)],
    }
    return [*shapes.get(kind, SHAPES)]


@pytest.mark.parametrize(("kind", "shape"), [(kind, shape) for kind in data.KINDS for shape in shapes_of(kind)])
def test_a_batch_has_the_shape_asked_for_and_never_changes(kind: str, shape: tuple[int, ...]) -> None:
    torch.manual_seed(5)
    first, target = data.batch(kind, shape)
    torch.manual_seed(6)
    state = torch.get_rng_state()
    again, target_again = data.batch(kind, shape)
    assert torch.equal(torch.get_rng_state(), state), "the global generator was used"
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    for others in (data.inputs(kind, shape), data.blank(kind, shape)):
        assert [(x.shape, x.dtype) for x in others] == [(x.shape, x.dtype) for x in first]
    assert all(x.is_meta for x in data.blank(kind, shape))
    x = first[0]
    assert x.shape == shape
    assert x.dtype == (torch.long if kind == "sequence" else torch.float32)
    assert str(target) == str(target_again)
    if kind not in ("denoising", "generation", "sequence"):
        assert x.min() >= 0
        assert x.max() <= 1
    assert all(image.float().std() > 0.02 for image in x), "a picture shows something"
    if shape[0] > 1:
        assert not torch.equal(x[0], x[1])


def test_every_photograph_is_in_the_wheels_and_has_its_own_label() -> None:
    (x,), labels = data.batch("classification", (20, 3, 16, 16))
    assert labels.tolist() == [*range(10), *range(10)]
    assert not torch.equal(x[0], x[10]), "two crops of one photograph differ"
    colours = x[:10].mean(dim=(2, 3))
    assert torch.pdist(colours).min() > 0.01, "the photographs differ"


def test_digits_are_what_their_labels_say() -> None:
    from sklearn.datasets import load_digits
    from sklearn.linear_model import LogisticRegression

    known = load_digits()
    reader = LogisticRegression(max_iter=200).fit(known.data[200:] / 16, known.target[200:])
    (x,), labels = data.batch("classification", (100, 1, 8, 8), num_classes=10)
    assert (reader.predict(x.flatten(1).numpy()) == labels.numpy()).mean() > 0.8


def test_every_coin_has_a_box_that_is_brighter_than_the_table() -> None:
    (x,), target = data.batch("detection", (3, 1, 303, 384))
    assert len(target[0]["boxes"]) == 24
    _, masks = data.batch("segmentation", (3, 1, 303, 384))
    for image, mask, found in zip(x, masks, target, strict=True):
        assert found["labels"].tolist() == [1] * len(found["boxes"])
        assert image[0][mask == 1].mean() > image[0][mask == 0].mean() + 0.1
        for left, top, right, bottom in found["boxes"].round().long().tolist():
            assert 0 <= left < right <= 384
            assert 0 <= top < bottom <= 303
            assert mask[top:bottom, left:right].float().mean() > 0.6  # a disc fills pi/4 of its box


def test_boxes_move_with_the_scale_of_the_picture() -> None:
    _, small = data.batch("detection", (1, 1, 101, 128))
    _, large = data.batch("detection", (1, 1, 202, 256))
    torch.testing.assert_close(2 * small[0]["boxes"], large[0]["boxes"])


def test_the_mask_can_be_cropped_to_the_output_of_an_unpadded_network() -> None:
    _, whole = data.batch("segmentation", (2, 1, 188, 188))
    _, centre = data.batch("segmentation", (2, 1, 188, 188), output_size=[100, 98])
    assert torch.equal(centre, whole[:, 44:144, 45:143])
    assert set(whole.unique().tolist()) == {0, 1}
    assert whole.dtype == torch.long


def test_the_noise_has_the_strength_asked_for() -> None:
    (x,), clean = data.batch("denoising", (2, 3, 96, 96), sigma=50)
    assert (x - clean).std().item() == pytest.approx(50 / 255, rel=0.02)
    assert 0 <= clean.min() <= clean.max() <= 1


@pytest.mark.parametrize("scale", [2, 3])
def test_the_small_picture_is_the_large_one_reduced(scale: int) -> None:
    (x,), large = data.batch("super-resolution", (2, 3, 24, 20), scale=scale)
    assert large.shape == (2, 3, 24 * scale, 20 * scale)
    assert (F.interpolate(x, large.shape[-2:], mode="bicubic") - large).abs().mean() < 0.05


def test_photographs_need_not_be_small() -> None:
    assert photograph((1, 3, 600, 700)).shape == (1, 3, 600, 700)
    assert data.batch("denoising", (1, 3, 600, 700))[1].shape == (1, 3, 600, 700)


@pytest.mark.parametrize(
    ("task", "shape", "kwargs", "message"),
    [
        ("tracking", (1, 3, 8, 8), {}, "no data for 'tracking'; kinds are classification, detection"),
        ("denoising", (1, 3, 8, 8), {"noise": 3}, "denoising takes no 'noise'; it takes sigma"),
        ("detection", (1, 3, 8, 8), {"num_classes": 3}, "no 'num_classes'; it takes no keyword"),
        ("denoising", (1, 2, 8, 8), {}, "asks for 2 channels; pictures have 1 or 3"),
        ("denoising", (3, 8, 8), {}, r"\[N, C, H, W\]"),
        ("volume-segmentation", (1, 3, 8, 8, 8), {}, r"volumes have the shape \[N, 1, D, H, W\]"),
        ("generation", (1, 3, 8, 8), {}, r"noise has the shape \[N, L\]"),
        ("generation", (1, 8), {"size": 0}, "at least one pixel"),
        ("sequence", (1, 3, 8), {}, r"sequences have the shape \[N, L\]"),
        ("sequence", (1, 0), {}, r"sequences have the shape \[N, L\]"),
        ("denoising", (1, 3, 8, 8), {"sigma": 300}, "scale 0..255"),
        ("classification", (1, 3, 8, 8), {"num_classes": 11}, "between 1 and 10"),
        ("classification", (1, 3, 8, 8), {"source": "letters"}, "'photographs' or 'digits'"),
        ("segmentation", (1, 1, 8, 8), {"num_classes": 3}, "2 classes"),
        ("segmentation", (1, 1, 8, 8), {"output_size": [9, 8]}, "larger than the input"),
        ("super-resolution", (1, 3, 8, 8), {"scale": 0}, "at least 1"),
    ],
)
def test_what_cannot_be_served_is_said(task: str, shape: tuple[int, ...], kwargs: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        data.batch(task, shape, **kwargs)


def test_a_voxel_is_behind_the_surface_where_the_second_camera_sees_it_further_left() -> None:
    (volume,), behind = data.batch("volume-segmentation", (1, 1, 20, 60, 60))
    assert behind.shape == (1, 20, 60, 60)
    assert behind[0].diff(dim=0).max() <= 0, "once in front of the surface, always in front"
    assert 0.1 < behind.float().mean() < 0.9
    edge = -behind[0].diff(dim=0, append=torch.zeros(1, 60, 60, dtype=torch.long))
    at_the_surface, everywhere = volume[0, 0][edge.bool()].mean(), volume.mean()
    assert at_the_surface < 0.6 * everywhere, "the photographs agree where the surface is"


def test_a_click_lies_on_the_coin_that_is_meant() -> None:
    (picture, points, labels, boxes), mask = data.batch("prompted-segmentation", (3, 1, 96, 128))
    assert labels.tolist() == [[1, 0]] * 3
    for i in range(3):
        (x, y), (beside_x, beside_y) = points[i].long().tolist()
        assert mask[i, y, x] == 1
        assert mask[i, beside_y, beside_x] == 0
        assert 0 < mask[i].float().mean() < 0.5, "one coin, not all"
        left, top, right, bottom = boxes[i].round().long().tolist()
        assert mask[i, top : bottom + 1, left : right + 1].sum() >= 0.98 * mask[i].sum()
        assert picture[i, 0][mask[i] == 1].mean() > picture.mean()


@pytest.mark.parametrize("reverse", [False, True])
def test_a_sequence_is_rows_of_a_digit_and_the_target_says_it_again(reverse: bool) -> None:
    from sklearn.datasets import load_digits

    digits = load_digits().images[:3, 3:5].reshape(3, 16)
    (source, so_far), target = data.batch("sequence", (3, 16), reverse=reverse)
    assert torch.equal(source, torch.tensor(digits).long() + 1), "0 is kept for the beginning"
    assert torch.equal(target, source.flip(1) if reverse else source)
    assert torch.equal(so_far[:, 1:], target[:, :-1]), "what is to be said is not yet known"
    assert not so_far[:, 0].any()


def test_long_sequences_go_on_in_the_next_digit_and_share_nothing() -> None:
    (source, _), _ = data.batch("sequence", (2, 100))
    (first, _), _ = data.batch("sequence", (4, 40))
    assert torch.equal(source[0, :40], first[0])
    assert torch.equal(source[0, 64:], first[1, :36])
    assert torch.equal(source[1, :40], first[2])


def test_every_kind_of_data_makes_a_row_of_some_table_run() -> None:
    """But for sequences: the survey's four tables are of networks for pictures."""
    in_tables = {kind for kinds in TABLE_DATA.values() for kind in kinds}
    assert set(data.KINDS) == set(get_args(DataKind)) == in_tables | {"sequence"}
    assert "sequence" not in in_tables


def test_an_output_of_another_shape_is_refused_with_the_one_that_was_wanted() -> None:
    for kind in data.KINDS:
        if kind == "detection":
            continue
        shape = shapes_of(kind)[0]
        _, target = data.batch(kind, shape)
        wrong = torch.zeros(2, 7, 9)
        assert data.misfit(kind, wrong, target), kind
        size = [2, 5, *target.shape[1:]] if "segmentation" in kind else [2, 5]
        size = [*target.shape, 5] if kind == "sequence" else size
        right = torch.zeros_like(target) if target.is_floating_point() else torch.zeros(size)
        assert data.misfit(kind, right, target) is None, kind
