"""Which build of the CPU kernels runs; `make test-isa` runs the native operators' tests with each narrower one."""

import os
import platform

import pytest

from hybridgen.ops import native

pytestmark = pytest.mark.skipif(not native.LOADED, reason="the extension was not built")


@pytest.mark.skipif(platform.machine() not in {"x86_64", "AMD64"}, reason="one instruction set only")
def test_the_environment_chooses_the_instruction_set():
    wanted = os.environ.get("HYBRIDGEN_CPU_CAPABILITY")
    assert native.instruction_set() in ([wanted] if wanted else native.ISA_NAMES)
