"""Commands in terminals."""

import fcntl
import os
import pty
import select
import struct
import subprocess
import sys
import termios
import time

# Makes standard input the controlling terminal, which sends SIGHUP.
CONTROLLED = """
import fcntl, os, sys, termios
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
os.execvp(sys.argv[1], sys.argv[1:])
"""


def environment(**more):
    return {**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "120", **more}


def read_terminal(
    tmp_path, *arguments, columns=80, hang_up_at=None, program="thinc-swa", **more
):
    """Run the command in a terminal, and return its output and its exit code.

    hang_up_at (Path | None): Close the terminal when this file exists.
    program (str): Another program to run instead.
    """
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    settings = environment(**{"TERM": "xterm", **more})
    del settings["COLUMNS"]
    is_ours = program == "thinc-swa"
    command = [sys.executable, "-m", "thinc_swa"] if is_ours else [program]
    process = subprocess.Popen(
        [sys.executable, "-c", CONTROLLED, *command, *arguments],
        cwd=tmp_path,
        env=settings,
        stdin=slave,
        stdout=slave,
        stderr=slave,
        start_new_session=True,
    )
    os.close(slave)
    text = b""
    end = time.monotonic() + 120
    try:
        while time.monotonic() < end:
            if select.select([master], [], [], 0.1)[0]:
                try:
                    data = os.read(master, 4096)
                except OSError:
                    break
                text += data
            if hang_up_at is not None and hang_up_at.exists():
                break
        os.close(master)
        process.wait(timeout=120)
    finally:
        process.kill()
    return text.decode(), process.returncode
