"""GoogLeNet against torchvision: its own network, and the paper's, into which torchvision's is rebuilt."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from skipkb.models.classification import googlenet
from tests.parity.compare import difference, scramble

OUTPUTS = ("logits", "aux2", "aux1")  # torchvision's order


def same(ours: nn.Module, theirs: nn.Module, x: Tensor) -> None:
    """Equal outputs in eval mode, and equal outputs and gradients of all three classifiers in training mode."""
    with torch.inference_mode():
        assert difference(ours.eval()(x), theirs.eval()(x)) < 1e-5
    theirs.load_state_dict({name: value.clone() for name, value in theirs.state_dict().items()}, assign=True)
    gradients = []
    for net in (ours.double().train(), theirs.double().train()):
        for module in net.modules():
            if isinstance(module, nn.Dropout):
                module.p = 0.0  # it is drawn in another order
        y = x.double().requires_grad_()
        output: Any = net(y)
        outputs = [output[name] for name in OUTPUTS] if isinstance(output, dict) else list(output)
        target = torch.tensor([1, 2])
        if isinstance(output, dict):
            googlenet.objective(output, target).backward()
        else:
            losses = [F.cross_entropy(each, target) for each in outputs]
            (losses[0] + 0.3 * losses[1] + 0.3 * losses[2]).backward()
        gradients.append({name: p.grad for name, p in net.named_parameters()} | {"x": y.grad})
    assert gradients[0].keys() == gradients[1].keys()
    for name, gradient in gradients[0].items():
        other = gradients[1][name]
        assert gradient is not None
        assert other is not None
        assert difference(gradient, other) < 1e-4, name


def torchvision(**options: Any) -> Any:
    models = pytest.importorskip("torchvision.models")
    torch.manual_seed(0)
    model = models.googlenet(weights=None, init_weights=False, **options)
    scramble(model)
    return model


@pytest.mark.parametrize("aux", [True, False])
def test_the_network_of_torchvision(aux: bool) -> None:
    theirs = torchvision(aux_logits=aux)
    with torch.device("meta"):
        ours = googlenet.googlenet_bn(aux=aux)
    ours.load_state_dict(theirs.state_dict(), strict=True, assign=True)
    x = torch.randn(2, 3, 129, 97)
    if aux:
        same(ours, theirs, x)
    else:
        with torch.inference_mode():
            assert difference(ours.eval()(x), theirs.eval()(x)) < 1e-5


def test_the_network_of_the_paper() -> None:
    """torchvision's wiring, with biases, response normalisation, 5x5 kernels and poolings as Table 1 has them."""
    theirs = torchvision(aux_logits=True)
    for module in list(theirs.modules()):
        if type(module).__name__ == "BasicConv2d":
            old = module.conv
            module.conv = nn.Conv2d(old.in_channels, old.out_channels, old.kernel_size, old.stride, old.padding)
            module.bn = nn.Identity()
        elif type(module).__name__ == "InceptionAux":
            module.register_forward_pre_hook(lambda _, args: F.avg_pool2d(args[0], 5, stride=3))
    for module in theirs.modules():
        if type(module).__name__ == "Inception":
            old = module.branch3[1].conv
            module.branch3[1].conv = nn.Conv2d(old.in_channels, old.out_channels, 5, padding=2)
    theirs.maxpool1 = nn.Sequential(theirs.maxpool1, nn.LocalResponseNorm(5, alpha=1e-4, beta=0.75))
    theirs.maxpool2 = nn.Sequential(nn.LocalResponseNorm(5, alpha=1e-4, beta=0.75), theirs.maxpool2)
    theirs.maxpool4 = theirs.maxpool3
    with torch.device("meta"):
        ours = googlenet.googlenet()
    ours.load_state_dict(theirs.state_dict(), strict=True, assign=True)
    for name, parameter in ours.named_parameters():  # or nothing would be left of the signal at the end
        (nn.init.zeros_ if name.endswith("bias") else nn.init.kaiming_normal_)(parameter)
    same(ours, theirs, torch.randn(2, 3, 224, 224))
