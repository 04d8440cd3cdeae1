"""Small networks for the tests of the contract: a good one, and one for each way to be wrong.

Every broken one is right in all other respects, so that exactly one check may fail.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import torch
from torch import Tensor, nn
from torch.nn import functional as F

objective = F.cross_entropy


class Good(nn.Module):
    """Two convolutions, one of them residual, a global mean and a linear head."""

    def __init__(self, *, classes: int = 4, width: int = 8) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, width, 3, padding=1)
        self.body = nn.Conv2d(width, width, 3, padding=1)
        self.head = nn.Linear(width, classes)
        self.register_buffer("offset", torch.zeros(1))

    def features(self, x: Tensor) -> Tensor:
        x = self.stem(x).relu()
        return (x + self.body(x)).mean(dim=(2, 3)) - self.offset

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(x))


class NotBuilt(Good):
    """Fails at full width only."""

    def __init__(self, *, width: int = 8) -> None:
        super().__init__(width=width)
        if width > 8:
            raise RuntimeError("this width was never tried")


class HeavyBuilder(Good):
    """Allocates real weights whatever the default device is."""

    def __init__(self, *, width: int = 8) -> None:
        super().__init__(width=width)
        self.head.bias = nn.Parameter(torch.zeros(4, device="cpu"))

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x)


class NotFinite(Good):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) / 0


class WrongShape(Good):
    """Keeps a trailing axis where the smoke configuration's class labels need none."""

    def forward(self, x: Tensor) -> Tensor:
        out = super().forward(x)
        return out if out.is_meta else out.unsqueeze(-1)


class Random(Good):
    """Drops out in eval mode too."""

    def features(self, x: Tensor) -> Tensor:
        return F.dropout(super().features(x), 0.1, training=True)


class BatchLeak(Good):
    """Normalises with the statistics of the batch in eval mode."""

    def features(self, x: Tensor) -> Tensor:
        out = super().features(x)
        return out - out.mean(dim=0, keepdim=True) * 0.5


class NotSaved(Good):
    """Draws a fixed tensor at construction that is in no state dict."""

    def __init__(self, *, width: int = 8) -> None:
        super().__init__(width=width)
        self.register_buffer("hidden", torch.rand(width), persistent=False)

    def features(self, x: Tensor) -> Tensor:
        return super().features(x) + self.hidden


class Bf16Overflow(Good):
    """Fine in float32; loses everything in the eight bits of bfloat16."""

    def forward(self, x: Tensor) -> Tensor:
        out = super().forward(x)
        return (out + 1000) - 1000 if out.dtype == torch.bfloat16 else out


class Dead(Good):
    """Has a layer that takes no part."""

    def __init__(self, *, width: int = 8) -> None:
        super().__init__(width=width)
        self.unused = nn.Linear(2, 2)


class ZeroStart(Good):
    """The last weight of the branch starts at zero, as many papers want it: the branch learns from step 2."""

    def __init__(self, *, width: int = 8) -> None:
        super().__init__(width=width)
        self.gain = nn.Parameter(torch.zeros(1))

    def features(self, x: Tensor) -> Tensor:
        x = self.stem(x).relu()
        return (x + self.gain * self.body(x)).mean(dim=(2, 3))


class Silenced(Good):
    """Has a gain whose gradient is always there and always zero."""

    def __init__(self, *, width: int = 8) -> None:
        super().__init__(width=width)
        self.gain = nn.Parameter(torch.ones(1))

    def features(self, x: Tensor) -> Tensor:
        return super().features(x) + 0 * self.gain


class Frozen(Good):
    """Learns nothing that counts: all gradients are there, and tiny."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * 1e-6


class DataDependent(Good):
    """Branches on a value, which torch.export cannot capture."""

    def forward(self, x: Tensor) -> Tensor:
        if not x.is_meta and x.sum() > 0:
            return super().forward(x)
        return super().forward(x)


class TwoOutputs(Good):
    """Returns a dict, one item of which has no batch axis."""

    def forward(self, x: Tensor) -> dict[str, Tensor]:  # type: ignore[override]
        return {"logits": super().forward(x), "grid": torch.arange(3.0, device=x.device)}


def dict_objective(output: dict[str, Tensor], target: Tensor) -> Tensor:
    return F.cross_entropy(output["logits"], target)


class Crash(Good):
    """Takes its process with it when it is trained."""

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            print("a message on standard output, which must not disturb the protocol", flush=True)
            os._exit(7)
        return super().forward(x)


class LeavesADaemon(Good):
    """Dies, and leaves a process of its own session that holds all it has inherited."""

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            subprocess.Popen(["sleep", "30"], start_new_session=True, close_fds=False)
            os._exit(7)
        return super().forward(x)


class SaysWhereItRuns(Good):
    def forward(self, x: Tensor) -> Tensor:
        print("warm" if "skipkb.evidence.warm" in sys.modules else "cold", os.getppid(), flush=True)
        return super().forward(x)


class Killed(Good):
    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            os.kill(os.getpid(), signal.SIGSEGV)
        return super().forward(x)


class Endless(Good):
    def forward(self, x: Tensor) -> Tensor:
        while self.training:
            time.sleep(0.01)
        return super().forward(x)


class Hog(Good):
    """Fills the memory, in steps as real networks do."""

    def forward(self, x: Tensor) -> Tensor:
        held = []
        while self.training:
            held.append(torch.ones(8 * 2**20 // 4))
            time.sleep(0.001)
        return super().forward(x)
