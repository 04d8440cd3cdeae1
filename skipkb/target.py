"""What ``skipkb trace`` is given: a model of ours, of timm, of torchvision or of a script, and its inputs."""

from __future__ import annotations

import contextlib
import difflib
import importlib.util
import inspect
import sys
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from skipkb.catalog.imports import ImportPathError, resolve
from skipkb.catalog.problems import UnknownNameError
from skipkb.factory import create_model, list_models


@dataclass(frozen=True)
class Input:
    """One input as the command line describes it."""

    shape: tuple[int, ...]
    kind: str = "float"
    """``float`` is noise; ``int`` and ``bool`` are ones: a token of every vocabulary, a mask that hides nothing."""
    name: str | None = None
    """Argument of forward; None goes by order."""

    def tensor(self, like: torch.dtype) -> Tensor:
        """A tensor of this description, with the precision ``like`` where it is a float."""
        if self.kind == "float":
            return torch.randn(self.shape, generator=torch.Generator().manual_seed(0)).to(like)
        return torch.ones(self.shape, dtype={"int": torch.long, "bool": torch.bool}[self.kind])


def parse_input(text: str) -> Input:
    """``1,3,224,224``, ``int:1,128`` or ``ids=int:1,128``; nothing behind the colon is a single number.

    Raises:
        ValueError: the text is not one of these.
    """
    name, equals, rest = text.rpartition("=")
    kind, colon, sides = rest.rpartition(":")
    parts = sides.split(",") if sides or not colon else []
    fine = all(part.strip().isdecimal() and int(part) > 0 for part in parts)
    if not fine or (equals and not name.isidentifier()) or (colon and kind not in ("float", "int", "bool")):
        raise ValueError(f"{text!r} is not an input such as 1,3,224,224 or int:1,128 or mask=bool:1,128")
    return Input(tuple(map(int, parts)), kind or "float", name or None)


def inputs_for(model: nn.Module, inputs: Sequence[Input]) -> Any:
    """What :func:`skipkb.trace_skips` takes as its second argument.

    Raises:
        ValueError: more unnamed inputs than ``forward`` has arguments.
    """
    like = next((tensor.dtype for tensor in model.parameters() if tensor.is_floating_point()), torch.float32)
    by_order = [one.tensor(like) for one in inputs if one.name is None]
    named = {one.name: one.tensor(like) for one in inputs if one.name is not None}
    if not named:
        return tuple(by_order)
    arguments = [name for name in inspect.signature(model.forward).parameters if name not in named]
    if len(by_order) > len(arguments):
        raise ValueError(f"inputs without a name: {len(by_order)}, but forward has {', '.join(arguments) or 'no more'}")
    return dict(zip(arguments, by_order, strict=False)) | named


def load_target(target: str, *, real: bool = False) -> nn.Module:
    """The model that ``target`` names, in eval mode.

    Args:
        target: one of :func:`list_models`, ``timm:NAME``, ``torchvision:NAME``, ``module:NAME`` or ``file.py:NAME``. A
            NAME of a module is a class or function that is called without arguments, or a model. Modules are looked
            for in the working directory too.
        real: with numbers in its weights. Else a library's model lies on the meta device where its builder allows
            that; the user's own is always built as it is.

    Raises:
        UnknownNameError: for a name that no library has, with the nearest ones.
        ValueError: for a module or file that has no such name or fails, or a name that gives no model.
    """
    library, colon, name = target.partition(":")
    own = colon and library not in ("timm", "torchvision")
    if own:
        model = _own(target)
    elif real:
        model = _build(library, name)
    else:
        try:
            with torch.device("meta"):
                model = _build(library, name)
        except (NotImplementedError, RuntimeError):  # a builder that needs real numbers
            model = _build(library, name)
    if not isinstance(model, nn.Module):
        raise ValueError(f"{target!r} gives {_a(type(model).__name__)}, not a torch.nn.Module")
    return model.eval()


def _build(library: str, name: str) -> Any:
    if library == "timm" and name:
        import timm

        if not timm.is_model(name.partition(".")[0]):
            raise UnknownNameError("model", f"timm:{name}", _near(name))
        return timm.create_model(name, pretrained=False)
    if library == "torchvision" and name:
        from torchvision.models import get_model, get_model_builder, list_models

        if name.lower() not in list_models():
            raise UnknownNameError("model", f"torchvision:{name}", _near(name))
        detached = {"weights_backbone": None}  # else its trunk's weights would be downloaded
        accepted = inspect.signature(get_model_builder(name)).parameters
        return get_model(name, weights=None, **{key: value for key, value in detached.items() if key in accepted})
    try:
        return create_model(library)
    except UnknownNameError as error:
        near = [one for one in _near(library) if one not in error.suggestions]
        raise UnknownNameError("model", library, [*error.suggestions[:2], *near][:4]) from None


def _near(name: str) -> list[str]:
    """Models of all three libraries whose names are like this one, the same names first."""
    import timm
    from torchvision.models import list_models as torchvision_models

    libraries = {"": list_models(), "timm:": timm.list_models(), "torchvision:": torchvision_models()}
    names = {one for found in libraries.values() for one in found}
    near = difflib.get_close_matches(name.lower(), names, n=3, cutoff=0.7)
    return [prefix + one for one in near for prefix, found in libraries.items() if one in found][:4]


def _own(target: str) -> Any:
    """The model of a user's module or script; a fault in that is told with its line."""
    place, _, name = target.rpartition(":")
    with _from(Path(place).parent if place.endswith(".py") else Path.cwd()):
        try:
            found = _attribute(_script(Path(place)), name, place) if place.endswith(".py") else resolve(target)
            return found if isinstance(found, nn.Module) or not callable(found) else found()
        except (ImportPathError, FileNotFoundError) as error:
            raise ValueError(str(error)) from None
        except (Exception, SystemExit) as error:
            raise ValueError(f"cannot build {target!r}: {_told(error)}") from error


@contextlib.contextmanager
def _from(folder: Path) -> Iterator[None]:
    """Modules are looked for in this folder first, as if its scripts were run."""
    sys.path.insert(0, str(folder.resolve()))
    try:
        yield
    finally:
        with contextlib.suppress(ValueError):  # the script may have taken it out itself
            sys.path.remove(str(folder.resolve()))


def _script(file: Path) -> Any:
    if not file.is_file():
        raise FileNotFoundError(f"there is no file {str(file)!r}")
    spec = importlib.util.spec_from_file_location(file.stem, file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[file.stem] = module  # a class finds its module by name
    spec.loader.exec_module(module)
    return module


def _attribute(module: Any, name: str, place: str) -> Any:
    if hasattr(module, name):
        return getattr(module, name)
    public = [one for one in vars(module) if not one.startswith("_")]
    near = difflib.get_close_matches(name, public, n=1)
    raise ImportPathError(f"{place} has no {name!r}" + (f"; did you mean {near[0]!r}?" if near else ""))


def _told(error: BaseException) -> str:
    """``TypeError: ... (my_net.py, line 12)``, with the last line that is not in a library."""
    frames = [f for f in traceback.extract_tb(error.__traceback__) if "site-packages" not in f.filename]
    own = [f for f in frames if Path(f.filename).resolve().parent != Path(__file__).resolve().parent]
    own = [f for f in own if not f.filename.startswith("<")]
    line = f" ({Path(own[-1].filename).name}, line {own[-1].lineno})" if own else ""
    if isinstance(error, SyntaxError) and error.filename:
        line = f" ({Path(error.filename).name}, line {error.lineno})"
    return f"{type(error).__name__}: {error.msg if isinstance(error, SyntaxError) else error}{line}"


def _a(noun: str) -> str:
    return f"{'an' if noun[:1] in 'aeiouAEIOU' else 'a'} {noun}"
