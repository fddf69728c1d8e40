"""Functions compiled by Numba whose machine code on disk is never older than anything it was made from.

Numba keeps compiled code beside its source and compiles again when that file changes. A function that calls another, or
reads a constant, of a module that changed would go on with the old one, after every update. Here the name of what is
kept also covers the functions called and the constants read, through any number of modules.
"""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Callable
from functools import cached_property
from types import ModuleType
from typing import Any

import numpy as np
from numba import njit
from numba.core.caching import FunctionCache
from numba.core.dispatcher import Dispatcher
from numba.extending import _Intrinsic


class _DependentCache(FunctionCache):
    """The cache of a function under a key that includes what the function depends on."""

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__(function)
        self._function = function

    @cached_property
    def _dependencies(self) -> str:
        # Not when the function is decorated: what it calls may be defined below it.
        return fingerprint(self._function)

    def _index_key(self, sig: Any, codegen: Any) -> tuple[Any, ...]:
        return (*super()._index_key(sig, codegen), self._dependencies)


def compiled(function: Callable[..., Any] | None = None, **options: Any) -> Any:
    """Compile a function with Numba in nopython mode and keep its machine code on disk.

    Parameters
    ----------
    function
        What is decorated; None where options are given.
    options
        Further options of ``numba.njit``, such as ``error_model`` and ``nogil``.
    """
    if function is None:
        return lambda decorated: compiled(decorated, **options)
    dispatcher = njit(cache=True, **options)(function)
    dispatcher._cache = _DependentCache(function)
    return dispatcher


def fingerprint(function: Callable[..., Any]) -> str:
    """Hash the sources of a function and of all compiled functions it calls, and the constants they read."""
    digest = hashlib.sha256()
    seen: set[int] = set()

    def add(value: Any, names: tuple[str, ...]) -> None:
        if isinstance(value, Dispatcher):
            add_function(value.py_func)
        elif isinstance(value, _Intrinsic):
            digest.update(inspect.getsource(value._defn).encode())
        elif isinstance(value, ModuleType):
            for name in names:
                if value.__name__.startswith(__package__) and hasattr(value, name):
                    add(getattr(value, name), ())
        elif isinstance(value, np.ndarray):
            digest.update(f"{value.dtype}{value.shape}".encode() + value.tobytes())
        else:
            digest.update(repr(value).encode())

    def add_function(called: Callable[..., Any]) -> None:
        if id(called) in seen:
            return
        seen.add(id(called))
        digest.update(inspect.getsource(called).encode())
        code = called.__code__
        for name in code.co_names:
            if name in called.__globals__:
                digest.update(name.encode())
                add(called.__globals__[name], code.co_names)

    add_function(function)
    return digest.hexdigest()
