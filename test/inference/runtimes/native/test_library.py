"""The kernels compile for other processors too, and whatever goes wrong with a compiler is one sentence."""

import ctypes
import ctypes.util
import platform
import stat
from pathlib import Path

import pytest
import torch

from drive_seg.inference.decision import decide
from drive_seg.inference.runtimes import host
from drive_seg.inference.runtimes.native import library as module
from drive_seg.inference.runtimes.native.library import CompilationError, Library
from drive_seg.inference.runtimes.native.program import Program
from drive_seg.inference.runtimes.native.steps import PADDED, Type

needs_compiler = pytest.mark.skipif(not host.can_compile(), reason="there is no C++ compiler")
X86 = platform.machine() in ("x86_64", "AMD64")


def test_the_kernels_say_what_they_can(library, kernels_file):
    flags = Path("/proc/cpuinfo").read_text() if X86 else ""
    assert library.lanes in (4, 8, 16) and PADDED % library.lanes == 0
    if "avx2" in flags:
        assert library.lanes == (16 if "avx512f" in flags else 8)
    assert not library.bfloats or "avx512_bf16" in flags
    assert not library.bytes or "avx512_vnni" in flags
    assert kernels_file.read_bytes()[:4] == b"\x7fELF"


# -O1 is compiled in a fifth of the time.
@needs_compiler
@pytest.mark.parametrize(
    ("other", "lanes"),
    [
        pytest.param(("-O1", "-mavx2", "-mfma"), 8, id="AVX2", marks=pytest.mark.skipif(not X86, reason="for x86")),
        pytest.param(("-O1",), 4, id="baseline"),
    ],
)
def test_processors_without_avx512_get_the_same_logits(make, monkeypatch, tmp_path, other, lanes):
    if "-mavx2" in other and "avx2" not in Path("/proc/cpuinfo").read_text():
        pytest.skip("this processor has no AVX2")
    monkeypatch.setattr(module, "FLAGS", ("-std=c++17", "-fopenmp", "-fPIC", "-shared"))
    monkeypatch.setattr(module, "flags", lambda: (*module.FLAGS, *other))
    (tmp_path / "kernels.so").write_bytes(module.compile_library())
    library = Library(tmp_path / "kernels.so")
    assert (library.lanes, library.bfloats, library.bytes) == (lanes, False, False)
    # 7 classes do not fill a vector, 80 are several passes; 13 pixels of 1/8 are more than a tile.
    for classes, size, chosen in (
        (7, (41, 67), {"feature_balance": ("stage2", "stage5"), "skips": True}),
        (80, (16, 104), {"feature_balance": ("stage2", "stage5"), "skips": True}),
        (19, (41, 67), {"network": "swiftnet", "width": 48, "feature_balance": ("res2", "up4")}),
    ):
        network = make(classes, **chosen)
        image = torch.randn(1, 3, *size)
        program = Program(network, size, Type.FLOAT, lanes, 2)
        logits = program.run(library, image)
        with torch.inference_mode():
            expected = network(image)
        assert (logits - expected).abs().max() <= 1e-5 * expected.abs().max()
        (ids, sureness, _), wanted = program.decide(library, image, True), decide(logits, True)
        assert ids.equal(wanted[0]) and (sureness.short() - wanted[1].short()).abs().max() <= 1


# --- The compiler -------------------------------------------------------------------------------------------------


def test_the_compiler_is_that_of_the_environment(monkeypatch):
    monkeypatch.delenv("CXX", raising=False)
    assert host.compiler() == ["g++"]
    monkeypatch.setenv("CXX", "")
    assert host.compiler() == ["g++"]
    monkeypatch.setenv("CXX", "ccache clang++ -O2")
    assert host.compiler() == ["ccache", "clang++", "-O2"]


def test_a_missing_compiler_is_a_sentence(monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler -O2")
    assert not host.can_compile()
    with pytest.raises(CompilationError, match=r"need a C\+\+ compiler, and 'no-such-compiler' is not found: install"):
        module.compile_library()


def test_a_compiler_that_fails_is_a_sentence(monkeypatch):
    monkeypatch.setenv("CXX", "false")
    with pytest.raises(CompilationError, match=r"^the kernels cannot be compiled by false: it ends with 1$"):
        module.compile_library()


@needs_compiler
def test_what_the_compiler_says_is_in_the_sentence(monkeypatch):
    monkeypatch.setenv("CXX", " ".join([*host.compiler(), "--no-such-option"]))
    with pytest.raises(CompilationError, match="cannot be compiled by .*no-such-option") as caught:
        module.compile_library()
    assert "\n" not in str(caught.value)


def test_a_compiler_that_cannot_be_started_is_a_sentence(monkeypatch, tmp_path):
    broken = tmp_path / "compiler"
    broken.write_bytes(b"\x7fELF, and nothing more")
    broken.chmod(stat.S_IRWXU)
    monkeypatch.setenv("CXX", str(broken))
    with pytest.raises(CompilationError, match="the kernels cannot be compiled: .*Exec format error"):
        module.compile_library()


def test_source_and_flags_are_in_the_hash(monkeypatch, tmp_path):
    before = module.source_sha256()
    assert module.source_sha256() == before
    changed = tmp_path / "kernels.cpp"
    changed.write_bytes(module.SOURCE.read_bytes() + b"\n")
    with monkeypatch.context() as other:
        other.setattr(module, "SOURCE", changed)
        assert module.source_sha256() != before
    with monkeypatch.context() as other:
        other.setattr(platform, "machine", lambda: "aarch64" if X86 else "x86_64")
        assert module.source_sha256() != before, "ARM takes another flag"


# --- The file -----------------------------------------------------------------------------------------------------


def test_a_file_that_is_no_library_is_a_sentence(tmp_path):
    file = tmp_path / "kernels.so"
    with pytest.raises(CompilationError, match=r"kernels.so cannot be loaded: .*kernels.so"):
        Library(file)
    for content in (b"", b"no library"):
        file.write_bytes(content)
        with pytest.raises(CompilationError, match=r"kernels.so cannot be loaded: .*kernels.so"):
            Library(file)


def test_another_library_is_a_sentence():
    with pytest.raises(CompilationError, match="cannot be loaded: .*undefined symbol: drive_seg_step_bytes"):
        Library(Path(ctypes.util.find_library("m")))


def test_another_version_is_a_sentence(kernels_file, monkeypatch):
    class Larger(module.Step):
        _fields_ = [("more", ctypes.c_int64)]

    monkeypatch.setattr(module, "Step", Larger)
    with pytest.raises(CompilationError, match=r"kernels.so is of another version$"):
        Library(kernels_file)
