/* naru/claims.h: which process holds which end of a pair.
 *
 * pair() makes two ends in one process; then it forks or pickles, and from then on each end belongs
 * to the first process that used it. Both ends see the decision in one shared page:
 *
 *      0  u32 magic "NRCL"      8  u32 owner[2]    0 = unclaimed, else the owner's process token
 *      4  u32 version          16  u64 since_ns[2] when it was claimed (CLOCK_MONOTONIC)
 */
#ifndef NARU_CLAIMS_H
#define NARU_CLAIMS_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

struct nr_claims_page {
    uint32_t magic;
    uint32_t version;
    _Atomic uint32_t owner[2];
    _Atomic uint64_t since_ns[2];
};

struct nr_claims {
    struct nr_claims_page *page;
    int fd; /* kept: it travels with a pickled end */
    _Atomic uint32_t references;
};

int nr_claims_create(struct nr_claims **claims);
int nr_claims_map(int fd, struct nr_claims **claims); /* takes the descriptor; -EPROTO */
void nr_claims_retain(struct nr_claims *claims);
void nr_claims_release(struct nr_claims *claims);
/* True when the end is, or now becomes, the token's. */
bool nr_claims_take(struct nr_claims *claims, int index, uint32_t token);
uint32_t nr_claims_owner(const struct nr_claims *claims, int index);
/* For how long the end has had an owner; 0: it has none, or only just. */
uint64_t nr_claims_age_ns(const struct nr_claims *claims, int index);

#endif
