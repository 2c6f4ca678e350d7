"""Notices within seconds that another process of the run is gone.

A process that is killed, or whose host vanishes, leaves the others waiting in a collective: `jax.distributed` notices
after a minute and a half, and then aborts them with a stack trace that names none. The lines of the roll call
(`osteojax.devices.cluster`) stay open instead: each end says every few seconds that it is there, and goodbye when it
leaves. Whoever hears neither stops its process with one sentence and EX_TEMPFAIL, so that a launch script starts all
again.
"""

import contextlib
import os
import selectors
import socket
import sys
import threading
import time
from collections.abc import Mapping

# EX_TEMPFAIL of sysexits.h, as after SIGTERM: nothing is wrong with the run; start it again.
EXIT_LOST = 75
SECONDS_BETWEEN = 2.0
# A closed line is noticed at once; a host without power only by its silence.
SECONDS_OF_SILENCE = 30.0
SECONDS_TO_NOTICE = 3.0
# What all processes meet together, each ends on its own; what one meets alone ends the others a little later.
SECONDS_TO_FAIL_ALIKE = 10.0
_HERE, _GOODBYE, _FAILED, _LOST = b".", b"b", b"f", b"l"


class Watch:
    """Watches lines to other processes from a thread of its own.

    Args:
        lines: what the process at the other end is called -> the connected socket.
        relay: whether a loss is told to the other lines: process 0's part.
    """

    def __init__(self, lines: Mapping[str, socket.socket], *, relay: bool) -> None:
        self._lines = dict(lines)
        self._relay = relay
        self._heard = dict.fromkeys(self._lines, time.monotonic())
        self._left: set[str] = set()
        self._doom: tuple[float, str] | None = None
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="watch", daemon=True)
        self._thread.start()

    def linger(self) -> None:
        """Waits until it would have been noticed that another process is gone; then this one has ended."""
        self._over.wait(SECONDS_TO_NOTICE)

    def leave(self, *, failed: bool = False) -> None:
        """Says goodbye, or that this process has failed, and stops watching."""
        self._over.set()
        self._thread.join(5)
        for line in self._lines.values():
            _say(line, _FAILED if failed else _GOODBYE)
            with contextlib.suppress(OSError):
                line.shutdown(socket.SHUT_WR)
                line.close()

    def _run(self) -> None:
        with selectors.DefaultSelector() as ready:
            for name, line in self._lines.items():
                line.setblocking(False)
                ready.register(line, selectors.EVENT_READ, name)
            spoken = 0.0
            while not self._over.is_set() and (self._doom or len(self._left) < len(self._lines)):
                if time.monotonic() - spoken > SECONDS_BETWEEN:
                    spoken = time.monotonic()
                    for name in self._lines.keys() - self._left:
                        _say(self._lines[name], _HERE)
                for key, _ in ready.select(SECONDS_BETWEEN / 4):
                    if self._over.is_set():
                        return
                    if not self._hear(key.data):
                        ready.unregister(key.fileobj)
                if self._doom and time.monotonic() > self._doom[0]:
                    self._stop(self._doom[1])
                for name in self._lines.keys() - self._left:
                    if time.monotonic() - self._heard[name] > SECONDS_OF_SILENCE:
                        self._stop(f"{name} has not been heard of for {SECONDS_OF_SILENCE:.0f} seconds")

    def _hear(self, name: str) -> bool:
        """Takes in what came from a line; whether it is still open."""
        try:
            said = self._lines[name].recv(4096)
        except BlockingIOError:
            return True
        except OSError:
            said = b""
        if not said:
            self._stop(f"{name} is gone")
        self._heard[name] = time.monotonic()
        if _LOST in said:
            self._stop(
                said[said.index(_LOST) + 1 :].decode(errors="replace").strip(".b") or "a process is gone"
            )
        if _FAILED in said:
            self._doom = self._doom or (
                time.monotonic() + SECONDS_TO_FAIL_ALIKE,
                f"{name} has failed; see its log",
            )
        if _GOODBYE in said or _FAILED in said:
            self._left.add(name)
            return False
        return True

    def _stop(self, reason: str) -> None:
        """Ends the process: the main thread waits in a collective that cannot be interrupted."""
        if self._over.is_set():
            return
        if self._relay:
            for line in self._lines.values():
                _say(line, _LOST + reason.encode()[:200])
        print(f"osteojax: {reason}; stopped, start all processes again to go on", file=sys.stderr, flush=True)
        os._exit(EXIT_LOST)


def _say(line: socket.socket, what: bytes) -> None:
    with contextlib.suppress(OSError):
        line.send(what)
