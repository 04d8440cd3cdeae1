"""ResKD: logits add up, what is finished stays, the gap closes, and easy pictures ask fewer networks."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional as F

import skipkb
from skipkb.evidence.contract import resolve
from skipkb.models.classification import reskd
from skipkb.models.classification.reskd import ResKD, distil, distillation
from skipkb.models.classification.resnet import resnet_cifar


def small(key: str) -> nn.Module:
    """One of our networks, by the small configuration of its entry."""
    smoke: Any = skipkb.get(key).smoke
    net: nn.Module = resolve(smoke.build)(**smoke.kwargs)
    return net


def tiny(depth: int = 8) -> nn.Module:
    return resnet_cifar(depth=depth, widths=(4, 8, 16), num_classes=10)


def digits(count: int) -> tuple[Tensor, Tensor]:
    data = load_digits()
    x = torch.tensor(data.images[:count], dtype=torch.float32).unsqueeze(1).expand(-1, 3, -1, -1) / 16
    return F.interpolate(x, size=32), torch.tensor(data.target[:count])


# --- the sum ------------------------------------------------------------------------------------------------


def test_the_logits_add_up() -> None:
    nets = [tiny(), tiny(14), tiny()]
    model, x = ResKD(*nets).eval(), torch.randn(3, 3, 32, 32)
    assert torch.allclose(model(x), sum(net(x) for net in nets), atol=1e-6)


def test_a_res_student_that_learnt_the_whole_gap_gives_the_teacher() -> None:
    class Gap(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.teacher, self.student = teacher, student

        def forward(self, x: Tensor) -> Tensor:
            gap: Tensor = self.teacher(x) - self.student(x)
            return gap

    teacher, student = tiny(14).eval(), tiny().eval()
    x = torch.randn(4, 3, 32, 32)
    assert torch.allclose(ResKD(student, Gap())(x), teacher(x), atol=1e-6)
    assert not torch.allclose(ResKD(student)(x), teacher(x), atol=0.1)


def test_the_sum_of_networks_is_no_skip() -> None:
    """Branches of equal standing: the skips found are those inside of the two ResNets."""
    with torch.device("meta"):
        model = reskd.reskd_resnet20().eval()
    parts = [skipkb.trace_skips(net, (1, 3, 32, 32)).counts() for net in (model.student, *model.res_students)]
    assert skipkb.trace_skips(model, (1, 3, 32, 32)).counts() == parts[0] + parts[1]


def test_different_classes() -> None:
    model = ResKD(tiny(), resnet_cifar(depth=8, widths=(4, 8, 16), num_classes=7)).eval()
    with pytest.raises(ValueError, match="res-student 0 has 7 classes, those before it 10"):
        model(torch.randn(1, 3, 32, 32))
    with pytest.raises(ValueError, match="res-student 0 has 7 classes"):
        model.adaptive(torch.randn(1, 3, 32, 32), confidence=2)


# --- learning -----------------------------------------------------------------------------------------------


def test_only_the_newest_learns() -> None:
    model = ResKD(tiny())
    model.add(tiny())
    model.add(tiny())
    before = copy.deepcopy(model.state_dict())
    x, y = digits(60)
    distil(model, tiny(14), [(x, y)])
    changed = {key.rpartition("_")[0] if "tracked" in key else key for key, value in model.state_dict().items()
               if not torch.equal(value, before[key])}  # fmt: skip
    assert changed
    assert all(key.startswith("res_students.1.") for key in changed)  # the running averages of the others included
    assert all(p.grad is None for p in model.student.parameters())


@pytest.mark.parametrize("key", ["resnet", "preact_resnet", "wrn", "densenet", "mobilenet_v2", "resnext", "senet"])
def test_a_res_student_closes_the_gap(key: str) -> None:
    """With any residual network of ours as teacher and student: the sum is nearer to the teacher."""
    smoke: Any = skipkb.get(key).smoke
    teacher, model = small(key).eval(), ResKD(small(key))
    assert smoke.data == "classification"
    x = F.interpolate(digits(32)[0], size=smoke.input[2:])
    y = torch.zeros(32, dtype=torch.long)
    with torch.no_grad():  # an untrained teacher whose answers differ between pictures
        for module in teacher.modules():
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight)
            elif isinstance(module, nn.BatchNorm2d):
                module.momentum = None
        teacher.train()(x)
        teacher.eval()
    model.add(small(key))
    with torch.no_grad():
        alone = distillation(model.eval().student(x), teacher(x))
    optimiser = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=0.003)
    for _ in range(10):
        distil(model, teacher, [(x, y)], optimiser=optimiser, hard=0)
    with torch.no_grad():
        gap = distillation(model.train()(x), teacher(x))
    assert gap < 0.8 * alone


def test_the_teacher_stays() -> None:
    teacher = tiny().train()
    before = copy.deepcopy(teacher.state_dict())
    x, y = digits(20)
    losses = distil(ResKD(tiny()), teacher, [(x, y), (x, y)])
    assert len(losses) == 2
    assert teacher.training
    assert all(torch.equal(value, before[key]) for key, value in teacher.state_dict().items())


def test_the_gap_is_a_softened_divergence() -> None:
    output, teacher = torch.randn(4, 5), torch.randn(4, 5)
    p, q = F.softmax(teacher / 4, 1), F.softmax(output / 4, 1)
    assert distillation(output, teacher).item() == pytest.approx(
        16 * (p * (p / q).log()).sum(1).mean().item(), rel=1e-4
    )
    assert distillation(teacher + 3, teacher).item() == pytest.approx(0, abs=1e-5)  # a constant changes no answer


# --- adaptive -----------------------------------------------------------------------------------------------


def test_each_picture_asks_as_many_as_it_needs() -> None:
    model, x = ResKD(tiny(), tiny(), tiny()).eval(), torch.randn(12, 3, 32, 32)
    seen: list[int] = []
    for net in model.res_students:
        net.register_forward_hook(lambda module, args, output: seen.append(len(args[0])))
    with torch.no_grad():
        sums = [model.student(x)]
        for net in model.res_students:
            sums.append(sums[-1] + net(x))
    seen.clear()
    sure = [total.softmax(1).amax(1) for total in sums]
    confidence = sure[0].median().item()
    logits, asked = model.adaptive(x, confidence=confidence)
    assert 0 < (asked == 1).sum() < 12
    for picture, (row, count) in enumerate(zip(logits, asked.tolist(), strict=True)):
        assert torch.allclose(row, sums[count - 1][picture], atol=1e-5)
        assert all(sure[i][picture] < confidence for i in range(count - 1))
        assert count == 3 or sure[count - 1][picture] >= confidence
    assert seen == [n for n in (int((asked > 1).sum()), int((asked > 2).sum())) if n]  # nothing else was computed


def test_from_the_student_alone_to_all() -> None:
    model, x = ResKD(tiny(), tiny()).eval(), torch.randn(4, 3, 32, 32)
    logits, asked = model.adaptive(x, confidence=0)
    assert asked.tolist() == [1] * 4
    assert torch.allclose(logits, model.student(x), atol=1e-6)
    logits, asked = model.adaptive(x, confidence=1.1)
    assert asked.tolist() == [2] * 4
    assert torch.allclose(logits, model(x), atol=1e-6)
