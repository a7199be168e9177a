"""Pastes README.md's three calls into interactive shells on a terminal; see .ci/walkthrough.

Each shell is fed in two ways: line by line, as a terminal without bracketed paste does, and as one
bracketed paste. What is pasted must be nothing but commands: an interactive zsh takes a comment for
one. `cargo build` is the only thing that is not done: the program is there.
"""

import fcntl
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import tempfile
import termios
import time

ROOT = os.getcwd()
QUARTET = os.path.abspath(sys.argv[1])
# For a first start of Postgres on a slow machine.
BOUND_SECONDS = 120
# What a shell says of a command that it does not understand.
REFUSED = re.compile(
    r"command not found|no matches found|parse error|syntax error|bad pattern|event not found"
    r"|unexpected argument|No such file|not a valid identifier"
)
# What each block must print, in the order of the blocks that go into the second shell.
EXPECTED = [
    [r"HTTP/1.1 202 Accepted", r'"status":"pending",.*"version":1\}'],
    [r"HTTP/1.1 200 OK", r'"outcome":"settled"'],
    [r'"status":"completed",.*"version":2\}', r'"kind":"settled"'],
]


def blocks():
    """The shell commands of the section, one block each."""
    with open(os.path.join(ROOT, "README.md")) as file:
        text = file.read()
    section = text.split("\n## The API in three calls\n")[1].split("\n## ")[0]
    found = re.findall(r"```sh\n(.*?)```", section, re.S)
    assert len(found) == 1 + len(EXPECTED), found
    for block in found:
        for line in block.splitlines():
            assert not re.search(r"(^|\s)#", line), f"an interactive zsh has no comments: {line}"
    return found


class Shell:
    """An interactive shell on a terminal of its own."""

    def __init__(self, name, directory, bracketed):
        self.name, self.bracketed = name, bracketed
        self.output, self.marks = "", 0
        environment = {
            "HOME": directory,
            # cargo's stand-in comes first.
            "PATH": f"{directory}/bin:/usr/local/bin:/usr/bin:/bin:/usr/local/sbin:/usr/sbin:/sbin",
            "TERM": "xterm" if bracketed else "dumb",
            "LANG": "C.UTF-8",
            "QUARTET_HTTP__LISTEN": "127.0.0.1:0",
        }
        if "PG_BIN_DIR" in os.environ:
            environment["PG_BIN_DIR"] = os.environ["PG_BIN_DIR"]
        leader, follower = pty.openpty()
        fcntl.ioctl(leader, termios.TIOCSWINSZ, struct.pack("HHHH", 50, 200, 0, 0))

        def take_terminal():
            os.setsid()
            fcntl.ioctl(0, termios.TIOCSCTTY, 0)

        self.process = subprocess.Popen(
            [name, "-i"], cwd=directory, env=environment, preexec_fn=take_terminal,
            stdin=follower, stdout=follower, stderr=follower,
        )
        os.close(follower)
        self.terminal = leader

    def read(self, seconds):
        ready, _, _ = select.select([self.terminal], [], [], seconds)
        if ready:
            try:
                self.output += os.read(self.terminal, 65536).decode(errors="replace")
            except OSError:
                raise AssertionError(f"{self.name} ended: {self.output}") from None

    def wait_for(self, pattern, start=0):
        """Reads until `pattern` was printed after `start`; returns the match."""
        deadline = time.monotonic() + BOUND_SECONDS
        while True:
            found = re.search(pattern, self.output[start:])
            if found:
                return found
            assert time.monotonic() < deadline, f"{self.name}: no {pattern} in {self.output}"
            self.read(1)

    def type(self, text):
        data = text.replace("\n", "\r").encode()
        while data:
            # A shell that echoes must not wait for us while we wait for it.
            self.read(0)
            data = data[os.write(self.terminal, data[:256]):]

    def paste(self, text):
        if self.bracketed:
            self.type(f"\x1b[200~{text.rstrip()}\x1b[201~\n")
        else:
            self.type(text)

    def settle(self):
        """Waits until everything before has been done: a mark that is not what is typed."""
        self.marks += 1
        start = len(self.output)
        self.type(f"echo mark-$(({self.marks} + 1000))\n")
        self.wait_for(rf"mark-{self.marks + 1000}\b", start)

    def run(self, text):
        """Pastes a block; returns what was printed until it was done."""
        start = len(self.output)
        self.paste(text)
        self.settle()
        printed = self.output[start:]
        assert not REFUSED.search(printed), f"{self.name}: {printed}"
        return printed

    def end(self):
        # Also where a program still runs in it: the terminal is gone.
        self.process.send_signal(signal.SIGHUP)
        os.close(self.terminal)
        try:
            self.process.wait(timeout=1)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def prepare(directory):
    os.makedirs(f"{directory}/bin")
    os.makedirs(f"{directory}/target/release")
    os.symlink(QUARTET, f"{directory}/target/release/quartet")
    # What a shell asks a new user about.
    open(f"{directory}/.zshrc", "w").close()
    with open(f"{directory}/bin/cargo", "w") as file:
        file.write(
            '#!/bin/sh\n[ "$*" = "build --release" ] || { echo "syntax error: $*"; exit 1; }\n'
        )
    os.chmod(f"{directory}/bin/cargo", 0o755)


def walk(name, bracketed):
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="quartet-walk-") as directory:
        prepare(directory)
        server = Shell(name, directory, bracketed)
        reader = Shell(name, directory, bracketed)
        try:
            server.settle()
            reader.settle()
            first, *rest = blocks()
            start = len(server.output)
            server.paste(first)
            server.wait_for(r"Ctrl-C ends it\.", start)
            printed = server.output[start:]
            assert not REFUSED.search(printed), f"{name}: {printed}"
            variables = re.search(r"^QUARTET=.*$", printed, re.M).group(0).strip()
            reader.run(variables + "\n")
            for block, expected in zip(rest, EXPECTED):
                printed = reader.run(block)
                for pattern in expected:
                    assert re.search(pattern, printed), f"{name}: no {pattern} in {printed}"
            # It ends at once, and leaves the shell as it was.
            server.type("\x03")
            server.settle()
        finally:
            for shell in (reader, server):
                shell.end()
    way = "as one paste" if bracketed else "line by line"
    print(f"{name}, {way}: {time.monotonic() - began:.1f} s")


for shell in ("bash", "zsh"):
    for is_bracketed in (False, True):
        walk(shell, is_bracketed)
