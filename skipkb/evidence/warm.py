"""Imported once by the server that workers are forked from: everything that a contract needs and no entry changes."""

from __future__ import annotations

import os

for _variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ[_variable] = "1"  # before the libraries read it; and a process that forks must not have threads

import safetensors.torch  # noqa: E402, F401
import skimage.data  # noqa: E402, F401
import timm.layers  # noqa: E402, F401
import torch.export  # noqa: E402, F401
import torchvision.ops  # noqa: E402, F401

import skipkb.evidence.contract  # noqa: E402, F401
