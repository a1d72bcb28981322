"""Live memory is what arithmetic says it is."""

import torch

from d2l_lightning.memory import LiveMemory


def test_what_is_made_counts_as_long_as_it_lives() -> None:
    with LiveMemory() as live:
        a = torch.zeros(100)
        assert (live.now, live.peak) == (400, 400)
        b = a + 1
        assert live.now == 800
        del a
        assert (live.now, live.peak) == (400, 800)
        b.add_(1)
        c = b.view(10, 10)[3]
        assert live.now == 400  # in place, and views
        del b
        assert live.now == 400  # the view holds it
        del c
        assert (live.now, live.peak) == (0, 800)


def test_what_was_there_before_does_not_count() -> None:
    a = torch.ones(50, dtype=torch.float64)
    with LiveMemory() as live:
        a.mul_(2)
        b = a[:10]
        assert live.now == 0
        del b
        c = a * 2
        assert live.now == 400
    assert c.sum() == 200


def test_autograd_keeps_what_it_needs_until_it_is_done() -> None:
    w = torch.ones(100, requires_grad=True)
    with LiveMemory() as live:
        kept = w.exp().sum()
        assert live.now == 400 + 4  # exp keeps its result
        not_kept = (w * 2).sum()
        assert live.now == 400 + 4 + 4
        kept.backward()
        del kept, not_kept
        assert live.now == 400  # the gradient
