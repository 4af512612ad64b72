/* naru/waiting.h: how long to spin before sleeping. Pure: time is passed in.
 *
 * Waking a sleeper costs 17-25 us; seeing a change while spinning, 0.1 us. Spinning pays exactly
 * when the awaited thing comes within the time that is spun. So the budget follows the last waits:
 * twice their average while that is below NR_SPIN_MAX_NS, else nothing, with a rare full-length
 * probe (a sleeper cannot see how soon it could have been served, because its own waking is slow). */
#ifndef NARU_WAITING_H
#define NARU_WAITING_H

#include <stdbool.h>
#include <stdint.h>

#define NR_SPIN_MAX_NS 50000u

enum nr_wait_mode { NR_WAIT_ADAPTIVE, NR_WAIT_SPIN, NR_WAIT_SLEEP };

struct nr_waiting {
    uint64_t average_ns;     /* of the last waits, weight 1/8 each */
    uint32_t mode;           /* enum nr_wait_mode */
    uint32_t sleeps_in_row;  /* waits since spinning was last tried */
    uint32_t probe_interval; /* waits from one probe to the next; doubles while probes fail */
};

void nr_waiting_start(struct nr_waiting *waiting, enum nr_wait_mode mode);
/* Nanoseconds to spin in the coming wait: 0 = sleep at once, UINT64_MAX = never sleep. */
uint64_t nr_waiting_budget_ns(const struct nr_waiting *waiting, int cpu_count);
/* After a wait: how long it took and whether spinning saw the end of it. */
void nr_waiting_learn(struct nr_waiting *waiting, uint64_t waited_ns, bool by_spinning);

#endif
