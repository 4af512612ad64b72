/* Two processes and one ring, one of them dies, stops or sleeps at the worst instants (FAULTS 35,
 * 36, 43).
 *
 *     test_ring_processes [kills]
 *
 * The child is the victim. It maps the segment itself and says in a page of its own (struct diary)
 * how far it knows to have come; the survivor holds the ring against that. */
#include <fcntl.h>
#include <sched.h>
#include <sys/prctl.h>
#include <sys/wait.h>

#include "ledger.h"
#include "rings.h"

#define CAPACITY (8u * 1024)
#define MOST 1500u

struct diary {
    _Atomic uint64_t done; /* messages whose send or receive has returned */
};

/* What the two share; each side has its own view of the ring. */
struct wire {
    int fd, data_bell, space_bell;
    int lifeline[2]; /* the victim holds [1] */
    struct diary *diary;
    struct nr_segment *segment;
    struct nr_ring ring;
    uint64_t sizes; /* state of the common sequence of sizes */
    pid_t victim;
};

static uint64_t kills = 1000;

static void wire_open(struct wire *wire)
{
    const uint64_t capacity[2] = {CAPACITY, 0};

    *wire = (struct wire){.fd = nr_segment_create(capacity, 0),
                          .data_bell = nr_os_eventfd(),
                          .space_bell = nr_os_eventfd(),
                          .sizes = 42};
    wire->diary =
        mmap(NULL, sizeof *wire->diary, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    REQUIRE(wire->fd >= 0 && wire->data_bell >= 0 && wire->space_bell >= 0);
    REQUIRE(wire->diary != MAP_FAILED && pipe2(wire->lifeline, O_CLOEXEC) == 0);
}

/* In each process for itself, as connected strangers do. */
static void wire_map(struct wire *wire)
{
    REQUIRE(nr_segment_map(wire->fd, &wire->segment) == 0);
    nr_segment_open_ring(wire->segment, 0, false, &wire->ring);
}

static void wire_close(struct wire *wire)
{
    nr_segment_release(wire->segment);
    munmap(wire->diary, sizeof *wire->diary);
    nr_os_close(wire->lifeline[0]);
    nr_os_close(wire->fd);
    nr_os_close(wire->data_bell);
    nr_os_close(wire->space_bell);
}

/* Sleeps on the bell or the peer's death: false when it is dead. */
static bool wait_for(struct wire *wire, int bell)
{
    struct pollfd fds[2] = {{.fd = bell, .events = POLLIN}, {.fd = wire->lifeline[0]}};

    while (nr_os_sleep(fds, 2, NR_FOREVER) < 0)
        continue;
    nr_os_eventfd_drain(bell);
    return !(fds[1].revents & POLLHUP);
}

/* ---- both roles; the same code for the victim and the survivor ---- */

/* False: no room, and the peer is dead or `wait` is not wanted. */
static bool put(struct wire *wire, uint64_t sequence, bool wait)
{
    uint64_t sizes = wire->sizes;
    uint32_t size = ledger_size(&sizes, MOST);
    uint8_t *place = NULL;
    int result;

    while ((result = nr_ring_reserve(&wire->ring, size, &place)) == -EAGAIN) {
        bool alive = true;

        if (!wait)
            return false;
        if (!nr_ring_producer_falls_asleep(&wire->ring, NR_RECORD_HEADER + NR_RING_PAD(size))) {
            alive = wait_for(wire, wire->space_bell);
            nr_ring_producer_wakes(&wire->ring);
        }
        if (!alive)
            return false;
    }
    REQUIRE(result == 0);
    ledger_fill(place, size, sequence);
    nr_ring_commit(&wire->ring, size, 0);
    nr_ring_publish(&wire->ring);
    if (nr_ring_consumer_must_be_woken(&wire->ring))
        nr_os_eventfd_ring(wire->data_bell);
    wire->sizes = sizes;
    return true;
}

static bool take(struct wire *wire, uint64_t sequence, bool wait)
{
    struct nr_record record;
    const uint8_t *payload = NULL;
    int result;

    while ((result = nr_ring_next(&wire->ring, &record, &payload)) == -EAGAIN) {
        bool alive = true;

        if (!wait)
            return false;
        if (!nr_ring_consumer_falls_asleep(&wire->ring)) {
            alive = wait_for(wire, wire->data_bell);
            nr_ring_consumer_wakes(&wire->ring);
        }
        if (!alive && !nr_ring_has_record(&wire->ring))
            return false;
    }
    if (!CHECK_EQUAL(result, 1) || !CHECK_EQUAL(record.length, ledger_size(&wire->sizes, MOST)) ||
        !CHECK(ledger_is(payload, record.length, sequence)))
        return false;
    nr_ring_release(&wire->ring);
    if (nr_ring_producer_must_be_woken(&wire->ring))
        nr_os_eventfd_ring(wire->space_bell);
    return true;
}

static void fork_victim(struct wire *wire, const char *crashpoint, bool produces)
{
    fflush(stdout);
    wire->victim = fork();
    REQUIRE(wire->victim >= 0);
    if (wire->victim == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        REQUIRE(nr_os_barrier_register() == 0);
        wire_map(wire);
        nr_crashpoint_arm(crashpoint);
        for (uint64_t i = 0; produces ? put(wire, i, true) : take(wire, i, true); i++)
            atomic_store(&wire->diary->done, i + 1);
        _exit(1); /* it lives for ever, until it is killed */
    }
    nr_os_close(wire->lifeline[1]);
    wire_map(wire);
}

static void bury(struct wire *wire)
{
    int status = 0;

    REQUIRE(waitpid(wire->victim, &status, 0) == wire->victim);
    CHECK(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
}

static bool is_dead(struct wire *wire) { return nr_os_poll_now(wire->lifeline[0], 0) & POLLHUP; }

/* ---- kill at any time ---- */

static void consumer_gets_whole_records_from_a_killed_producer(void)
{
    uint64_t random = 5, total = 0;

    for (uint64_t round = 0; round < kills; round++) {
        uint64_t dice = ledger_random(&random), read = 0, done, until;
        struct wire wire;

        wire_open(&wire);
        fork_victim(&wire, NULL, true);
        until = nr_os_now_ns() + (dice >> 20) % 1500000;
        while (nr_os_now_ns() < until)
            if (dice % 4 != 0 && take(&wire, read, dice % 4 == 1 && read == 0))
                read++;
        kill(wire.victim, SIGKILL);
        bury(&wire);
        while (take(&wire, read, true))
            read++;
        done = atomic_load(&wire.diary->done);
        CHECK(read == done || read == done + 1); /* published, not yet in the diary */
        CHECK_EQUAL(nr_ring_depth_bytes(&wire.ring), 0);
        total += read;
        wire_close(&wire);
    }
    printf("%llu kills, %llu messages\n", (unsigned long long)kills, (unsigned long long)total);
    CHECK(total > kills);
}

/* What a dead consumer left: whole records from the head on, beginning with the first that it had
 * not released. Gives that one's number. */
static uint64_t check_legacy(struct wire *wire, uint64_t sent, uint64_t expected_least)
{
    struct wire heir = *wire;
    uint64_t head = atomic_load(&wire->ring.control->head), first = 0, read;

    nr_segment_open_ring(wire->segment, 0, false, &heir.ring);
    atomic_store(&heir.ring.position, head);
    heir.ring.limit = heir.ring.published = head;
    heir.ring.offset = head % heir.ring.capacity;
    heir.sizes = 42;
    for (uint64_t bytes = 0; bytes < head; first++)
        bytes += NR_RECORD_HEADER + NR_RING_PAD(ledger_size(&heir.sizes, MOST));
    for (read = first; read < sent; read++)
        if (!CHECK(take(&heir, read, false)))
            break;
    CHECK_EQUAL(nr_ring_next(&heir.ring, &(struct nr_record){0}, &(const uint8_t *){NULL}),
                -EAGAIN);
    CHECK(first == expected_least || first == expected_least + 1);
    return first;
}

static void nothing_is_torn_by_a_killed_consumer(void)
{
    uint64_t random = 6;

    for (uint64_t round = 0; round < kills / 4 + 1; round++) {
        uint64_t dice = ledger_random(&random), sent = 0, until;
        struct wire wire;

        wire_open(&wire);
        fork_victim(&wire, NULL, false);
        until = nr_os_now_ns() + (dice >> 20) % 1500000;
        while (nr_os_now_ns() < until)
            if (put(&wire, sent, false))
                sent++;
        kill(wire.victim, SIGKILL);
        bury(&wire);
        while (put(&wire, sent, true)) /* full in the end, then the death is seen */
            sent++;
        check_legacy(&wire, sent, atomic_load(&wire.diary->done));
        wire_close(&wire);
    }
}

/* ---- at every crash point ---- */

/* Makes the producer come to each of its points: the ring runs full, the consumer falls asleep. */
static uint64_t receive_lazily(struct wire *wire, uint64_t read, bool (*over)(struct wire *))
{
    for (int turn = 0; !over(wire); turn++) {
        if (turn % 2 == 0) /* until it sleeps for want of room */
            while (!over(wire) && atomic_load(&wire->ring.control->producer_wants) == 0)
                sched_yield();
        while (!over(wire) && take(wire, read, false))
            read++;
        if (!over(wire) && !nr_ring_consumer_falls_asleep(&wire->ring)) {
            struct pollfd bell = {.fd = wire->data_bell, .events = POLLIN};

            while (!over(wire) && nr_os_sleep(&bell, 1, 1000000) == 0)
                continue;
            nr_ring_consumer_wakes(&wire->ring);
            nr_os_eventfd_drain(wire->data_bell);
        }
    }
    return read;
}

/* Likewise the consumer: the ring runs full, then empty. */
static uint64_t send_lazily(struct wire *wire, uint64_t sent, bool (*over)(struct wire *))
{
    while (!over(wire)) {
        while (!over(wire) && put(wire, sent, false))
            sent++;
        if (!over(wire) &&
            !nr_ring_producer_falls_asleep(&wire->ring, NR_RECORD_HEADER + MOST)) {
            struct pollfd bell = {.fd = wire->space_bell, .events = POLLIN};

            while (!over(wire) && nr_os_sleep(&bell, 1, 1000000) == 0)
                continue;
            nr_ring_producer_wakes(&wire->ring);
            nr_os_eventfd_drain(wire->space_bell);
        }
        while (!over(wire) && atomic_load(&wire->ring.control->consumer_sleeps) == 0)
            sched_yield();
    }
    return sent;
}

static bool is_stopped(struct wire *wire)
{
    siginfo_t info = {0};

    return waitid(P_PID, (id_t)wire->victim, &info, WSTOPPED | WNOHANG | WNOWAIT) == 0 &&
           info.si_pid == wire->victim;
}

static bool has_written_more(struct wire *wire)
{
    return atomic_load(&wire->diary->done) > 400;
}

static const int repeats[] = {1, 2, 5, 30};

static void at_points(int first, int last, const char *action, void (*check)(const char *, int))
{
    for (int point = first; point <= last; point++)
        for (size_t i = 0; i < sizeof repeats / sizeof *repeats; i++) {
            char text[40];

            snprintf(text, sizeof text, "%d:%s@%d", point, action, repeats[i]);
            check(text, point);
        }
}

static void check_dead_producer(const char *text, int point)
{
    bool visible = point == NR_AT_PUBLISHED || point == NR_AT_CONSUMER_CALLED;
    struct wire wire;
    uint64_t read;

    wire_open(&wire);
    fork_victim(&wire, text, true);
    read = receive_lazily(&wire, 0, is_dead);
    bury(&wire);
    while (take(&wire, read, true))
        read++;
    if (!CHECK_EQUAL(read, atomic_load(&wire.diary->done) + visible))
        fprintf(stderr, "  at %s\n", text);
    wire_close(&wire);
}

static void check_dead_consumer(const char *text, int point)
{
    bool released = point == NR_AT_RELEASED || point == NR_AT_PRODUCER_CALLED;
    struct wire wire;
    uint64_t sent;

    wire_open(&wire);
    fork_victim(&wire, text, false);
    sent = send_lazily(&wire, 0, is_dead);
    bury(&wire);
    while (put(&wire, sent, true))
        sent++;
    if (!CHECK_EQUAL(check_legacy(&wire, sent, atomic_load(&wire.diary->done)),
                     atomic_load(&wire.diary->done) + released))
        fprintf(stderr, "  at %s\n", text);
    wire_close(&wire);
}

static void check_stopped_producer(const char *text, int point)
{
    struct wire wire;
    uint64_t read;

    (void)point;
    wire_open(&wire);
    fork_victim(&wire, text, true);
    read = receive_lazily(&wire, 0, is_stopped);
    while (take(&wire, read, false))
        read++;
    CHECK(read >= atomic_load(&wire.diary->done)); /* nothing half, and nothing missing */
    CHECK(!take(&wire, read, false));
    kill(wire.victim, SIGCONT);
    read = receive_lazily(&wire, read, has_written_more);
    kill(wire.victim, SIGKILL);
    bury(&wire);
    while (take(&wire, read, true))
        read++;
    CHECK(read >= 400);
    wire_close(&wire);
}

static void check_stopped_consumer(const char *text, int point)
{
    struct wire wire;
    uint64_t sent;

    (void)point;
    wire_open(&wire);
    fork_victim(&wire, text, false);
    sent = send_lazily(&wire, 0, is_stopped);
    while (put(&wire, sent, false))
        sent++;
    kill(wire.victim, SIGCONT);
    sent = send_lazily(&wire, sent, has_written_more); /* the victim checks each record itself */
    kill(wire.victim, SIGKILL);
    bury(&wire);
    check_legacy(&wire, sent, atomic_load(&wire.diary->done));
    wire_close(&wire);
}

static void check_dawdling_producer(const char *text, int point)
{
    struct wire wire;
    uint64_t read;

    (void)point;
    wire_open(&wire);
    fork_victim(&wire, text, true);
    read = receive_lazily(&wire, 0, has_written_more);
    kill(wire.victim, SIGKILL);
    bury(&wire);
    while (take(&wire, read, true))
        read++;
    CHECK(read >= 400);
    wire_close(&wire);
}

static void producer_dies_at_every_point(void)
{
    at_points(NR_AT_RESERVED, NR_AT_PRODUCER_LOOKED, "abort", check_dead_producer);
}

static void producer_stops_at_every_point(void)
{
    at_points(NR_AT_RESERVED, NR_AT_PRODUCER_LOOKED, "stop", check_stopped_producer);
}

static void producer_sleeps_at_every_point(void)
{
    for (int point = NR_AT_RESERVED; point <= NR_AT_PRODUCER_LOOKED; point++) {
        char text[40];

        snprintf(text, sizeof text, "%d:sleep@3", point);
        check_dawdling_producer(text, point);
    }
}

static void consumer_dies_at_every_point(void)
{
    at_points(NR_AT_NEXT, NR_AT_CONSUMER_LOOKED, "abort", check_dead_consumer);
}

static void consumer_stops_at_every_point(void)
{
    at_points(NR_AT_NEXT, NR_AT_CONSUMER_LOOKED, "stop", check_stopped_consumer);
}

/* ---- the creator ---- */

/* Its memfd, as a peer would get it that is handed a segment too early. */
static int steal_memfd(pid_t pid)
{
    for (int number = 3; number < 64; number++) {
        char path[64], target[64] = "";

        snprintf(path, sizeof path, "/proc/%d/fd/%d", (int)pid, number);
        if (readlink(path, target, sizeof target - 1) > 0 && strstr(target, "memfd:naru"))
            return open(path, O_RDWR | O_CLOEXEC);
    }
    return -1;
}

/* FAULTS 43: who gets hold of a half-made segment does not map it. */
static void half_made_segment_is_refused(void)
{
    for (int point = NR_AT_SEGMENT_MADE; point <= NR_AT_SEGMENT_SEALED; point++) {
        const uint64_t capacity[2] = {CAPACITY, CAPACITY};
        struct nr_segment *segment = NULL;
        char text[40];
        int status, fd;
        pid_t pid = fork();

        REQUIRE(pid >= 0);
        if (pid == 0) {
            prctl(PR_SET_PDEATHSIG, SIGKILL);
            snprintf(text, sizeof text, "%d:stop", point);
            nr_crashpoint_arm(text);
            nr_segment_create(capacity, 0);
            _exit(1);
        }
        REQUIRE(waitpid(pid, &status, WUNTRACED) == pid && WIFSTOPPED(status));
        fd = steal_memfd(pid);
        REQUIRE(fd >= 0);
        CHECK_EQUAL(nr_segment_map(fd, &segment), point == NR_AT_SEGMENT_SEALED ? 0 : -EPROTO);
        if (segment)
            nr_segment_release(segment);
        nr_os_close(fd);
        kill(pid, SIGKILL);
        waitpid(pid, &status, 0);
    }
}

int main(int argc, char **argv)
{
    if (argc > 1)
        kills = strtoull(argv[1], NULL, 10);
    REQUIRE(nr_os_barrier_register() == 0);
    RUN(consumer_gets_whole_records_from_a_killed_producer);
    RUN(nothing_is_torn_by_a_killed_consumer);
    RUN(producer_dies_at_every_point);
    RUN(producer_stops_at_every_point);
    RUN(producer_sleeps_at_every_point);
    RUN(consumer_dies_at_every_point);
    RUN(consumer_stops_at_every_point);
    RUN(half_made_segment_is_refused);
    return check_finish();
}
