"""The allocator's settings, in a process of their own."""

import subprocess
import sys
from types import SimpleNamespace

import pytest

from hybridgen import allocator, keep_memory

_PROGRAM = """
import resource, torch
from hybridgen import keep_memory

def faults(count):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(count):
        torch.empty(16 * 2**20).fill_(1.0)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

torch.set_num_threads(1)
given_back = faults(8)
assert keep_memory()
faults(24)  # the freed blocks must first grow together
print(given_back, faults(8))
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc only")
def test_freed_memory_is_used_again():
    done = subprocess.run([sys.executable, "-c", _PROGRAM], capture_output=True, text=True, check=True)
    before, after = map(int, done.stdout.split())
    assert after < before / 4


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc only")
@pytest.mark.parametrize(
    ("largest", "understood", "options"),
    [(2**30, True, [-3, -1, -2]), (2**25, True, [-3, -3, -1, -2]), (0, False, [-3, -3])],
)
def test_other_settings_wait_for_the_threshold(monkeypatch, largest, understood, options):
    """Older glibc refuses a large threshold; setting the others would then freeze it at its small start."""
    calls = []

    def mallopt(option, value):
        calls.append(option)
        return int(option != -3 or value <= largest)

    monkeypatch.setattr(allocator.ctypes, "CDLL", lambda name: SimpleNamespace(mallopt=mallopt))
    assert keep_memory() is understood
    assert calls == options


def test_memory_is_handed_back_also_when_it_is_kept():
    """In a process of its own: what was freed leaves the resident memory."""
    code = """
import psutil, torch
from hybridgen.allocator import hand_back_memory, keep_memory
used = lambda: psutil.Process().memory_info().rss
if keep_memory():
    big, last = torch.ones(2**26), torch.ones(2**22)
    del big, last
    before = used()
    hand_back_memory()
    assert before - used() > 2**27, (before, used())
"""
    subprocess.run([sys.executable, "-c", code], check=True)
