from __future__ import annotations

import threading

from gridkp_ros.node.mailbox import Mailbox


def test_only_the_newest_frame_is_kept_and_the_others_are_reported_dropped() -> None:
    mailbox: Mailbox[int] = Mailbox()
    assert [mailbox.put(i) for i in range(4)] == [False, True, True, True]
    assert mailbox.take() == (None, 3)
    assert mailbox.put(4) is False


def test_jobs_come_first_and_in_order() -> None:
    mailbox: Mailbox[int] = Mailbox()
    done: list[str] = []
    mailbox.put(1)
    for name in "ab":
        mailbox.submit(lambda name=name: done.append(name))
    for _ in range(2):
        job, frame = mailbox.take()
        assert frame is None
        job()
    assert done == ["a", "b"] and mailbox.take() == (None, 1)


def test_close_ends_the_reader_after_its_jobs_and_refuses_new_ones() -> None:
    mailbox: Mailbox[int] = Mailbox()
    taken: list[object] = []

    def read() -> None:
        while (item := mailbox.take()) is not None:
            taken.append(item)

    reader = threading.Thread(target=read)
    reader.start()
    mailbox.submit(print)
    mailbox.close()
    reader.join(60)
    assert not reader.is_alive() and taken == [(print, None)]
    assert mailbox.submit(print) is False
