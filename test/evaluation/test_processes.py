"""Children fail loudly and never outlive their parent."""

import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from drive_seg.evaluation.processes import Child, ChildError, Children


def child(tmp_path: Path, code: str) -> Child:
    return Child("sleeper", [sys.executable, "-u", "-c", code], os.environ, tmp_path / "sleeper.log")


def wait_for_text(path: Path, text: str) -> None:
    deadline = time.monotonic() + 120
    while text not in (path.read_text() if path.exists() else ""):
        assert time.monotonic() < deadline, f"{text} did not appear in {path}"
        time.sleep(0.02)


def is_running(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


def test_failure_shows_status_and_output(tmp_path):
    failing = child(tmp_path, "print('the model is gone'); raise SystemExit(3)")
    with pytest.raises(ChildError, match=r"sleeper failed with exit status 3\.\n(.*\n)*  the model is gone"):
        failing.wait(30)
    with pytest.raises(ChildError, match="ended by itself with exit status 3"):
        failing.check()


def test_child_that_does_not_end_is_killed(tmp_path):
    sleeper = child(tmp_path, "import time; time.sleep(100)")
    with pytest.raises(ChildError, match="did not end within 0 s"):
        sleeper.wait(0.1)
    assert sleeper.returncode == -signal.SIGKILL


def test_finish_interrupts(tmp_path):
    code = "import time\ntry:\n print('up')\n time.sleep(100)\nexcept KeyboardInterrupt:\n print('in order')"
    sleeper = child(tmp_path, code)
    wait_for_text(sleeper.log, "up")
    sleeper.finish()
    assert sleeper.log.read_text() == "up\nin order\n"


def test_leaving_kills_and_waiting_notices_a_death(tmp_path):
    (tmp_path / "endless.py").write_text("import time\ntime.sleep(100)\n")
    (tmp_path / "brief.py").write_text("print('I cannot go on')\nraise SystemExit(1)\n")
    env = {**os.environ, "PYTHONPATH": str(tmp_path)}
    died = pytest.raises(ChildError, match=r"The brief ended by itself[^!]*I cannot go on")
    with died, Children(env, tmp_path) as children:
        endless = children.start("endless", "endless")
        brief = children.start("brief", "brief")
        children.wait_until(lambda: False, "nothing", 60, [endless, brief])
    assert endless.returncode == -signal.SIGKILL


def test_waiting_has_an_end(tmp_path):
    with Children(os.environ, tmp_path) as children, pytest.raises(ChildError, match="Within 0 s rain did not happen"):
        children.wait_until(lambda: False, "rain", 0.05, [])


@pytest.mark.skipif(sys.platform != "linux", reason="needs Linux's parent-death signal")
def test_killed_parent_takes_its_children_along(tmp_path):
    (tmp_path / "endless.py").write_text("import os, time\nprint(os.getpid(), flush=True)\ntime.sleep(100)\n")
    code = textwrap.dedent(
        f"""
        import os, time
        from pathlib import Path
        from drive_seg.evaluation.processes import Children
        with Children({{**os.environ, "PYTHONPATH": {str(tmp_path)!r}}}, Path({str(tmp_path)!r})) as children:
            children.start("endless", "endless")
            time.sleep(100)
        """
    )
    parent = subprocess.Popen([sys.executable, "-c", code])
    log = tmp_path / "endless.log"
    wait_for_text(log, "\n")
    pid = int(log.read_text())
    assert is_running(pid)
    parent.kill()
    parent.wait()
    deadline = time.monotonic() + 60
    while is_running(pid):
        assert time.monotonic() < deadline, "the child outlived its parent"
        time.sleep(0.02)
