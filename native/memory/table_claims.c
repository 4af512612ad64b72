/* Claims: each shard has its part of them, under its mutex. A claim is another's until it is given back,
 * its time is up, or its process is dead; a dead one's is taken over by whoever asks next. */
#include "table_parts.h"

#define SLICE_NS UINT64_C(20000000) /* how late the death of a holder is seen by who sleeps */

static struct nr_claim *claims_of(const struct nr_table *table, uint32_t shard, uint32_t *count)
{
    *count = NR_TABLE_CLAIMS / table->layout.shards;
    return table->claims + (size_t)shard * *count;
}

static struct nr_claim_owner owner_of(const struct nr_claim *claim)
{
    return (struct nr_claim_owner){nr_get(claim->pid), nr_get(claim->started), nr_get(claim->number)};
}

static bool is_alive(const struct nr_claim_owner *owner)
{
    uint64_t started;
    int result = nr_os_process_started(owner->pid, &started);

    if (result == -ESRCH)
        return false;
    return result < 0 || started == owner->started; /* no /proc: nobody is declared dead */
}

static bool is_held(const struct nr_table *table, const struct nr_claim *claim)
{
    struct nr_claim_owner owner = owner_of(claim);
    int64_t expires_ms = nr_get(claim->expires_ms);

    if (owner.pid == 0 || (expires_ms != 0 && expires_ms <= (int64_t)nr_table_now_ms(table)))
        return false;
    return is_alive(&owner);
}

static struct nr_claim *find(const struct nr_table *table, const struct nr_key *key)
{
    uint32_t count;
    struct nr_claim *claims = claims_of(table, nr_table_shard_of(table, key), &count);

    for (uint32_t i = 0; i < count; i++)
        if (nr_get(claims[i].pid) != 0 && nr_get(claims[i].hash) == key->hash)
            return &claims[i];
    return NULL;
}

static struct nr_claim *find_free(const struct nr_table *table, const struct nr_key *key)
{
    uint32_t count;
    struct nr_claim *claims = claims_of(table, nr_table_shard_of(table, key), &count);

    for (uint32_t i = 0; i < count; i++)
        if (nr_get(claims[i].pid) == 0)
            return &claims[i];
    for (uint32_t i = 0; i < count; i++)
        if (!is_held(table, &claims[i]))
            return &claims[i];
    return NULL;
}

/* The pid last: a claim that its writer did not finish is nobody's. */
static void take(struct nr_claim *claim, const struct nr_key *key, const struct nr_claim_owner *owner,
                 int64_t expires_ms)
{
    nr_put(claim->pid, 0);
    atomic_signal_fence(memory_order_seq_cst);
    nr_put(claim->hash, key->hash);
    nr_put(claim->started, owner->started);
    nr_put(claim->number, owner->number);
    nr_put(claim->expires_ms, expires_ms);
    NR_CRASHPOINT(NR_AT_TABLE_CLAIM);
    /* Release: who sees the pid sees whose. pairs with: nr_table_await_claim */
    atomic_store_explicit(&claim->pid, owner->pid, memory_order_release);
}

static bool is_same(const struct nr_claim_owner *a, const struct nr_claim_owner *b)
{
    return a->pid == b->pid && a->started == b->started && a->number == b->number;
}

int nr_table_claim(struct nr_table *table, const struct nr_key *key, const struct nr_claim_owner *owner,
                   int64_t expires_ms, uint64_t deadline_ns, struct nr_claim_owner *holder)
{
    uint32_t shard = nr_table_shard_of(table, key);
    struct nr_claim *claim;
    int result;

    if (key->size > NR_TABLE_KEY_MOST || owner->pid == 0)
        return -EINVAL;
    result = nr_shard_lock_to_write(table, shard, deadline_ns);
    if (result < 0)
        return result;
    claim = find(table, key);
    result = 1;
    if (claim && is_held(table, claim)) {
        struct nr_claim_owner standing = owner_of(claim);

        result = is_same(&standing, owner);
        if (holder)
            *holder = standing;
    } else if (!claim) {
        claim = find_free(table, key);
        result = claim ? 1 : -ENOSPC;
    }
    if (result == 1) {
        take(claim, key, owner, expires_ms < 0 ? 1 : expires_ms);
        if (holder)
            *holder = *owner;
    }
    nr_shard_unlock(table, shard);
    return result;
}

int nr_table_give_back(struct nr_table *table, const struct nr_key *key,
                       const struct nr_claim_owner *owner, uint64_t deadline_ns)
{
    uint32_t number = nr_table_shard_of(table, key);
    struct nr_shard *shard = nr_shard_at(table, number);
    struct nr_claim_owner standing;
    struct nr_claim *claim;
    int result = nr_shard_lock(table, number, deadline_ns);

    if (result < 0)
        return result;
    claim = find(table, key);
    if (claim)
        standing = owner_of(claim);
    if (claim && is_same(&standing, owner) && is_held(table, claim))
        nr_put(claim->pid, 0);
    else
        result = -EPERM;
    nr_shard_unlock(table, number);
    if (result == 0) {
        /* The claim, then whether somebody sleeps; the sleeper the other way round. pairs with:
         * nr_table_await_claim */
        atomic_thread_fence(memory_order_seq_cst);
        if (nr_get(shard->awaited))
            nr_claims_wake(shard);
    }
    return result;
}

void nr_claims_wake(struct nr_shard *shard)
{
    nr_put(shard->awaited, 0);
    atomic_fetch_add_explicit(&shard->given_back, 1, memory_order_seq_cst);
    (void)nr_os_futex_wake(&shard->given_back);
}

int nr_table_await_claim(struct nr_table *table, const struct nr_key *key, uint64_t most_ns)
{
    struct nr_shard *shard = nr_shard_at(table, nr_table_shard_of(table, key));
    uint64_t begun_ns = nr_os_now_ns(), passed_ns = 0;

    /* In slices: a holder that dies rings nothing, and a waker that died between its two steps neither. */
    while (passed_ns < most_ns) {
        uint64_t slice_ns = most_ns - passed_ns < SLICE_NS ? most_ns - passed_ns : SLICE_NS;
        const struct nr_claim *claim;
        uint32_t word = nr_get(shard->given_back);
        int result;

        nr_put(shard->awaited, 1);
        atomic_thread_fence(memory_order_seq_cst); /* pairs with: nr_table_give_back */
        claim = find(table, key);
        if (!claim || !is_held(table, claim))
            return 0;
        result = nr_os_futex_wait(&shard->given_back, word, slice_ns);
        if (result != -ETIMEDOUT)
            return result == -EAGAIN ? 0 : result;
        passed_ns = nr_os_now_ns() - begun_ns;
    }
    return 0;
}
