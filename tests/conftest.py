"""Settings of the whole test run."""

import logging
import signal

import jaxtyping
import pytest

# jaxtyping's import hook reaches the checker as an attribute of `tests`, so it must be loaded before the package.
import tests.helpers.shapes  # noqa: F401
from hybridgen.ops.backends import use_backend

# Who starts the tests in the background has them ignore Ctrl-C, and what they start too: tests that interrupt something
# would wait for ever.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(params=["native", "torch"])
def each_backend(request):
    """Runs a test with our own extension, then with plain PyTorch."""
    with use_backend(request.param):
        yield request.param


@pytest.fixture
def no_shape_checks():
    """Switches the shape checks off: torch.compile cannot trace them, and bad calls should reach our own checks."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.fixture
def quiet_transformers():
    """transformers logs that it has no CUDA kernels, which is the point of tests that compare with it."""
    import transformers

    level = transformers.logging.get_verbosity()
    transformers.logging.set_verbosity_error()
    logging.disable(logging.WARNING)
    yield
    logging.disable(logging.NOTSET)
    transformers.logging.set_verbosity(level)
