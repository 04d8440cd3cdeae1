"""The pictures of the contract: real, deterministic, and what each task promises."""

from __future__ import annotations

import socket

import pytest
import torch
from torch.nn import functional as F

from skipkb.evidence import pictures

SHAPES = [(2, 3, 48, 64), (3, 1, 40, 40)]


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object, **kwargs: object) -> None:
        raise AssertionError("a picture was asked for over the network")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)


@pytest.mark.parametrize("task", pictures.TASKS)
@pytest.mark.parametrize("shape", SHAPES)
def test_a_batch_has_the_shape_asked_for_and_never_changes(task: str, shape: tuple[int, ...]) -> None:
    torch.manual_seed(5)
    x, target = pictures.batch(task, shape)
    torch.manual_seed(6)
    state = torch.get_rng_state()
    again, target_again = pictures.batch(task, shape)
    assert torch.equal(torch.get_rng_state(), state), "the global generator was used"
    assert x.shape == shape
    assert x.dtype == torch.float32
    assert torch.equal(x, again)
    assert str(target) == str(target_again)
    if task != "denoising":
        assert x.min() >= 0
        assert x.max() <= 1
    assert all(image.std() > 0.02 for image in x), "a picture shows something"
    if shape[0] > 1:
        assert not torch.equal(x[0], x[1])


def test_every_photograph_is_in_the_wheels_and_has_its_own_label() -> None:
    x, labels = pictures.batch("classification", (20, 3, 16, 16))
    assert labels.tolist() == [*range(10), *range(10)]
    assert not torch.equal(x[0], x[10]), "two crops of one photograph differ"
    colours = x[:10].mean(dim=(2, 3))
    assert torch.pdist(colours).min() > 0.01, "the photographs differ"


def test_digits_are_what_their_labels_say() -> None:
    from sklearn.datasets import load_digits
    from sklearn.linear_model import LogisticRegression

    known = load_digits()
    reader = LogisticRegression(max_iter=200).fit(known.data[200:] / 16, known.target[200:])
    x, labels = pictures.batch("classification", (100, 1, 8, 8), num_classes=10)
    assert (reader.predict(x.flatten(1).numpy()) == labels.numpy()).mean() > 0.8


def test_every_coin_has_a_box_that_is_brighter_than_the_table() -> None:
    x, target = pictures.batch("detection", (3, 1, 303, 384))
    assert len(target[0]["boxes"]) == 24
    _, masks = pictures.batch("segmentation", (3, 1, 303, 384))
    for image, mask, found in zip(x, masks, target, strict=True):
        assert found["labels"].tolist() == [1] * len(found["boxes"])
        assert image[0][mask == 1].mean() > image[0][mask == 0].mean() + 0.1
        for left, top, right, bottom in found["boxes"].round().long().tolist():
            assert 0 <= left < right <= 384
            assert 0 <= top < bottom <= 303
            assert mask[top:bottom, left:right].float().mean() > 0.6  # a disc fills pi/4 of its box


def test_boxes_move_with_the_scale_of_the_picture() -> None:
    _, small = pictures.batch("detection", (1, 1, 101, 128))
    _, large = pictures.batch("detection", (1, 1, 202, 256))
    torch.testing.assert_close(2 * small[0]["boxes"], large[0]["boxes"])


def test_the_mask_can_be_cropped_to_the_output_of_an_unpadded_network() -> None:
    _, whole = pictures.batch("segmentation", (2, 1, 188, 188))
    _, centre = pictures.batch("segmentation", (2, 1, 188, 188), output_size=[100, 98])
    assert torch.equal(centre, whole[:, 44:144, 45:143])
    assert set(whole.unique().tolist()) == {0, 1}
    assert whole.dtype == torch.long


def test_the_noise_has_the_strength_asked_for() -> None:
    x, clean = pictures.batch("denoising", (2, 3, 96, 96), sigma=50)
    assert (x - clean).std().item() == pytest.approx(50 / 255, rel=0.02)
    assert 0 <= clean.min() <= clean.max() <= 1


@pytest.mark.parametrize("scale", [2, 3])
def test_the_small_picture_is_the_large_one_reduced(scale: int) -> None:
    x, large = pictures.batch("super-resolution", (2, 3, 24, 20), scale=scale)
    assert large.shape == (2, 3, 24 * scale, 20 * scale)
    assert (F.interpolate(x, large.shape[-2:], mode="bicubic") - large).abs().mean() < 0.05


def test_photographs_need_not_be_small() -> None:
    assert pictures.photograph((1, 3, 600, 700)).shape == (1, 3, 600, 700)
    assert pictures.batch("denoising", (1, 3, 600, 700))[1].shape == (1, 3, 600, 700)


@pytest.mark.parametrize(
    ("task", "shape", "kwargs", "message"),
    [
        ("tracking", (1, 3, 8, 8), {}, "no task 'tracking'; tasks are classification, detection"),
        ("denoising", (1, 3, 8, 8), {"noise": 3}, "denoising takes no 'noise'; it takes sigma"),
        ("detection", (1, 3, 8, 8), {"num_classes": 3}, "no 'num_classes'; it takes no keyword"),
        ("denoising", (1, 2, 8, 8), {}, "asks for 2 channels; pictures have 1 or 3"),
        ("denoising", (3, 8, 8), {}, r"\[N, C, H, W\]"),
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
        pictures.batch(task, shape, **kwargs)
