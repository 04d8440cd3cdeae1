"""Published weights for the models: found by name, checked against their hash, loaded without renaming."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import socket
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit
from urllib.request import getproxies

if TYPE_CHECKING:
    from torch import Tensor, nn

_FILES = ("model.safetensors", "pytorch_model.bin")
"""What a repository of the hub calls its weights, the better format first."""


class WeightsError(RuntimeError):
    """Weights that cannot be had, are damaged, or belong to another model; the message says what to do."""


def load_weights(model: nn.Module, name: str) -> None:
    """Load published weights into ``model``; every tensor must fit.

    Args:
        model: the freshly built model.
        name: a repository of the Hugging Face hub such as ``timm/resnet50.a1_in1k`` (``@revision`` may follow), with
            the hub's own cache and ``HF_HUB_OFFLINE`` honoured; ``torchvision/ResNet50_Weights.IMAGENET1K_V2``; or a
            ``.safetensors`` or ``.pth`` file.

    Raises:
        WeightsError: when they cannot be had, fail their hash, or do not fit.
    """
    path = Path(name)
    if path.suffix in (".safetensors", ".pth", ".pt", ".bin"):
        if not path.is_file():
            raise WeightsError(f"there is no file {name}")
        state = _read(path)
    elif name.startswith("torchvision/"):
        state = _from_torchvision(name.removeprefix("torchvision/"))
    elif re.fullmatch(r"\w[\w.-]*/\w[\w.-]*(@[\w./-]+)?", name):
        state = _read(_from_hub(name))
    else:
        raise WeightsError(f"{name!r} is not OWNER/REPOSITORY of the hub, torchvision/NAME or a file of weights")
    _load(model, state, name)


def _from_hub(name: str) -> Path:
    """The weights file of a repository of the hub: from the cache, else downloaded into it."""
    from huggingface_hub import constants, hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, RepositoryNotFoundError

    repository, _, revision = name.partition("@")
    for file in _FILES:
        with contextlib.suppress(OSError, EntryNotFoundError):  # not there, or not all of it
            return _checked(
                Path(hf_hub_download(repository, file, revision=revision or None, local_files_only=True)), name
            )
    offline = constants.HF_HUB_OFFLINE or os.environ.get("HF_HUB_OFFLINE", "").upper() in constants.ENV_VARS_TRUE_VALUES
    if offline or not _reachable(constants.ENDPOINT):
        raise WeightsError(
            f"{name} is not in the cache ({constants.HF_HUB_CACHE}), and the hub cannot be asked: "
            f"{'HF_HUB_OFFLINE is set' if offline else 'no connection'}. Download it where there "
            f"is a network (hf download {repository}) and copy the cache, or pass the path of a file"
        )
    for file in _FILES:
        try:
            path = Path(hf_hub_download(repository, file, revision=revision or None))
        except RepositoryNotFoundError as error:
            raise WeightsError(f"the hub has no repository {repository} that you may read") from error
        except EntryNotFoundError:
            continue
        except (HfHubHTTPError, OSError) as error:
            raise WeightsError(f"{name} could not be downloaded: {error}") from error
        return _checked(path, name)
    raise WeightsError(f"{repository} has none of {', '.join(_FILES)}")


def _reachable(address: str) -> bool:
    """Whether a server answers at all; the hub's own client would try for half a minute. A proxy is not asked."""
    place = urlsplit(address)
    if getproxies().get(place.scheme):
        return True
    try:
        socket.create_connection((place.hostname or "", place.port or 443), timeout=2).close()
    except OSError:
        return False
    return True


def _checked(path: Path, name: str) -> Path:
    _check_hash(path, name)
    return path


def _check_hash(path: Path, name: str) -> None:
    """The hub names a large file in its cache by the SHA-256 of what it should hold."""
    blob = path.resolve()
    if re.fullmatch("[0-9a-f]{64}", blob.name):
        with blob.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
        if found != blob.name:
            raise WeightsError(f"{name} is damaged: {blob} has SHA-256 {found[:12]}...; delete the file and try again")


def _from_torchvision(name: str) -> dict[str, Tensor]:
    from urllib.error import URLError

    from torchvision.models import get_weight

    try:
        weight = get_weight(name)
    except (ValueError, AttributeError, KeyError) as error:
        raise WeightsError(f"torchvision has no weights {name!r}: {error}") from error
    try:
        state: dict[str, Tensor] = weight.get_state_dict(check_hash=True, progress=False)
    except (URLError, OSError) as error:
        raise WeightsError(f"{weight.url} could not be downloaded: {error}") from error
    except RuntimeError as error:  # a wrong hash
        raise WeightsError(f"torchvision/{name} is damaged: {error}") from error
    return state


def _read(path: Path) -> dict[str, Tensor]:
    """Tensors by name. Pickles are read as weights only, so that no code in them runs."""
    import pickle

    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        state: Any = torch.load(path, map_location="cpu", weights_only=True)
    except (SafetensorError, pickle.UnpicklingError, RuntimeError, EOFError, OSError) as error:
        raise WeightsError(f"{path} cannot be read: {str(error).splitlines()[0]}") from error
    if isinstance(state, dict):
        state = next((state[key] for key in ("state_dict", "model", "params") if key in state), state)
    if not isinstance(state, dict) or not all(isinstance(tensor, torch.Tensor) for tensor in state.values()):
        raise WeightsError(f"{path} holds no state dict")
    return {name.removeprefix("module."): tensor for name, tensor in state.items()}


def _load(model: nn.Module, state: dict[str, Tensor], name: str) -> None:
    own = model.state_dict()
    optional = {key for key in own if key.endswith("num_batches_tracked")}  # unknown to files of PyTorch before 0.4.1
    missing, extra = own.keys() - state.keys() - optional, state.keys() - own.keys()
    other = [key for key in own.keys() & state.keys() if own[key].shape != state[key].shape]
    if missing or extra or other:
        reasons = [
            f"{what} {len(keys)} ({', '.join(sorted(keys)[:3])}{', ...' if len(keys) > 3 else ''})"
            for what, keys in (("lacks", missing), ("has in excess", extra))
            if keys
        ]
        reasons += [
            f"{key} is {list(state[key].shape)} there and {list(own[key].shape)} here" for key in sorted(other)[:3]
        ]
        raise WeightsError(
            f"{name} does not fit {type(model).__name__}: it {'; '.join(reasons)}. Build the model with the arguments "
            "the weights were trained for, or take others"
        )
    model.load_state_dict({**{key: own[key] for key in optional - state.keys()}, **state})
