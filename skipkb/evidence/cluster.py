"""Entries on a Ray cluster: an executor for :func:`skipkb.evidence.runner.run`. Needs the extra ``cluster``.

Every node runs the same skipkb; the reports come back over Ray and are written by the caller alone.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Executor, Future
from typing import Any, TypeVar

T = TypeVar("T")


class RayExecutor(Executor):
    """Submits each call as one Ray task.

    Args:
        address: of a running cluster, ``auto`` to find it, or None for a small one on this machine.
        cpus, gpus: what Ray reserves for each entry.
        init: further arguments of ``ray.init``.
    """

    def __init__(self, address: str | None = None, *, cpus: float = 1, gpus: float = 0, **init: Any) -> None:
        import ray

        self._ray: Any = ray
        self._ours = not ray.is_initialized()
        if self._ours:
            ray.init(address=address, log_to_driver=False, **init)
        # An entry that fails has failed; one whose node is lost may be tried once more.
        self._call: Any = ray.remote(num_cpus=cpus, num_gpus=gpus, max_retries=1)(_call)
        self._references: list[Any] = []

    def submit(self, fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> Future[T]:
        """Run ``fn(*args, **kwargs)`` somewhere on the cluster."""
        reference = self._call.remote(fn, args, kwargs)
        self._references.append(reference)
        future: Future[T] = reference.future()
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Wait for what is submitted (or cancel it), and leave a cluster that was started here."""
        if cancel_futures:
            for reference in self._references:
                self._ray.cancel(reference, force=True)
        elif wait and self._references:
            self._ray.wait(self._references, num_returns=len(self._references))
        self._references = []
        if self._ours:
            self._ray.shutdown()


def _call(fn: Callable[..., T], args: tuple[Any, ...], kwargs: dict[str, Any]) -> T:
    return fn(*args, **kwargs)
