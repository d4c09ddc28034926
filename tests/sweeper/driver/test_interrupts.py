"""What Ctrl-C and a batch system's signals do, and when."""

from __future__ import annotations

import os
import signal

import pytest

from sweeper.driver.interrupts import listen_for_interrupts


def test_before_anything_has_begun_the_first_signal_is_answered_and_ends_it() -> None:
    said: list[str] = []
    with listen_for_interrupts(said.append) as interrupts, pytest.raises(KeyboardInterrupt, match="SIGTERM"):
        os.kill(os.getpid(), signal.SIGTERM)
    assert said == ["stopping before anything has begun: Ray is shut down"]
    assert interrupts.requested()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGUSR1])
def test_while_there_is_something_to_finish_it_takes_two(number: signal.Signals) -> None:
    said: list[str] = []
    with listen_for_interrupts(said.append) as interrupts:
        interrupts.finish_first()
        assert not interrupts.requested()
        os.kill(os.getpid(), number)
        assert interrupts.requested()
        with pytest.raises(KeyboardInterrupt, match=number.name):
            os.kill(os.getpid(), number)
    assert said == [], "the driver itself says what it waits for"


def test_a_message_that_cannot_be_printed_now_does_not_keep_it_from_ending() -> None:
    def reentrant(text: str) -> None:
        raise RuntimeError("reentrant call inside <_io.BufferedWriter>")

    with listen_for_interrupts(reentrant), pytest.raises(KeyboardInterrupt):
        os.kill(os.getpid(), signal.SIGINT)


def test_afterwards_the_handlers_are_those_of_before() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with listen_for_interrupts(print):
        assert signal.getsignal(signal.SIGTERM) is not before
    assert signal.getsignal(signal.SIGTERM) is before
