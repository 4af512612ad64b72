/* Whole endpoints, both sides as threads of one process: for the sanitizers, and for the ledger.
 *
 *     test_endpoints [messages]
 *
 * Each side has a lock that stands for the binding's (Python: the GIL), a thread that sends and one
 * that receives; they do what the binding does: try under the lock, announce, wait without it. In the
 * last cases a further thread moves the channel from one transport to the next all the time, or empties a
 * publisher's queues. Every message says its number and is filled by it. */
#include <errno.h>
#include <pthread.h>
#include <sys/socket.h>
#include <unistd.h>

#include "check.h"
#include "naru/transports.h"

#define MOST_BYTES 70000u
#define CAPACITY 65536u
#define PATIENCE_NS 20000000000u

static uint64_t messages = 100000;

struct side {
    pthread_mutex_t lock;
    struct nr_endpoint *end;
    uint64_t seed;
    _Atomic bool failed;
};

static struct side sides[2];
static _Atomic bool finished;

static const struct nr_settings settings = {
    .wait = NR_WAIT_ADAPTIVE, .max_message_bytes = 1u << 20, .allocator = &nr_malloc_allocator};

/* ---- connections ---- */

enum kind { UNIX_STREAM, PIPES, SHARED_MEMORY, KINDS };

static void open_stream_end(enum nr_stream_kind kind, int in, int out, struct nr_endpoint **end)
{
    struct nr_stream_settings stream = {.kind = kind, .framing = NR_FRAMING_NARU};

    CHECK_EQUAL(nr_stream_open(&settings, &stream, in, out, end), 0);
}

static void connect_memory(struct nr_endpoint *ends[2])
{
    uint64_t capacity[2] = {CAPACITY, CAPACITY};
    int fd = nr_segment_create(capacity, 0);
    int line[2], bells[4];

    CHECK(fd >= 0);
    CHECK_EQUAL(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, line), 0);
    for (int i = 0; i < 4; i++)
        bells[i] = nr_os_eventfd();
    for (int i = 0; i < 2; i++) {
        struct nr_shm_descriptors fds = {.lifeline = line[i]};
        struct nr_segment *segment;

        for (int ring = 0; ring < 2; ring++) {
            fds.data_bell[ring] = dup(bells[ring]);
            fds.space_bell[ring] = dup(bells[2 + ring]);
        }
        CHECK_EQUAL(nr_segment_map(fd, &segment), 0);
        CHECK_EQUAL(nr_shm_open(&settings, segment, i, true, &fds, &ends[i]), 0);
    }
    for (int i = 0; i < 4; i++)
        close(bells[i]);
    close(fd);
}

static void connect_ends(enum kind kind, struct nr_endpoint *ends[2])
{
    int down[2], up[2];

    switch (kind) {
    case UNIX_STREAM:
        CHECK_EQUAL(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, down), 0);
        open_stream_end(NR_STREAM_UNIX, down[0], down[0], &ends[0]);
        open_stream_end(NR_STREAM_UNIX, down[1], down[1], &ends[1]);
        break;
    case PIPES:
        CHECK_EQUAL(pipe(down), 0);
        CHECK_EQUAL(pipe(up), 0);
        open_stream_end(NR_STREAM_PIPE, up[0], down[1], &ends[0]);
        open_stream_end(NR_STREAM_PIPE, down[0], up[1], &ends[1]);
        break;
    default:
        connect_memory(ends);
    }
}

static void close_end(struct nr_endpoint *end)
{
    if (nr_endpoint_begin_close(end))
        nr_endpoint_finish_close(end);
    nr_endpoint_free(end);
}

/* ---- the two threads of a side ---- */

static size_t size_of(uint64_t number)
{
    return number % 997 == 0 ? MOST_BYTES : 8 + (size_t)(number * 2654435761u % 3000);
}

static uint8_t filling_of(uint64_t number, uint64_t seed) { return (uint8_t)(number * 31 + seed); }

static void hold(struct side *side, enum nr_direction direction, uint64_t deadline)
{
    int result;

    do
        result = nr_endpoint_hold(side->end, direction, deadline);
    while (result == -EINTR); /* the binding looks at signals now and then */
    CHECK_EQUAL(result, 0);
}

/* As finish_send in the binding: 0, or -errno. */
static int send_message(struct side *side, const uint8_t *data, size_t size)
{
    struct iovec part = {(void *)data, size};
    struct nr_outgoing out = {.parts = &part, .part_count = 1, .size = size};
    uint64_t deadline = nr_os_now_ns() + PATIENCE_NS;
    int result, waited;

    hold(side, NR_SEND, deadline);
    for (;;) {
        pthread_mutex_lock(&side->lock);
        result = nr_endpoint_send(side->end, &out);
        if (result == 0 && nr_endpoint_has_rest(side->end))
            result = nr_endpoint_flush(side->end) == -EAGAIN ? 1 : 0;
        pthread_mutex_unlock(&side->lock);
        while (result == 1) { /* accepted, and the rest must go out */
            waited = nr_endpoint_wait(side->end, NR_SEND, deadline);
            pthread_mutex_lock(&side->lock);
            result = nr_endpoint_flush(side->end) == -EAGAIN ? 1 : 0;
            pthread_mutex_unlock(&side->lock);
            if (waited == 0)
                result = -ETIMEDOUT;
        }
        if (result != -EAGAIN)
            break;
        waited = nr_endpoint_wait(side->end, NR_SEND, deadline);
        if (waited == 0 || (waited < 0 && waited != -EINTR)) {
            result = waited ? waited : -ETIMEDOUT;
            break;
        }
    }
    nr_endpoint_let_go(side->end, NR_SEND);
    return result;
}

static void *send_all(void *argument)
{
    struct side *side = argument;
    uint8_t *data = malloc(MOST_BYTES);

    for (uint64_t number = 0; number < messages && !side->failed; number++) {
        size_t size = size_of(number);
        int result;

        memset(data, filling_of(number, side->seed), size);
        memcpy(data, &number, sizeof number);
        result = send_message(side, data, size);
        if (!CHECK_EQUAL(result, 0))
            side->failed = true;
    }
    free(data);
    return NULL;
}

/* Takes one message and checks it, under the lock: 1, -EAGAIN, or -errno. */
static int take_message(struct side *side, uint64_t number, uint64_t seed)
{
    struct nr_message message;
    int result = nr_endpoint_receive(side->end, &message);
    uint64_t said;

    if (result == -EAGAIN)
        nr_endpoint_announce_wait(side->end);
    if (result != 1)
        return result;
    memcpy(&said, message.data, sizeof said);
    CHECK_EQUAL(said, number);
    CHECK_EQUAL(message.size, size_of(number));
    CHECK_EQUAL(message.data[message.size - 1],
                message.size > 8 ? filling_of(number, seed) : message.data[message.size - 1]);
    if (message.owner)
        nr_malloc_allocator.discard(message.owner);
    nr_endpoint_release(side->end);
    return said == number ? 1 : -EBADMSG;
}

static void *receive_all(void *argument)
{
    struct side *side = argument;
    uint64_t seed = side == &sides[0] ? sides[1].seed : sides[0].seed;
    uint64_t deadline = nr_os_now_ns() + PATIENCE_NS;

    hold(side, NR_RECEIVE, deadline);
    for (uint64_t number = 0; number < messages && !side->failed;) {
        int result, waited;

        pthread_mutex_lock(&side->lock);
        result = take_message(side, number, seed);
        pthread_mutex_unlock(&side->lock);
        if (result == 1) {
            number++;
            deadline = nr_os_now_ns() + PATIENCE_NS;
            continue;
        }
        if (result != -EAGAIN && !CHECK_EQUAL(result, 1))
            side->failed = true;
        waited = result == -EAGAIN ? nr_endpoint_wait(side->end, NR_RECEIVE, deadline) : 1;
        if (waited == 0 && !CHECK(!"a message came in time"))
            side->failed = true;
    }
    nr_endpoint_let_go(side->end, NR_RECEIVE);
    return NULL;
}

/* ---- moving ---- */

static int turn(struct side *side)
{
    int result;

    pthread_mutex_lock(&side->lock);
    result = nr_mover_turn(side->end);
    pthread_mutex_unlock(&side->lock);
    return result;
}

static bool is_moving(struct side *side)
{
    bool moving;

    pthread_mutex_lock(&side->lock);
    moving = nr_mover_is_moving(side->end);
    pthread_mutex_unlock(&side->lock);
    return moving;
}

/* What the control connection does between two processes. */
static void *move_about(void *moves)
{
    for (int count = 0; !finished; count++) {
        struct nr_endpoint *next[2];

        connect_ends((enum kind)(count % KINDS), next);
        for (int i = 0; i < 2; i++) {
            pthread_mutex_lock(&sides[i].lock);
            CHECK_EQUAL(nr_mover_prepare(sides[i].end, next[i]), 0);
            pthread_mutex_unlock(&sides[i].lock);
        }
        for (int i = 1; i >= 0; i--)
            while (!finished && turn(&sides[i]) == -EAGAIN)
                nr_os_sleep(NULL, 0, 100000);
        while (!finished && (is_moving(&sides[0]) || is_moving(&sides[1])))
            nr_os_sleep(NULL, 0, 100000);
        ++*(uint64_t *)moves;
    }
    return NULL;
}

static uint64_t run_sides(bool moving)
{
    pthread_t threads[4], mover;
    uint64_t moves = 0;

    finished = false;
    for (int i = 0; i < 2; i++) {
        pthread_mutex_init(&sides[i].lock, NULL);
        sides[i].seed = (uint64_t)i * 7;
        sides[i].failed = false;
    }
    for (int i = 0; i < 2; i++) {
        pthread_create(&threads[2 * i], NULL, send_all, &sides[i]);
        pthread_create(&threads[2 * i + 1], NULL, receive_all, &sides[i]);
    }
    if (moving)
        pthread_create(&mover, NULL, move_about, &moves);
    for (int i = 0; i < 4; i++)
        pthread_join(threads[i], NULL);
    finished = true;
    if (moving)
        pthread_join(mover, NULL);
    return moves;
}

static void run_kind(enum kind kind)
{
    struct nr_endpoint *ends[2];

    connect_ends(kind, ends);
    for (int i = 0; i < 2; i++)
        sides[i].end = ends[i];
    run_sides(false);
    for (int i = 0; i < 2; i++)
        close_end(sides[i].end);
}

static void over_a_unix_stream(void) { run_kind(UNIX_STREAM); }
static void over_pipes(void) { run_kind(PIPES); }
static void over_shared_memory(void) { run_kind(SHARED_MEMORY); }

static void while_it_moves(void)
{
    struct nr_endpoint *first[2];
    uint64_t moves;

    connect_ends(UNIX_STREAM, first);
    for (int i = 0; i < 2; i++)
        CHECK_EQUAL(nr_mover_open(&settings, first[i], &sides[i].end), 0);
    moves = run_sides(true);
    printf("%llu moves\n", (unsigned long long)moves);
    CHECK(moves > 0);
    for (int i = 0; i < 2; i++)
        close_end(sides[i].end);
}

/* ---- a publisher, whose queues another thread empties: in Python the one that lets subscribers in ---- */

#define QUEUE_BYTES 65536u

static void publish_to_one(void)
{
    static const struct nr_subscription facts = {.policy = NR_POLICY_BLOCK};
    struct nr_endpoint *ends[2];

    connect_ends(UNIX_STREAM, ends);
    CHECK_EQUAL(nr_fan_out_open(&settings, QUEUE_BYTES, &sides[0].end), 0);
    CHECK_EQUAL(nr_fan_out_add(sides[0].end, &facts, ends[0]), 0);
    sides[1].end = ends[1];
}

static uint64_t lag_bytes(void)
{
    struct nr_subscription now;

    CHECK_EQUAL(nr_publisher_list(sides[0].end, &now, 1), 1);
    return now.lag_bytes;
}

static void *step_all_the_time(void *argument)
{
    struct side *side = argument;
    struct pollfd lives = {.fd = nr_publisher_lives(side->end), .events = POLLIN};

    while (!finished) {
        (void)nr_os_sleep(&lives, 1, 1000000);
        pthread_mutex_lock(&side->lock);
        nr_publisher_step(side->end);
        pthread_mutex_unlock(&side->lock);
    }
    return NULL;
}

/* No descriptor tells of that room. */
static void room_made_between_refusal_and_sleep(void)
{
    uint8_t data[8000] = {0};
    struct iovec part = {data, sizeof data};
    struct nr_outgoing out = {.parts = &part, .part_count = 1, .size = sizeof data};
    struct nr_message message;

    publish_to_one();
    while (nr_endpoint_send(sides[0].end, &out) == 0)
        ;
    do {
        while (nr_endpoint_receive(sides[1].end, &message) == 1) {
            if (message.owner)
                nr_malloc_allocator.discard(message.owner);
            nr_endpoint_release(sides[1].end);
        }
        nr_publisher_step(sides[0].end);
    } while (lag_bytes() > 0);
    CHECK_EQUAL(nr_endpoint_wait(sides[0].end, NR_SEND, nr_os_now_ns() + PATIENCE_NS / 4), 1);
    CHECK_EQUAL(nr_endpoint_send(sides[0].end, &out), 0);
    for (int i = 0; i < 2; i++)
        close_end(sides[i].end);
}

static void while_another_thread_steps(void)
{
    pthread_t threads[3];

    publish_to_one();
    finished = false;
    for (int i = 0; i < 2; i++) {
        pthread_mutex_init(&sides[i].lock, NULL);
        sides[i].failed = false;
    }
    pthread_create(&threads[0], NULL, send_all, &sides[0]);
    pthread_create(&threads[1], NULL, receive_all, &sides[1]);
    pthread_create(&threads[2], NULL, step_all_the_time, &sides[0]);
    for (int i = 0; i < 3; i++) {
        finished = i == 2;
        pthread_join(threads[i], NULL);
    }
    for (int i = 0; i < 2; i++)
        close_end(sides[i].end);
}

int main(int argc, char **argv)
{
    if (argc > 1)
        messages = strtoull(argv[1], NULL, 10);
    CHECK_EQUAL(nr_process_start(), 0);
    RUN(over_a_unix_stream);
    RUN(over_pipes);
    RUN(over_shared_memory);
    RUN(while_it_moves);
    RUN(room_made_between_refusal_and_sleep);
    RUN(while_another_thread_steps);
    return check_finish();
}
