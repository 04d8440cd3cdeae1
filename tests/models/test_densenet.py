"""DenseNet: what each layer sees, and the mode that computes again instead of storing."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from skipkb.models.classification import densenet

NAMES = [
    "densenet121",
    "densenet169",
    "densenet201",
    "densenet161",
    "densenet40_k12",
    "densenet100_k12_bc",
    "densenet250_k24_bc",
    "densenet190_k40_bc",
]


@pytest.mark.parametrize("name", NAMES)
def test_the_name_counts_the_weighted_layers(name: str) -> None:
    depth = int("".join(c for c in name.split("_")[0] if c.isdigit()))
    with torch.device("meta"):
        model = getattr(densenet, name)()
    assert sum(isinstance(m, nn.Conv2d | nn.Linear) for m in model.modules()) == depth


# --- the skips ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "picture"), [("densenet121", 64), ("densenet40_k12", 32), ("densenet100_k12_bc", 32)])
def test_layer_l_sees_the_block_input_and_all_layers_before(name: str, picture: int) -> None:
    """Section 3: layer l has k0 + k(l-1) input channels; checked on what really arrives in each convolution."""
    with torch.device("meta"):
        model = getattr(densenet, name)().eval()
        seen: dict[str, int] = {}
        for key, module in model.named_modules():
            if isinstance(module, nn.BatchNorm2d):
                module.register_forward_hook(lambda _m, x, _y, key=key: seen.__setitem__(key, x[0].shape[1]))
        model(torch.empty(1, 3, picture, picture))
    for key, block in model.named_modules():
        if isinstance(block, densenet.DenseBlock):
            k = 32 if name == "densenet121" else 12
            start = seen[f"{key}.denselayer1.norm1"]
            channels = [seen[f"{key}.denselayer{i}.norm1"] for i in range(1, len(block) + 1)]
            assert channels == [start + k * (i - 1) for i in range(1, len(block) + 1)]


def test_old_features_leave_the_block_unchanged() -> None:
    """Concatenation keeps: the input stands in front of the output, then the layers in their order."""
    block = densenet.DenseBlock(3, 6, 4).eval()
    x = torch.randn(2, 6, 5, 5)
    new: list[Tensor] = []
    for layer in block.values():
        layer.register_forward_hook(lambda _m, _x, y: new.append(y))
    y = block(x)
    assert y.shape == (2, 18, 5, 5)
    assert torch.equal(y[:, :6], x)
    for i, features in enumerate(new):
        assert torch.equal(y[:, 6 + 4 * i : 10 + 4 * i], features)


def test_every_layer_reads_every_earlier_one_directly() -> None:
    """L(L+1)/2 links, each the very tensor that the earlier layer put out."""
    block = densenet.DenseBlock(4, 3, 2, bn_size=0)
    made: list[Tensor] = [torch.randn(1, 3, 6, 6)]
    joined: list[bool] = []
    links = 0

    def count(_layer: nn.Module, features: tuple[Tensor, ...]) -> None:
        nonlocal links
        assert len(features) == len(made)
        assert all(read is source for read, source in zip(features, made, strict=True))
        links += len(features)

    for layer in block.values():
        assert isinstance(layer, densenet.DenseLayer)
        layer.norm1.register_forward_pre_hook(lambda _m, x: joined.append(torch.equal(x[0], torch.cat(made, 1))))
        layer.register_forward_pre_hook(count)
        layer.register_forward_hook(lambda _m, _x, y: made.append(y))
    block(made[0])
    assert links == 4 * 5 // 2
    assert joined == [True] * 4  # in their order


# --- the memory-efficient mode ------------------------------------------------------------------------------


@pytest.mark.parametrize("bc", [True, False])
@pytest.mark.parametrize("drop_rate", [0.0, 0.2])
def test_memory_efficient_gradients_are_equal(bc: bool, drop_rate: float) -> None:
    """Outputs, gradients and running averages: the second run of the normalisation counts the batch no second time."""
    plain = densenet.densenet_cifar(depth=16, growth_rate=4, bc=bc, drop_rate=drop_rate)
    saving = densenet.densenet_cifar(depth=16, growth_rate=4, bc=bc, drop_rate=drop_rate, memory_efficient=True)
    saving.load_state_dict(plain.state_dict())
    x, target = torch.randn(4, 3, 16, 16), torch.tensor([0, 1, 2, 3])
    for _ in range(2):
        results = []
        for model in (plain, saving):
            torch.manual_seed(1)  # the same dropout
            model.zero_grad()
            y = model.train()(x)
            densenet.objective(y, target).backward()
            results.append(y)
        assert torch.equal(*results)
        for (key, ours), theirs in zip(plain.named_parameters(), saving.parameters(), strict=True):
            torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-6, atol=1e-7, msg=key)
        for key, value in plain.state_dict().items():
            assert torch.equal(value, saving.state_dict()[key]), key
    assert all(m.momentum == 0.1 for m in saving.modules() if isinstance(m, nn.BatchNorm2d))


def test_memory_efficient_mode_keeps_less() -> None:
    def kept(memory_efficient: bool) -> int:
        torch.manual_seed(0)
        block = densenet.DenseBlock(12, 8, 8, memory_efficient=memory_efficient)
        storages: dict[int, int] = {}
        held = []

        def pack(tensor: Tensor) -> Tensor:
            held.append(tensor)
            storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            y = block(torch.randn(2, 8, 16, 16, requires_grad=True))
        assert y.requires_grad
        return sum(storages.values())

    assert kept(True) < 0.6 * kept(False)


def test_memory_efficient_evaluation_is_the_plain_one() -> None:
    model = densenet.densenet_cifar(depth=10, growth_rate=4, bc=True, memory_efficient=True).eval()
    twin = copy.deepcopy(model)
    for block in twin.modules():
        if isinstance(block, densenet.DenseBlock):
            block.memory_efficient = False
    x = torch.randn(2, 3, 16, 16)
    assert torch.equal(model(x), twin(x))


# --- use ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("picture", [(64, 64), (67, 81)])
def test_any_picture_size(picture: tuple[int, int]) -> None:
    model = densenet.DenseNet(growth_rate=4, block_config=(1, 2), num_init_features=8, num_classes=5)
    assert model(torch.rand(2, 3, *picture)).shape == (2, 5)


def test_dropout_follows_every_convolution_but_the_first() -> None:
    model = densenet.densenet_cifar(depth=10, growth_rate=4, bc=True, drop_rate=0.5)
    calls: list[float] = []
    original = torch.nn.functional.dropout

    class Counted(torch.overrides.TorchFunctionMode):
        def __torch_function__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
            if func is original:
                calls.append(kwargs["p"])
            return func(*args, **(kwargs or {}))

    with Counted():
        model(torch.rand(2, 3, 16, 16))
    assert calls == [0.5] * (3 * 2 + 2)  # two in each of three layers, one in each of two transitions


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"block_config": ()}, "must be positive"),
        ({"block_config": (2, 0)}, "must be positive"),
        ({"growth_rate": 0}, "must be positive"),
        ({"bn_size": -1}, "bn_size not negative"),
        ({"compression": 0.0}, r"compression must lie in \(0, 1\]"),
        ({"drop_rate": 1.0}, r"drop_rate in \[0, 1\)"),
        ({"stem": "mnist"}, "stem must be one of imagenet, cifar"),
    ],
)
def test_mistakes(change: dict[str, object], message: str) -> None:
    right = {"growth_rate": 4, "block_config": (1, 1), "num_init_features": 8}
    with pytest.raises(ValueError, match=message):
        densenet.DenseNet(**(right | change))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"expected input \[N, 3, H, W\], got \[1, 1, 32, 32\]"):
        densenet.DenseNet(**right)(torch.rand(1, 1, 32, 32))  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        densenet.densenet121(num_clases=10)  # type: ignore[call-arg]


def test_depths_that_do_not_fit() -> None:
    with pytest.raises(ValueError, match=r"6n\+4, got 101; the nearest are 100 and 106"):
        densenet.densenet_cifar(depth=101, growth_rate=12, bc=True)
    with pytest.raises(ValueError, match=r"3n\+4, got 4; the nearest are 7 and 10"):
        densenet.densenet_cifar(depth=4, growth_rate=12, bc=False)
