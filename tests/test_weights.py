"""Published weights: from a cache laid out like the hub's, from files, and what is said where that fails."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import huggingface_hub
import huggingface_hub.constants as hub
import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

import skipkb
from skipkb.weights import WeightsError

COMMIT = "c0ffee" + 34 * "0"


def publish(cache: Path, repository: str, state: dict[str, Tensor], *, file: str = "model.safetensors") -> Path:
    """Lay a checkpoint into ``cache`` the way the hub's client does; returns the blob."""
    folder = cache / f"models--{repository.replace('/', '--')}"
    for name in ("blobs", "refs", f"snapshots/{COMMIT}"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    loose = folder / "loose"
    save_file(state, loose) if file.endswith("safetensors") else torch.save(state, loose)
    blob = folder / "blobs" / hashlib.sha256(loose.read_bytes()).hexdigest()
    loose.rename(blob)
    (folder / "refs" / "main").write_text(COMMIT)
    link = folder / "snapshots" / COMMIT / file
    link.unlink(missing_ok=True)
    link.symlink_to(Path("../../blobs") / blob.name)
    return blob


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache, and no network."""
    monkeypatch.setattr(hub, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(hub, "HF_HUB_OFFLINE", True)
    return tmp_path / "hub"


@pytest.fixture(scope="module")
def timms() -> nn.Module:
    torch.manual_seed(3)
    return timm.create_model("resnet18").eval()  # type: ignore[no-any-return]


@pytest.mark.parametrize("file", ["model.safetensors", "pytorch_model.bin"])
def test_a_checkpoint_of_the_hub(cache: Path, timms: nn.Module, file: str) -> None:
    publish(cache, "timm/resnet18.a1_in1k", timms.state_dict(), file=file)
    model = skipkb.create_model("resnet18", weights="timm/resnet18.a1_in1k").eval()
    x = torch.rand(1, 3, 64, 64)
    with torch.inference_mode():
        torch.testing.assert_close(model(x), timms(x), rtol=1e-5, atol=1e-5)


def test_a_revision(cache: Path, timms: nn.Module) -> None:
    publish(cache, "timm/resnet18.a1_in1k", timms.state_dict())
    skipkb.create_model("resnet18", weights=f"timm/resnet18.a1_in1k@{COMMIT}")
    with pytest.raises(WeightsError, match="not in the cache"):
        skipkb.create_model("resnet18", weights="timm/resnet18.a1_in1k@other")


def test_a_damaged_file(cache: Path, timms: nn.Module) -> None:
    blob = publish(cache, "timm/resnet18.a1_in1k", timms.state_dict())
    content = bytearray(blob.read_bytes())
    content[-1] ^= 1
    blob.write_bytes(content)
    with pytest.raises(WeightsError, match=r"is damaged: .* delete the file and try again"):
        skipkb.create_model("resnet18", weights="timm/resnet18.a1_in1k")


def test_offline_without_a_cached_file(cache: Path) -> None:
    with pytest.raises(WeightsError, match=r"timm/nothing is not in the cache .* HF_HUB_OFFLINE is set"):
        skipkb.create_model("resnet18", weights="timm/nothing")


def test_without_a_network(tmp_path: Path) -> None:
    program = "import skipkb; skipkb.create_model('resnet18', weights='timm/resnet18.a1_in1k')"
    nowhere = {"HF_ENDPOINT": "http://127.0.0.1:9", "HF_HUB_CACHE": str(tmp_path), "HF_HUB_OFFLINE": "0"}
    done = subprocess.run(
        [sys.executable, "-c", program], env=os.environ | nowhere, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 1
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("skipkb.weights.WeightsError: timm/resnet18.a1_in1k is not in the cache")
    assert "no connection" in last


def test_a_file(tmp_path: Path, timms: nn.Module) -> None:
    save_file(timms.state_dict(), tmp_path / "a.safetensors")
    torch.save(
        {"state_dict": {f"module.{key}": value for key, value in timms.state_dict().items()}}, tmp_path / "a.pth"
    )
    for name in ("a.safetensors", "a.pth"):
        model = skipkb.create_model("resnet18", weights=str(tmp_path / name))
        torch.testing.assert_close(model.state_dict(), dict(timms.state_dict()))
    with pytest.raises(WeightsError, match=r"there is no file .*b\.pth"):
        skipkb.create_model("resnet18", weights=str(tmp_path / "b.pth"))


def test_files_that_are_no_weights(tmp_path: Path) -> None:
    (tmp_path / "a.safetensors").write_bytes(b"nonsense")
    torch.save([1, 2], tmp_path / "list.pth")

    class Code:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return os.system, (f"touch {tmp_path / 'ran'}",)

    torch.save({"x": Code()}, tmp_path / "code.pth")
    for name, message in (
        ("a.safetensors", "cannot be read"),
        ("list.pth", "no state dict"),
        ("code.pth", "cannot be"),
    ):
        with pytest.raises(WeightsError, match=message):
            skipkb.create_model("resnet18", weights=str(tmp_path / name))
    assert not (tmp_path / "ran").exists()


def test_weights_of_another_model(tmp_path: Path, timms: nn.Module) -> None:
    save_file(timms.state_dict(), tmp_path / "a.safetensors")
    with pytest.raises(WeightsError, match=r"fc\.weight is \[1000, 512\] there and \[10, 512\] here"):
        skipkb.create_model("resnet18", weights=str(tmp_path / "a.safetensors"), num_classes=10)
    with pytest.raises(WeightsError, match=r"does not fit ResNet: it lacks \d+ \(layer"):
        skipkb.create_model("resnet34", weights=str(tmp_path / "a.safetensors"))


@pytest.mark.parametrize("name", ["resnet18", "a/b/c", "../x", "timm/"])
def test_names_that_are_none(name: str) -> None:
    with pytest.raises(WeightsError, match="is not OWNER/REPOSITORY"):
        skipkb.create_model("resnet18", weights=name)


def test_torchvision(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torchvision

    theirs = torchvision.models.resnet18()
    (tmp_path / "checkpoints").mkdir()
    weight = torchvision.models.ResNet18_Weights.IMAGENET1K_V1
    torch.save(theirs.state_dict(), tmp_path / "checkpoints" / Path(weight.url).name)
    monkeypatch.setattr(torch.hub, "_hub_dir", str(tmp_path))
    model = skipkb.create_model("resnet18", weights="torchvision/ResNet18_Weights.IMAGENET1K_V1")
    torch.testing.assert_close(model.state_dict(), dict(theirs.state_dict()))
    with pytest.raises(WeightsError, match="torchvision has no weights"):
        skipkb.create_model("resnet18", weights="torchvision/ResNet18_Weights.NONE")


@pytest.mark.parametrize("endpoint", ["http://127.0.0.1:9", "https://nobody.invalid"])
def test_without_a_network_it_says_so_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, endpoint: str) -> None:
    """The hub's client is not asked: it would try again and again."""
    monkeypatch.setattr(hub, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(hub, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(hub, "ENDPOINT", endpoint)
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "all_proxy", "ALL_PROXY", "HF_HUB_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    asked = []
    download = huggingface_hub.hf_hub_download

    def ask(*arguments: object, **options: object) -> object:
        asked.append(options.get("local_files_only", False))
        return download(*arguments, **options)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", ask)
    with pytest.raises(WeightsError, match="the hub cannot be asked: no connection"):
        skipkb.create_model("resnet18", weights="timm/resnet18.a1_in1k")
    assert asked == [True, True], "only the cache was looked at"


def test_the_variable_is_honoured_when_it_is_set_late(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(hub, "HF_HUB_OFFLINE", False)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(WeightsError, match="HF_HUB_OFFLINE is set"):
        skipkb.create_model("resnet18", weights="timm/resnet18.a1_in1k")
