"""What every test may ask for: the shared data and a DDS domain of its own."""

import faulthandler
import fcntl
import os
import re
import signal
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

# Before torch is imported, and for what tests start. Threads of several processes that wait busily for each other on
# the same few cores take several times as long; a test that is about threads says how many.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# Each test has a cache of its own: what is prepared unasked would be compiled for each of them.
os.environ.setdefault("DRIVE_SEG_PREPARE", "never")

CHECKOUT = Path(__file__).resolve().parents[1]
DOMAINS = 100
# Where this process looks next; starting at its id keeps concurrent runs apart before the locks have to.
_next_domain = os.getpid()
_TERMINAL = pytest.StashKey[int]()


@pytest.fixture(scope="session", autouse=True)
def _interruptible() -> None:
    """Ctrl-C counts for what tests start, also where a shell runs them in the background and so ignores it."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_configure(config: pytest.Config) -> None:
    config.stash[_TERMINAL] = os.dup(2)  # what pytest captures is not what a crash should be told to


@pytest.fixture(autouse=True)
def _crashes_print_stacks(pytestconfig: pytest.Config) -> Iterator[None]:
    """Lightning's Trainer, for one, sets every signal back to what Python knows of it, and so ends faulthandler's."""
    yield
    caught = re.search(r"^SigCgt:\s*(\w+)$", Path("/proc/self/status").read_text(), re.MULTILINE)
    if faulthandler.is_enabled() and not int(caught[1], 16) >> (signal.SIGSEGV - 1) & 1:
        faulthandler.disable()
        faulthandler.enable(pytestconfig.stash[_TERMINAL])


@pytest.fixture(scope="session")
def checkout() -> Path:
    """The root of the source tree under test."""
    return CHECKOUT


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of datasets and clips, DRIVE_SEG_DATA or ../shared/data; without it the test is skipped."""
    folder = Path(os.environ.get("DRIVE_SEG_DATA") or CHECKOUT.parent / "shared" / "data")
    if not folder.is_dir():
        pytest.skip(f"needs the datasets in {folder}; export DRIVE_SEG_DATA for another folder")
    return folder


@pytest.fixture(scope="session", autouse=True)
def _not_the_users_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """As below, for what several tests share."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the user has prepared for vehicles must not change which runtime a test gets, nor a test what they have."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))


@pytest.fixture(autouse=True)
def _files_are_not_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    """A trial of a file takes another process and seconds: here its first runtime is taken, the same each time."""
    from drive_seg.inference.runtimes.files import trial

    monkeypatch.setattr(trial, "choose", lambda file, runtimes, *wish: runtimes[0])


@pytest.fixture(scope="session")
def kernels_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The kernels of the runtime "native", compiled once; the test is skipped where there is no C++ compiler."""
    from drive_seg.inference.runtimes import host
    from drive_seg.inference.runtimes.native import library

    if not host.can_compile():
        pytest.skip("there is no C++ compiler")
    file = tmp_path_factory.mktemp("kernels") / "kernels.so"
    file.write_bytes(library.compile_library())
    return file


@pytest.fixture
def ros_domain_id(monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """A ROS domain that no other running test uses (1..100), set as ROS_DOMAIN_ID here and for children.

    A test gets another one than the test before it, so a process that is slow to die disturbs nobody.
    """
    with _locked_domain() as domain:
        monkeypatch.setenv("ROS_DOMAIN_ID", str(domain))
        yield domain


@pytest.fixture(scope="module")
def module_domain() -> Iterator[int]:
    """A ROS domain for processes that the tests of one file share; nothing is set in the environment."""
    with _locked_domain() as domain:
        yield domain


@contextmanager
def _locked_domain() -> Iterator[int]:
    global _next_domain
    folder = Path(tempfile.gettempdir()) / f"drive_seg_ros_domains_{os.getuid()}"
    folder.mkdir(exist_ok=True)
    for _ in range(DOMAINS):
        domain = _next_domain % DOMAINS + 1
        _next_domain += 1
        with open(folder / str(domain), "w") as lock:
            try:
                # The system drops the lock with the process, however that ends.
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                continue
            yield domain
            return
    raise RuntimeError(f"all {DOMAINS} ROS domains are taken by running tests")
