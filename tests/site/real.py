"""The real catalogue, loaded once for all tests of a process."""

from __future__ import annotations

import functools

from skipkb.catalog import loading

load = functools.cache(loading.load)
