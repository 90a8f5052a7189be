"""Builds the C++ and CUDA extension; everything else about the package stands in pyproject.toml.

The extension is two shared libraries on torch's stable ABI (2.10): one for the CPU, and one for CUDA, since that one
loads only into a CUDA build of torch. They hold no Python code, so one build serves every later Python and torch.

HYBRIDGEN_CUDA=auto|0|1 (default auto) says whether CUDA is built: auto builds it where nvcc and a CUDA torch are.
TORCH_CUDA_ARCH_LIST names the GPU architectures, as everywhere in torch. HYBRIDGEN_NATIVE=0 builds nothing. CXX,
CXXFLAGS and LDFLAGS are heeded, as the shell would split them. The kernels need GCC 12 or later, or clang. Without a
compiler that can, or without torch, the package installs all the same and runs on plain PyTorch.
"""

import os
import platform
import shlex
import subprocess
import sys
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_ext import build_ext

CSRC = Path("csrc")
X86 = platform.machine() in {"x86_64", "AMD64"}
FLAGS = [
    "-O3",
    "-std=c++20",
    "-fPIC",
    "-fvisibility=hidden",
    "-fno-math-errno",
    "-fno-trapping-math",
    "-Wall",
    "-Wno-maybe-uninitialized",
    "-Wno-uninitialized",  # GCC 12 warns of its own AVX-512 headers
]
TORCH_DEFINES = ["-DTORCH_TARGET_VERSION=0x020a000000000000"]
INSTRUCTION_SETS = {"baseline": []}
if X86:
    INSTRUCTION_SETS["avx2"] = ["-mavx2", "-mfma", "-mf16c"]
    INSTRUCTION_SETS["avx512"] = [*INSTRUCTION_SETS["avx2"], *(f"-mavx512{part}" for part in ("f", "bw", "dq", "vl"))]
DEFAULT_ARCHITECTURES = "8.0;9.0;10.0+PTX"


class Native(build_ext):
    """Compiles the kernels once per instruction set and links each library without Python's own."""

    def get_ext_filename(self, fullname):
        """Name a library without the Python version that setuptools would put in."""
        return fullname.replace(".", os.sep) + ".so"

    def run(self):
        """Build what can be built, and say what cannot; no library of an earlier build is left."""
        for extension in self.extensions:
            for folder in (self.build_lib, *([os.curdir] if self.inplace else [])):
                Path(folder, self.get_ext_filename(extension.name)).unlink(missing_ok=True)
        self.extensions = [extension for extension in self.extensions if self._wanted(extension)]
        super().run()

    def _wanted(self, extension):
        if os.environ.get("HYBRIDGEN_NATIVE", "1") == "0":
            return False
        return not extension.name.endswith("_cuda") or cuda_wanted()

    def build_extension(self, ext):
        """Compile and link one library; only CUDA that was asked for by HYBRIDGEN_CUDA=1 must succeed."""
        if not (CSRC / "library.cpp").exists():
            sys.exit(f"hybridgen: {CSRC} is missing: the sources are not whole (HYBRIDGEN_NATIVE=0 does without it)")
        target = Path(self.get_ext_fullpath(ext.name))
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            scratch = Path(self.build_temp)
            scratch.mkdir(parents=True, exist_ok=True)
            (build_cuda if ext.name.endswith("_cuda") else build_cpu)(target, scratch)
        except (OSError, ImportError, subprocess.CalledProcessError) as error:
            if ext.name.endswith("_cuda") and os.environ.get("HYBRIDGEN_CUDA") == "1":
                raise
            # As a warning, since pip shows those of a build, but nothing that it prints.
            warnings.warn(
                f"hybridgen: {ext.name} was not built ({error}). The package works without it, on plain PyTorch, more "
                "slowly. It takes GCC 12 or later, or clang.",
                stacklevel=1,
            )


class AnyPython(bdist_wheel):
    """A wheel for every Python, of one platform if it holds a library."""

    def get_tag(self):
        """Replace Python's version and ABI by any, and the platform where nothing was compiled for it."""
        built = any(Path(self.get_finalized_command("build").build_lib).glob("hybridgen/_native_*.so"))
        return ("py3", "none", super().get_tag()[2] if built else "any")


def torch_paths():
    """Torch's include and library folders."""
    import torch

    root = Path(torch.__file__).parent
    return root / "include", root / "lib"


def compile_all(jobs):
    """Run compiler commands in parallel, those whose results are out of date; the first that fails raises."""
    shared = max(file.stat().st_mtime for file in [*CSRC.rglob("*.h"), *CSRC.rglob("*.cuh")])

    def run(job):
        output, command = job
        newest = max(shared, *(Path(word).stat().st_mtime for word in command if word.startswith(f"{CSRC}{os.sep}")))
        done = output.with_suffix(".command")
        if (
            output.exists()
            and done.exists()
            and output.stat().st_mtime > newest
            and done.read_text() == " ".join(command)
        ):
            return
        print(" ".join(command), flush=True)
        done.unlink(missing_ok=True)
        subprocess.run(command, check=True)
        done.write_text(" ".join(command))

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(run, jobs))
    return [str(output) for output, _ in jobs]


def words(variable, default=""):
    """The words of an environment variable such as CXXFLAGS."""
    return shlex.split(os.environ.get(variable) or default)


def cxx():
    """The C++ compiler, and its wrapper if it has one (ccache)."""
    return words("CXX", "g++" if sys.platform.startswith("linux") else "c++")


def build_cpu(target, scratch):
    """The library that every machine gets."""
    include, lib = torch_paths()
    extra = words("CXXFLAGS")
    jobs = []
    for source in [CSRC / "library.cpp", *sorted((CSRC / "cpu").glob("*.cpp"))]:
        output = scratch / f"{source.stem}.o"
        defines = [*TORCH_DEFINES, *(["-DHYBRIDGEN_X86"] if X86 else [])]
        jobs.append(
            (output, [*cxx(), *FLAGS, *extra, *defines, f"-isystem{include}", "-c", str(source), "-o", str(output)])
        )
    for source in sorted((CSRC / "cpu" / "kernels").glob("*.cpp")):
        for name, isa in INSTRUCTION_SETS.items():
            output = scratch / f"{source.stem}.{name}.o"
            options = ["-ffp-contract=fast", f"-DHYBRIDGEN_ISA={name}", *isa]
            jobs.append((output, [*cxx(), *FLAGS, *extra, *options, "-c", str(source), "-o", str(output)]))
    objects = compile_all(jobs)
    libraries = [f"-L{lib}", "-ltorch", "-ltorch_cpu", "-lc10", *words("LDFLAGS")]
    subprocess.run([*cxx(), "-shared", *extra, *objects, *libraries, "-o", str(target)], check=True)


def cuda_wanted():
    """Whether to build the CUDA library."""
    choice = os.environ.get("HYBRIDGEN_CUDA", "auto")
    if choice not in {"auto", "0", "1"}:
        sys.exit(f"HYBRIDGEN_CUDA must be auto, 0 or 1, but is {choice!r}")
    if choice != "auto":
        return choice == "1"
    try:
        import torch
    except ImportError:
        return False
    return torch.version.cuda is not None and nvcc() is not None


def nvcc():
    """The CUDA compiler, or None."""
    from shutil import which

    home = os.environ.get("CUDA_HOME") or os.environ.get("CUDA_PATH") or "/usr/local/cuda"
    path = Path(home) / "bin" / "nvcc"
    return str(path) if path.exists() else which("nvcc")


def architecture_flags():
    """Nvcc's flags for TORCH_CUDA_ARCH_LIST, such as "8.0;9.0+PTX"."""
    flags = []
    for entry in os.environ.get("TORCH_CUDA_ARCH_LIST", DEFAULT_ARCHITECTURES).replace(" ", ";").split(";"):
        number = entry.removesuffix("+PTX").replace(".", "")
        if number:
            flags.append(f"-gencode=arch=compute_{number},code=sm_{number}")
        if entry.endswith("+PTX"):
            flags.append(f"-gencode=arch=compute_{number},code=compute_{number}")
    return flags


def build_cuda(target, scratch):
    """The library for CUDA builds of torch; it can be compiled and linked without one."""
    compiler = nvcc()
    if compiler is None:
        raise OSError("nvcc was not found; set CUDA_HOME")
    include, lib = torch_paths()
    options = ["-O3", "-std=c++20", "-Xcompiler=-fPIC,-fvisibility=hidden", *TORCH_DEFINES, "-DUSE_CUDA"]
    jobs = []
    for source in sorted((CSRC / "cuda").glob("*.cu")):
        output = scratch / f"{source.stem}.cuda.o"
        command = [
            compiler,
            *options,
            *architecture_flags(),
            f"-isystem={include}",
            "-c",
            str(source),
            "-o",
            str(output),
        ]
        jobs.append((output, command))
    objects = compile_all(jobs)
    if not (lib / "libtorch_cuda.so").exists():
        # A CPU torch has no such library; an empty one of the same name stands in for it while linking.
        lib_stub = scratch / "libtorch_cuda.so"
        stub = [*cxx(), "-shared", "-Wl,-soname,libtorch_cuda.so", "-x", "c++", "/dev/null", "-o", str(lib_stub)]
        subprocess.run(stub, check=True)
    link = [compiler, "-shared", *objects, f"-L{lib}", f"-L{scratch}", "-cudart=static", "-Xlinker=--no-as-needed"]
    subprocess.run([*link, "-ltorch_cuda", "-ltorch", "-ltorch_cpu", "-lc10", "-o", str(target)], check=True)


# Setuptools tells of every editable installation that a folder may shadow the package; pip shows it, --quiet or not.
warnings.filterwarnings("ignore", "Editable installation")

setup(
    ext_modules=[Extension(f"hybridgen._native_{kind}", [], optional=True) for kind in ("cpu", "cuda")],
    cmdclass={"build_ext": Native, "bdist_wheel": AnyPython},
)
