/*
 * shm.c: the floor of shared memory: a bare ring, its waits, large payloads.
 *
 *   cc -O2 -std=c11 -D_GNU_SOURCE -o floor_shm shm.c floor.c
 *
 * stream: --shape per-message publishes and releases each message, batch 64 at
 *         a time; --read touch looks at the message in place, copy takes it out.
 * trip:   --wait spin never sleeps; futex and eventfd sleep at once; adaptive
 *         spins for 50 us, then sleeps on a futex.
 * large:  --shape copy copies each payload in; reserve writes only its number.
 *         The receiver reads each cache line in place.
 * idle:   the receiver sleeps on a futex.
 */
#include "floor.h"
#include "ring.h"

#include <errno.h>
#include <linux/futex.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

enum { DEFAULT_CAPACITY_BYTES = 1 << 20, LINE_BYTES = 64 };
static const uint64_t SPIN_BUDGET_NS = 50000;

typedef enum waiting { SPIN, ADAPTIVE, FUTEX, EVENTFD } waiting;

/* One direction: both views are made before the fork, each process uses one. */
typedef struct way {
    ring producer;
    ring consumer;
    int doorbell;
    waiting wait;
} way;

typedef struct ways {
    way there;
    way back;
} ways;

static waiting wait_named(const floor_options *options) {
    if (floor_is(options->command, "idle"))
        return FUTEX;
    if (!floor_is(options->command, "trip") || floor_is(options->wait, "spin"))
        return SPIN;
    if (floor_is(options->wait, "adaptive"))
        return ADAPTIVE;
    if (floor_is(options->wait, "futex"))
        return FUTEX;
    if (floor_is(options->wait, "eventfd"))
        return EVENTFD;
    floor_die(options, "trip --wait is spin, adaptive, futex or eventfd", 0);
}

static unsigned char *map_twice(const floor_options *options, size_t capacity) {
    int fd = memfd_create("naru-floor", MFD_CLOEXEC);
    if (fd < 0 || ftruncate(fd, (off_t)capacity) < 0)
        floor_die(options, "memfd_create", errno);
    unsigned char *bytes =
        mmap(NULL, 2 * capacity, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (bytes == MAP_FAILED)
        floor_die(options, "mmap", errno);
    for (int half = 0; half < 2; half++)
        if (mmap(bytes + (size_t)half * capacity, capacity, PROT_READ | PROT_WRITE,
                 MAP_SHARED | MAP_FIXED | MAP_POPULATE, fd, 0) == MAP_FAILED)
            floor_die(options, "mmap", errno);
    close(fd);
    return bytes;
}

static way open_way(const floor_options *options, waiting wait) {
    size_t capacity = options->capacity_bytes;
    ring_shared *shared = floor_shared_memory(options, sizeof *shared);
    ring side = {.shared = shared, .bytes = map_twice(options, capacity), .capacity = capacity};
    int doorbell = eventfd(0, EFD_CLOEXEC);
    if (doorbell < 0)
        floor_die(options, "eventfd", errno);
    return (way){.producer = side, .consumer = side, .doorbell = doorbell, .wait = wait};
}

static void wake(way *self) {
    ring_shared *shared = self->producer.shared;
    /* Either this sees the flag or the sleeper sees the record; pairs with: the
     * fence in sleep_until_rung. Release alone lets the load pass the store. */
    atomic_thread_fence(memory_order_seq_cst);
    if (!atomic_load_explicit(&shared->receiver_sleeps, memory_order_relaxed))
        return;
    if (self->wait == EVENTFD) {
        uint64_t one = 1;
        if (write(self->doorbell, &one, sizeof one) < 0)
            abort();
        return;
    }
    atomic_fetch_add_explicit(&shared->receiver_wakes, 1, memory_order_release);
    syscall(SYS_futex, &shared->receiver_wakes, FUTEX_WAKE, 1, NULL, NULL, 0);
}

static void sleep_until_rung(way *self) {
    ring_shared *shared = self->consumer.shared;
    uint32_t seen = atomic_load_explicit(&shared->receiver_wakes, memory_order_acquire);
    atomic_store_explicit(&shared->receiver_sleeps, 1, memory_order_relaxed);
    atomic_thread_fence(memory_order_seq_cst); /* pairs with: the fence in wake */
    if (atomic_load_explicit(&shared->written, memory_order_acquire) == self->consumer.mine) {
        uint64_t rung;
        if (self->wait == EVENTFD) {
            if (read(self->doorbell, &rung, sizeof rung) < 0 && errno != EINTR)
                abort();
        } else {
            syscall(SYS_futex, &shared->receiver_wakes, FUTEX_WAIT, seen, NULL, NULL, 0);
        }
    }
    atomic_store_explicit(&shared->receiver_sleeps, 0, memory_order_relaxed);
}

static inline unsigned char *reserve(way *self, size_t size_bytes) {
    unsigned char *payload;
    while (!(payload = ring_reserve(&self->producer, size_bytes))) {
        /* Inside a batch: what is written must be seen, or nobody makes room. */
        if (self->producer.published != self->producer.mine)
            ring_publish(&self->producer);
        floor_relax();
    }
    return payload;
}

static inline unsigned char *next(way *self, size_t *size_bytes) {
    unsigned char *payload = ring_peek(&self->consumer, size_bytes);
    if (payload)
        return payload;
    /* Inside a batch: what was read must be given back before a wait. */
    if (self->consumer.published != self->consumer.mine)
        ring_release(&self->consumer);
    uint64_t until_ns = self->wait == ADAPTIVE ? floor_now_ns() + SPIN_BUDGET_NS : 0;
    for (uint32_t spins = 1; !(payload = ring_peek(&self->consumer, size_bytes)); spins++) {
        if (self->wait == SPIN)
            floor_relax();
        else if (self->wait != ADAPTIVE)
            sleep_until_rung(self);
        /* The clock is read now and then: it costs as much as several looks. */
        else if (spins % 64 == 0 && floor_now_ns() > until_ns)
            sleep_until_rung(self);
        else
            floor_relax();
    }
    return payload;
}

static void check_size(const floor_options *options, size_t size_bytes) {
    if (__builtin_expect(size_bytes != options->size_bytes, 0))
        floor_die(options, "a message has the wrong size", 0);
}

static unsigned char *private_copy(const floor_options *options) {
    unsigned char *memory = malloc(options->size_bytes);
    if (!memory)
        floor_die(options, "malloc", errno);
    memset(memory, 0x5a, options->size_bytes);
    return memory;
}

static void stream_sender(floor_run_state *run, void *context) {
    way *there = &((ways *)context)->there;
    size_t size = run->options->size_bytes;
    uint64_t group = floor_is(run->options->shape, "batch") ? FLOOR_BATCH : 1;
    unsigned char *message = private_copy(run->options);
    for (int pass = 0; pass < 2; pass++) {
        uint64_t count = floor_pass_count(run->options, pass);
        floor_start(run, FLOOR_SENDER);
        for (uint64_t sequence = 0; sequence < count; sequence += group) {
            for (uint64_t slot = 0; slot < group; slot++) {
                floor_number(message, sequence + slot);
                memcpy(reserve(there, size), message, size);
            }
            ring_publish(&there->producer);
        }
        floor_stop(run, FLOOR_SENDER);
    }
    free(message);
}

static void stream_receiver(floor_run_state *run, void *context) {
    way *there = &((ways *)context)->there;
    const floor_options *options = run->options;
    uint64_t group = floor_is(options->shape, "batch") ? FLOOR_BATCH : 1;
    bool copy = floor_is(options->read, "copy");
    unsigned char *message = private_copy(options);
    for (int pass = 0; pass < 2; pass++) {
        uint64_t count = floor_pass_count(options, pass);
        floor_start(run, FLOOR_RECEIVER);
        for (uint64_t sequence = 0; sequence < count; sequence += group) {
            for (uint64_t slot = 0; slot < group; slot++) {
                size_t size;
                unsigned char *payload = next(there, &size);
                check_size(options, size);
                if (copy)
                    payload = memcpy(message, payload, size);
                floor_check(options, payload, sequence + slot);
            }
            ring_release(&there->consumer);
        }
        floor_stop(run, FLOOR_RECEIVER);
    }
    free(message);
}

static void put(way *self, const unsigned char *message, size_t size_bytes) {
    memcpy(reserve(self, size_bytes), message, size_bytes);
    ring_publish(&self->producer);
    if (self->wait != SPIN)
        wake(self);
}

static void take(const floor_options *options, way *self, unsigned char *message,
                 uint64_t sequence) {
    size_t size;
    unsigned char *payload = next(self, &size);
    check_size(options, size);
    memcpy(message, payload, size);
    ring_release(&self->consumer);
    floor_check(options, message, sequence);
}

static void trip_sender(floor_run_state *run, void *context) {
    ways *both = context;
    unsigned char *message = private_copy(run->options);
    for (int pass = 0; pass < 2; pass++) {
        uint64_t count = floor_pass_count(run->options, pass);
        floor_start(run, FLOOR_SENDER);
        uint64_t last_ns = floor_now_ns();
        for (uint64_t sequence = 0; sequence < count; sequence++) {
            floor_number(message, sequence);
            put(&both->there, message, run->options->size_bytes);
            take(run->options, &both->back, message, sequence + 1);
            uint64_t now_ns = floor_now_ns();
            if (pass)
                run->trips_ns[sequence] = now_ns - last_ns;
            last_ns = now_ns;
        }
        floor_stop(run, FLOOR_SENDER);
    }
    free(message);
}

static void trip_receiver(floor_run_state *run, void *context) {
    ways *both = context;
    unsigned char *message = private_copy(run->options);
    for (int pass = 0; pass < 2; pass++) {
        uint64_t count = floor_pass_count(run->options, pass);
        floor_start(run, FLOOR_RECEIVER);
        for (uint64_t sequence = 0; sequence < count; sequence++) {
            take(run->options, &both->there, message, sequence);
            floor_number(message, sequence + 1);
            put(&both->back, message, run->options->size_bytes);
        }
        floor_stop(run, FLOOR_RECEIVER);
    }
    free(message);
}

static void large_sender(floor_run_state *run, void *context) {
    way *there = &((ways *)context)->there;
    size_t size = run->options->size_bytes;
    bool copy = floor_is(run->options->shape, "copy");
    unsigned char *message = private_copy(run->options);
    for (int pass = 0; pass < 2; pass++) {
        uint64_t count = floor_pass_count(run->options, pass);
        floor_start(run, FLOOR_SENDER);
        for (uint64_t sequence = 0; sequence < count; sequence++) {
            unsigned char *payload = reserve(there, size);
            if (copy)
                memcpy(payload, message, size);
            floor_number(payload, sequence);
            ring_publish(&there->producer);
        }
        floor_stop(run, FLOOR_SENDER);
    }
    free(message);
}

static void large_receiver(floor_run_state *run, void *context) {
    way *there = &((ways *)context)->there;
    volatile uint64_t kept;
    uint64_t sum = 0;
    for (int pass = 0; pass < 2; pass++) {
        uint64_t count = floor_pass_count(run->options, pass);
        floor_start(run, FLOOR_RECEIVER);
        for (uint64_t sequence = 0; sequence < count; sequence++) {
            size_t size;
            unsigned char *payload = next(there, &size);
            check_size(run->options, size);
            floor_check(run->options, payload, sequence);
            for (size_t at = 0; at < size; at += LINE_BYTES)
                sum += floor_number_of(payload + at);
            ring_release(&there->consumer);
        }
        floor_stop(run, FLOOR_RECEIVER);
    }
    kept = sum; /* or the compiler drops the reads */
    (void)kept;
}

static void idle_sender(floor_run_state *run, void *context) {
    way *there = &((ways *)context)->there;
    double idle_s = run->options->idle_s;
    struct timespec pause = {.tv_sec = (time_t)idle_s,
                             .tv_nsec = (long)((idle_s - (double)(time_t)idle_s) * 1e9)};
    unsigned char *message = private_copy(run->options);
    floor_number(message, 0);
    floor_start(run, FLOOR_SENDER);
    clock_nanosleep(CLOCK_MONOTONIC, 0, &pause, NULL);
    put(there, message, run->options->size_bytes);
    floor_stop(run, FLOOR_SENDER);
    free(message);
}

static void idle_receiver(floor_run_state *run, void *context) {
    unsigned char *message = private_copy(run->options);
    floor_start(run, FLOOR_RECEIVER);
    take(run->options, &((ways *)context)->there, message, 0);
    floor_stop(run, FLOOR_RECEIVER);
    free(message);
}

int main(int argc, char **argv) {
    floor_options options = floor_parse(argc, argv, "shm");
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    if (options.capacity_bytes == 0)
        options.capacity_bytes = DEFAULT_CAPACITY_BYTES;
    if (options.capacity_bytes < page || (options.capacity_bytes & (options.capacity_bytes - 1)))
        floor_die(&options, "--capacity is a power of two of at least one page", 0);
    if (ring_record_bytes(options.size_bytes) > options.capacity_bytes)
        floor_die(&options, "--size does not fit into --capacity", 0);
    waiting wait = wait_named(&options);
    ways both = {open_way(&options, wait), open_way(&options, wait)};
    if (floor_is(options.command, "stream"))
        return floor_run(&options, stream_sender, stream_receiver, &both);
    if (floor_is(options.command, "trip"))
        return floor_run(&options, trip_sender, trip_receiver, &both);
    if (floor_is(options.command, "large"))
        return floor_run(&options, large_sender, large_receiver, &both);
    if (floor_is(options.command, "idle"))
        return floor_run(&options, idle_sender, idle_receiver, &both);
    floor_die(&options, "the commands are stream, trip, large and idle", 0);
}
