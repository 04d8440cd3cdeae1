"""Models whose speed is compared, and who else builds the same network. A library is imported when it is asked."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn


def _torchvision() -> Any:
    import torchvision

    return torchvision.models


def _timm(name: str) -> nn.Module:
    import timm

    model: nn.Module = timm.create_model(name)
    return model


def _pytorchcv(name: str) -> nn.Module:
    from pytorchcv.model_provider import get_model

    model: nn.Module = get_model(name)
    return model


IMAGENET, CIFAR = (1, 3, 224, 224), (8, 3, 32, 32)
PEERS: dict[str, tuple[tuple[int, ...], dict[str, Callable[[], nn.Module]]]] = {
    "resnet50": (
        IMAGENET,
        {
            "torchvision": lambda: _torchvision().resnet50(),
            "timm": lambda: _timm("resnet50"),
            "pytorchcv": lambda: _pytorchcv("resnet50b"),
        },
    ),
    "resnet110": (CIFAR, {"pytorchcv": lambda: _pytorchcv("resnet110_cifar10")}),
    "resnext50_32x4d": (
        IMAGENET,
        {
            "torchvision": lambda: _torchvision().resnext50_32x4d(),
            "timm": lambda: _timm("resnext50_32x4d"),
        },
    ),
    "densenet121": (
        IMAGENET,
        {
            "torchvision": lambda: _torchvision().densenet121(),
            "timm": lambda: _timm("densenet121"),
            "pytorchcv": lambda: _pytorchcv("densenet121"),
        },
    ),
    "densenet100_k12_bc": (CIFAR, {"pytorchcv": lambda: _pytorchcv("densenet100_k12_bc_cifar10")}),
    "wrn28_10": ((1, 3, 32, 32), {"pytorchcv": lambda: _pytorchcv("wrn28_10_cifar10")}),
    "wide_resnet50_2": (
        IMAGENET,
        {
            "torchvision": lambda: _torchvision().wide_resnet50_2(),
            "timm": lambda: _timm("wide_resnet50_2"),
        },
    ),
    "convnext_tiny": (
        IMAGENET,
        {
            "torchvision": lambda: _torchvision().convnext_tiny(stochastic_depth_prob=0.0),
            "timm": lambda: _timm("convnext_tiny"),
        },
    ),
    "pyramidnet110_a48": ((1, 3, 32, 32), {"pytorchcv": lambda: _pytorchcv("pyramidnet110_a48_cifar10")}),
    "pyramidnet272_a200": ((1, 3, 32, 32), {"pytorchcv": lambda: _pytorchcv("pyramidnet272_a200_bn_cifar10")}),
    "mixer_b16": (
        IMAGENET,
        {
            "timm": lambda: _timm("mixer_b16_224"),
        },
    ),
    "dpn92": (IMAGENET, {"timm": lambda: _timm("dpn92")}),
    "dpn98": (
        IMAGENET,
        {"timm": lambda: _timm("dpn98"), "pytorchcv": lambda: _pytorchcv("dpn98")},
    ),
    "cbam_resnet18": (
        IMAGENET,
        {
            "pytorchcv": lambda: _pytorchcv("cbam_resnet18"),
        },
    ),
    "cbam_resnet50": (
        IMAGENET,
        {
            "pytorchcv": lambda: _pytorchcv("cbam_resnet50"),
        },
    ),
    "preact_resnet164": (CIFAR, {"pytorchcv": lambda: _pytorchcv("preresnet164bn_cifar10")}),
    "inception_v4": (
        (1, 3, 299, 299),
        {"timm": lambda: _timm("inception_v4"), "pytorchcv": lambda: _pytorchcv("inceptionv4")},
    ),
    "se_resnet50": (
        IMAGENET,
        {
            "timm": lambda: _timm("legacy_seresnet50"),
            "pytorchcv": lambda: _pytorchcv("seresnet50"),
        },
    ),
    "senet154": (
        IMAGENET,
        {
            "timm": lambda: _timm("legacy_senet154"),
            "pytorchcv": lambda: _pytorchcv("senet154"),
        },
    ),
    "drn_d_22": (IMAGENET, {"pytorchcv": lambda: _pytorchcv("drnd22")}),
    "res2net50_26w_4s": (
        IMAGENET,
        {
            "timm": lambda: _timm("res2net50_26w_4s"),
        },
    ),
    "inception_resnet_v2": (
        (1, 3, 299, 299),
        {
            "timm": lambda: _timm("inception_resnet_v2"),
            "pytorchcv": lambda: _pytorchcv("inceptionresnetv2"),
        },
    ),
    "maxvit_tiny": (
        IMAGENET,
        {
            "timm": lambda: _timm("maxvit_tiny_tf_224"),
        },
    ),
    "shake_shake26_2x32d": (CIFAR, {"pytorchcv": lambda: _pytorchcv("shakeshakeresnet26_2x32d_cifar10")}),
    "shakedrop_pyramidnet110_a270": (  # the peer is not shaken: numbers are drawn on top of its work
        (1, 3, 32, 32),
        {"pytorchcv": lambda: _pytorchcv("pyramidnet110_a270_cifar10")},
    ),
    "wrn20_10_1bit": ((1, 3, 32, 32), {"pytorchcv": lambda: _pytorchcv("wrn20_10_1bit_cifar10")}),
    "sknet50": (
        (2, *IMAGENET[1:]),  # its selection normalises over pictures: one alone cannot be trained
        {
            "timm": lambda: _timm("skresnext50_32x4d"),
            "pytorchcv": lambda: _pytorchcv("sknet50"),
        },
    ),
    "mobilenet_v2": (
        IMAGENET,
        {
            "torchvision": lambda: _torchvision().mobilenet_v2(),
            "timm": lambda: _timm("mobilenetv2_100"),
        },
    ),
    "mobilenet_v1": (
        IMAGENET,
        {
            "timm": lambda: _timm("mobilenetv1_100"),
            "pytorchcv": lambda: _pytorchcv("mobilenet_w1"),
        },
    ),
    "ghostnet": (IMAGENET, {"timm": lambda: _timm("ghostnet_100")}),
    "shufflenet_g3": (IMAGENET, {"pytorchcv": lambda: _pytorchcv("shufflenet_g3_w1")}),
    "shufflenet_g8": (IMAGENET, {"pytorchcv": lambda: _pytorchcv("shufflenet_g8_w1")}),
    "xception": (
        (1, 3, 299, 299),
        {"timm": lambda: _timm("legacy_xception"), "pytorchcv": lambda: _pytorchcv("xception")},
    ),
    "mobilenet_v3_large": (
        IMAGENET,
        {
            "torchvision": lambda: _torchvision().mobilenet_v3_large(),
            "timm": lambda: _timm("mobilenetv3_large_100"),
        },
    ),
    "mobilenet_v3_small": (
        IMAGENET,
        {
            "torchvision": lambda: _torchvision().mobilenet_v3_small(),
            "timm": lambda: _timm("mobilenetv3_small_100"),
        },
    ),
    "googlenet_bn": (IMAGENET, {"torchvision": lambda: _torchvision().googlenet(init_weights=False)}),
    "nin_cifar10": (CIFAR, {"pytorchcv": lambda: _pytorchcv("nin_cifar10")}),
    "attention56": (IMAGENET, {"pytorchcv": lambda: _pytorchcv("resattnet56")}),
    "attention92": (IMAGENET, {"pytorchcv": lambda: _pytorchcv("resattnet92")}),
    "resnest50": (
        (2, *IMAGENET[1:]),  # as for sknet50
        {"timm": lambda: _timm("resnest50d")},
    ),
}
"""Model -> input, and who else builds the same network."""
