"""Compiled code on disk is not older than the functions it calls and the constants it reads."""

import importlib
import sys

import pytest

from atlas_pipeline.compiled import fingerprint
from atlas_pipeline.features.kernels.series import advance
from atlas_pipeline.features.kernels.windows import moments_20

CALLED = """
from atlas_pipeline.compiled import compiled
STEP = {step}

@compiled
def inner(value):
    return value + STEP {more}
"""
CALLER = """
from atlas_pipeline.compiled import compiled
from {called} import inner

@compiled
def outer(value):
    return 2 * below(value)

@compiled
def below(value):
    return inner(value)
"""


@pytest.fixture
def caller(tmp_path, monkeypatch):
    """Write a module of which another calls a function, and import both anew."""
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    called = f"called_{tmp_path.name}"

    def make(step, more=""):
        (tmp_path / f"{called}.py").write_text(CALLED.format(step=step, more=more))
        (tmp_path / f"caller_{called}.py").write_text(CALLER.format(called=called))
        for name in (called, f"caller_{called}"):
            sys.modules.pop(name, None)
        importlib.invalidate_caches()
        return importlib.import_module(f"caller_{called}").outer

    return make


@pytest.mark.parametrize(("step", "more"), [(2, ""), (1, "+ 10")], ids=["a constant", "a formula"])
def test_what_a_called_function_became_is_compiled_again(caller, step, more):
    assert caller(1)(1) == 4
    again = caller(1)
    assert again(1) == 4 and sum(again.stats.cache_hits.values()) == 1
    changed = caller(step, more)
    assert changed(1) == 2 * eval(f"1 + {step} {more}")
    assert not changed.stats.cache_hits


def test_the_fingerprint_is_stable_and_reaches_through_modules(monkeypatch):
    before = fingerprint(advance.py_func)
    assert fingerprint(advance.py_func) == before
    monkeypatch.setitem(moments_20.py_func.__globals__, "_moments_of_four", moments_20)
    assert fingerprint(advance.py_func) != before
