"""Locks between processes."""

import os
import subprocess
import sys
import threading

import pytest

from app.core.file_lock import locked, take_lock
from tests.support.paths import CHECKOUT

HOLDER = """
import sys, time
from pathlib import Path
from app.core.file_lock import take_lock
print(take_lock(Path(sys.argv[1])) is not None, flush=True)
time.sleep(600)
"""


@pytest.fixture
def file(tmp_path):
    return tmp_path / "a.lock"


def test_a_lock_is_held_until_its_descriptor_is_closed(file):
    handle = take_lock(file)
    assert handle is not None
    assert take_lock(file) is None
    os.close(handle)
    again = take_lock(file)
    assert again is not None
    os.close(again)


def test_the_kernel_frees_the_lock_of_a_killed_process(file):
    command = [sys.executable, "-c", HOLDER, str(file)]
    with subprocess.Popen(command, cwd=CHECKOUT, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout.readline() == "True\n"
        assert take_lock(file) is None
        holder.kill()
        holder.wait()
    handle = take_lock(file)
    assert handle is not None
    os.close(handle)


def test_what_the_holder_wrote_can_be_read_while_another_tries_to_lock(file):
    handle = take_lock(file)
    os.pwrite(handle, b"process 17", 0)
    assert take_lock(file) is None
    assert file.read_bytes() == b"process 17"
    os.close(handle)


def test_a_waiter_gets_the_lock_when_it_is_released(file):
    handle = take_lock(file)
    threading.Timer(0.2, os.close, (handle,)).start()
    with locked(file):
        assert take_lock(file) is None
    free = take_lock(file)
    assert free is not None
    os.close(free)


def test_only_its_owner_may_read_the_file_unless_another_mode_is_asked_for(file, tmp_path):
    os.close(take_lock(file))
    os.close(take_lock(tmp_path / "shared.lock", mode=0o644))
    assert file.stat().st_mode & 0o777 == 0o600
    assert (tmp_path / "shared.lock").stat().st_mode & 0o044
