"""The fixed rule that textbooks give, for comparison. Must not know: profiles. Pure.

Source: "choose_optimal_ipc(data_size, frequency, need_reliability)" of the text from which naru
grew: above 1 MiB shared memory; above 10,000 a second a Unix socket if nothing may be lost, else a
pipe; else a message queue.
"""

from __future__ import annotations

from naru.choosing.needs import Needs

__all__ = ["textbook_rule"]

LARGE_BYTES = 1 << 20
FREQUENT_PER_S = 10_000


def textbook_rule(needs: Needs) -> tuple[str, str]:
    """(transport, which line of the rule). It knows nothing of any other need."""
    if needs.largest_bytes > LARGE_BYTES:
        return "shm", "messages above 1 MiB"
    if _is_frequent(needs):
        if needs.reliable:
            return "unix", "above 10,000 messages a second, nothing may be lost"
        return "pipe", "above 10,000 messages a second, some may be lost"
    return "mq", "at most 1 MiB, at most 10,000 messages a second"


def _is_frequent(needs: Needs) -> bool:
    """Without a rate, throughput means as many as go."""
    if needs.rate_per_s is None:
        return needs.goal == "throughput"
    return needs.rate_per_s > FREQUENT_PER_S
