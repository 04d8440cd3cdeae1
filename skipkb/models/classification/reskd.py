r"""ResKD: a small network that learns what another one still lacks.

A student imitates a teacher, and a gap stays, because it is small. ResKD treats this gap as ResNet treats a layer's: it
is a residual, and another network still smaller, the res-student :math:`R_1`, learns it. Its logits are added to the
student's, and the sum is a better student, which has a smaller gap that the next res-student can learn:

.. math::  S_{i+1}(x) = S_i(x) + R_{i+1}(x), \qquad R_{i+1}(x) \approx T(x) - S_i(x)

This is ResNet's skip on the scale of networks: all that was learnt before goes past the new one, unchanged. It carries
logits, not feature maps, and nothing changes inside the networks. An easy picture does not need all of them: where the
sum so far is sure of its answer, the remaining res-students are not asked (:meth:`ResKD.adaptive`).

:func:`distil` runs with any classifiers as teacher, student and res-students.

X. Li, S. Li, B. Omar, F. Wu, X. Li: "ResKD: Residual-Guided Knowledge Distillation", IEEE Transactions on Image
Processing 30, 2021, pp. 4735-4746, arXiv:2006.04719.

Deviations from the paper: its authors published no code, and only the abstract of the paper was available to us. It
leaves open how the loss measures the gap (here: the divergence of softened answers, as usual in distillation), by which
rule a res-student is left out for a picture (here: by the largest probability), and which res-students the paper uses
(it searches for them; here the caller gives them).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from skipkb.models.classification.resnet import resnet_cifar
from skipkb.nn.objectives import cross_entropy as objective

__all__ = ["ResKD", "distil", "distillation", "objective", "reskd_resnet", "reskd_resnet20"]


class ResKD(nn.Module):
    """A student and the res-students that stand by it.

    Args:
        student: pictures [N, C, H, W] -> logits [N, K].
        res_students: of the same kind, in the order in which they were added.
    """

    def __init__(self, student: nn.Module, *res_students: nn.Module) -> None:
        super().__init__()
        self.student = student
        self.res_students = nn.ModuleList(res_students)
        self.finished = 0

    def forward(self, x: Tensor) -> Tensor:
        """Logits [N, K] of all of them together.

        Raises:
            ValueError: a res-student that knows other classes.
        """
        logits: Tensor = self.student(x)
        for number, res_student in enumerate(self.res_students):
            logits = logits + _same_classes(logits, res_student(x), number)  # the skip: past the new network
        return logits

    def add(self, res_student: nn.Module) -> None:
        """Put one more at the end. Those before it are finished: they no longer learn, and keep their statistics."""
        self.requires_grad_(False)
        self.res_students.append(res_student)
        self.finished = len(self.res_students)
        self.train(self.training)

    def train(self, mode: bool = True) -> ResKD:
        """As usual, except that finished members stay in evaluation mode."""
        super().train(mode)
        for member in [self.student, *self.res_students][: self.finished]:
            member.eval()
        return self

    @torch.no_grad()
    def adaptive(self, x: Tensor, *, confidence: float) -> tuple[Tensor, Tensor]:
        """Ask only as many as each picture needs.

        Args:
            x: pictures [N, C, H, W].
            confidence: the largest probability from which a picture's answer stands. Above 1 all are asked.

        Returns:
            Logits [N, K], and how many networks made each of them [N].
        """
        logits: Tensor = self.student(x)
        asked = torch.ones(len(x), dtype=torch.long, device=x.device)
        for number, res_student in enumerate(self.res_students):
            unsure = logits.softmax(dim=1).amax(dim=1) < confidence
            if not unsure.any():
                break
            logits[unsure] += _same_classes(logits, res_student(x[unsure]), number)
            asked[unsure] = number + 2
        return logits, asked


def _same_classes(logits: Tensor, more: Tensor, number: int) -> Tensor:
    if logits.shape[1:] != more.shape[1:]:
        raise ValueError(
            f"ResKD: res-student {number} has {more.shape[1]} classes, "
            f"those before it {logits.shape[1]}; they must agree"
        )
    return more


def distillation(output: Tensor, teacher: Tensor, *, temperature: float = 4.0) -> Tensor:
    """How far logits [N, K] are from the teacher's, both softened: the gap that a res-student is to close."""
    found, wanted = F.log_softmax(output / temperature, dim=1), F.log_softmax(teacher / temperature, dim=1)
    return temperature**2 * F.kl_div(found, wanted, reduction="batchmean", log_target=True)


def distil(
    model: nn.Module,
    teacher: nn.Module,
    batches: Iterable[tuple[Tensor, Tensor]],
    *,
    optimiser: torch.optim.Optimizer | None = None,
    temperature: float = 4.0,
    hard: float = 0.1,
) -> list[float]:
    """One pass over the batches, in which the unfinished part of the model comes closer to the teacher.

    Args:
        model: a student, or a :class:`ResKD` to which a res-student was just added.
        teacher: trained, and not changed.
        batches: (pictures, classes).
        optimiser: of the model's parameters; by default SGD with momentum, at a rate of 0.05.
        temperature: by which both answers are softened.
        hard: weight of the cross-entropy with the true classes; the divergence has the rest.

    Returns:
        The loss of each batch.
    """  # fmt: skip
    learning = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimiser = optimiser or torch.optim.SGD(learning, lr=0.05, momentum=0.9)
    training = teacher.training
    teacher.eval()
    model.train()
    losses = []
    for pictures, classes in batches:
        with torch.no_grad():
            wanted = teacher(pictures)
        output = model(pictures)
        gap = distillation(output, wanted, temperature=temperature)
        loss = (1 - hard) * gap + hard * objective(output, classes)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    teacher.train(training)
    return losses


def reskd_resnet(
    *, depths: Sequence[int], widths: Sequence[int] = (16, 32, 64), num_classes: int = 10, in_channels: int = 3
) -> ResKD:
    """ResNets for small pictures: the student's depth, then those of its res-students."""
    nets = [resnet_cifar(depth=n, widths=widths, num_classes=num_classes, in_channels=in_channels) for n in depths]
    return ResKD(*nets)


def reskd_resnet20(*, num_classes: int = 10, in_channels: int = 3) -> ResKD:
    """ResNet-20 with one res-student, ResNet-8; an example, not a network of the paper."""
    return reskd_resnet(depths=(20, 8), num_classes=num_classes, in_channels=in_channels)
