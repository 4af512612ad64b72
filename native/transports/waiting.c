#include "naru/waiting.h"

#define FIRST_PROBE 16u
#define LAST_PROBE 1024u

void nr_waiting_start(struct nr_waiting *waiting, enum nr_wait_mode mode)
{
    waiting->mode = mode;
    waiting->average_ns = NR_SPIN_MAX_NS / 4; /* hopeful: the first wait spins for half of the most */
    waiting->sleeps_in_row = 0;
    waiting->probe_interval = FIRST_PROBE;
}

uint64_t nr_waiting_budget_ns(const struct nr_waiting *waiting, int cpu_count)
{
    if (waiting->mode == NR_WAIT_SPIN)
        return UINT64_MAX;
    if (waiting->mode == NR_WAIT_SLEEP || cpu_count < 2)
        return 0;
    if (waiting->average_ns <= NR_SPIN_MAX_NS) {
        uint64_t budget = waiting->average_ns * 2 + 1000;

        return budget < NR_SPIN_MAX_NS ? budget : NR_SPIN_MAX_NS;
    }
    return waiting->sleeps_in_row >= waiting->probe_interval ? NR_SPIN_MAX_NS : 0;
}

void nr_waiting_learn(struct nr_waiting *waiting, uint64_t waited_ns, bool by_spinning)
{
    const uint64_t most = 8u * NR_SPIN_MAX_NS; /* one very long wait must not be remembered for long */

    if (waited_ns > most)
        waited_ns = most;
    if (by_spinning) {
        if (waiting->average_ns > NR_SPIN_MAX_NS) /* a probe that succeeded: start over */
            waiting->average_ns = waited_ns;
        waiting->sleeps_in_row = 0;
        waiting->probe_interval = FIRST_PROBE;
    } else if (waiting->average_ns <= NR_SPIN_MAX_NS) {
        waiting->sleeps_in_row = 0;
    } else if (waiting->sleeps_in_row >= waiting->probe_interval) {
        waiting->sleeps_in_row = 0;
        if (waiting->probe_interval < LAST_PROBE)
            waiting->probe_interval *= 2;
    } else {
        waiting->sleeps_in_row++;
    }
    waiting->average_ns += waited_ns / 8;
    waiting->average_ns -= waiting->average_ns / 8;
}
