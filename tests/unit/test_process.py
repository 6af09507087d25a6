"""What parent and child processes agree on: ending."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading

from responder.process import Stop

# A handler that runs in the thread that waits, as often as can be: with a threading.Event it blocks for ever.
STORM = """
import signal, sys, threading, time
from responder.process import Stop
deadline = time.monotonic() + 1.5
rounds = 0
while time.monotonic() < deadline:
    stop = Stop()
    stop.on_signals(signal.SIGALRM)
    signal.setitimer(signal.ITIMER_REAL, 0.00002 + rounds % 40 * 0.000005)
    while not stop.wait(0.0001):
        pass
    rounds += 1
print(rounds)
"""


def test_a_signal_may_come_at_any_moment() -> None:
    """SIGTERM in the thread that waits ends the wait, wherever in it the signal strikes."""
    done = subprocess.run([sys.executable, "-c", STORM], capture_output=True, text=True, timeout=30)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 100


def test_every_thread_is_woken() -> None:
    """One set ends all waits, also later ones."""
    stop = Stop()
    woken = threading.Semaphore(0)
    threads = [threading.Thread(target=lambda: stop.wait() and woken.release()) for _ in range(4)]
    for thread in threads:
        thread.start()
    assert not stop.wait(0.001)
    assert not stop.is_set()
    stop.set()
    stop.set()
    for thread in threads:
        thread.join(10)
        assert not thread.is_alive()
    assert stop.wait()
    assert stop.is_set()


def test_a_signal_sets_it() -> None:
    """As the roles use it."""
    stop = Stop()
    before = signal.getsignal(signal.SIGUSR1)
    try:
        stop.on_signals(signal.SIGUSR1)
        signal.raise_signal(signal.SIGUSR1)
        assert stop.wait(0)
    finally:
        signal.signal(signal.SIGUSR1, before)
