"""Ctrl-C and its kind, held back until a step is done and saved. Written by hand: it teaches nothing."""

import contextlib
import signal
import threading

NAMES = ("SIGINT", "SIGTERM", "SIGHUP", "SIGBREAK")  # Ctrl-C, kill, a closed terminal, Windows' Ctrl-Break


@contextlib.contextmanager
def interrupts_wait():
    """Inside, the first interrupt is only noted, in the list that this gives; a second one ends at once.

    What is ignored, as SIGINT and SIGHUP are under nohup, stays ignored. Outside of the main thread, where
    Python lets nobody catch signals, the list stays empty.
    """
    asked = []

    def note(number, frame):
        asked.append(number)
        if len(asked) > 1:
            stop(number)

    before = {}
    if threading.current_thread() is threading.main_thread():
        numbers = [getattr(signal, name) for name in NAMES if hasattr(signal, name)]
        handlers = {number: signal.getsignal(number) for number in numbers}
        before = {number: old for number, old in handlers.items() if old not in (signal.SIG_IGN, None)}
    try:
        for number in before:
            signal.signal(number, note)
        yield asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def stop(number):
    """End the program as a signal asks: KeyboardInterrupt for Ctrl-C, else exit code 128 + its number."""
    raise KeyboardInterrupt if number == signal.SIGINT else SystemExit(128 + number)
