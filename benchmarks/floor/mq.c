/*
 * mq.c: the floor of a POSIX message queue (two for the round trip), depth 10,
 * which is what an unprivileged process may ask for (fs.mqueue.msg_max).
 *
 *   cc -O2 -std=c11 -D_GNU_SOURCE -o floor_mq mq.c floor.c -lrt
 */
#include "floor.h"

#include <errno.h>
#include <fcntl.h>
#include <mqueue.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum { DEPTH = 10 };

typedef struct queues {
    mqd_t there;
    mqd_t back;
} queues;

static unsigned char *allocate(const floor_options *options) {
    unsigned char *message = malloc(options->size_bytes);
    if (!message)
        floor_die(options, "malloc", errno);
    memset(message, 0x5a, options->size_bytes);
    return message;
}

/* The name goes at once: the descriptors are inherited, nothing is left behind. */
static mqd_t open_queue(const floor_options *options, const char *way) {
    char name[64];
    snprintf(name, sizeof name, "/naru-floor-%d-%s", (int)getpid(), way);
    struct mq_attr attributes = {.mq_maxmsg = DEPTH, .mq_msgsize = (long)options->size_bytes};
    mqd_t queue = mq_open(name, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600, &attributes);
    if (queue == (mqd_t)-1)
        floor_die(options, "mq_open", errno);
    mq_unlink(name);
    return queue;
}

static void put(const floor_options *options, mqd_t queue, unsigned char *message,
                uint64_t sequence) {
    floor_number(message, sequence);
    while (mq_send(queue, (const char *)message, options->size_bytes, 0) < 0)
        if (errno != EINTR)
            floor_die(options, "mq_send", errno);
}

static void take(const floor_options *options, mqd_t queue, unsigned char *message,
                 uint64_t sequence) {
    ssize_t taken;
    while ((taken = mq_receive(queue, (char *)message, options->size_bytes, NULL)) < 0)
        if (errno != EINTR)
            floor_die(options, "mq_receive", errno);
    if ((size_t)taken != options->size_bytes)
        floor_die(options, "a message has the wrong size", 0);
    floor_check(options, message, sequence);
}

static void stream_sender(floor_run_state *run, void *context) {
    queues *both = context;
    unsigned char *message = allocate(run->options);
    for (int pass = 0; pass < 2; pass++) {
        uint64_t count = floor_pass_count(run->options, pass);
        floor_start(run, FLOOR_SENDER);
        for (uint64_t sequence = 0; sequence < count; sequence++)
            put(run->options, both->there, message, sequence);
        floor_stop(run, FLOOR_SENDER);
    }
    free(message);
}

static void stream_receiver(floor_run_state *run, void *context) {
    queues *both = context;
    unsigned char *message = allocate(run->options);
    for (int pass = 0; pass < 2; pass++) {
        uint64_t count = floor_pass_count(run->options, pass);
        floor_start(run, FLOOR_RECEIVER);
        for (uint64_t sequence = 0; sequence < count; sequence++)
            take(run->options, both->there, message, sequence);
        floor_stop(run, FLOOR_RECEIVER);
    }
    free(message);
}

static void trip_sender(floor_run_state *run, void *context) {
    queues *both = context;
    unsigned char *message = allocate(run->options);
    for (int pass = 0; pass < 2; pass++) {
        uint64_t count = floor_pass_count(run->options, pass);
        floor_start(run, FLOOR_SENDER);
        uint64_t last_ns = floor_now_ns();
        for (uint64_t sequence = 0; sequence < count; sequence++) {
            put(run->options, both->there, message, sequence);
            take(run->options, both->back, message, sequence + 1);
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
    queues *both = context;
    unsigned char *message = allocate(run->options);
    for (int pass = 0; pass < 2; pass++) {
        uint64_t count = floor_pass_count(run->options, pass);
        floor_start(run, FLOOR_RECEIVER);
        for (uint64_t sequence = 0; sequence < count; sequence++) {
            take(run->options, both->there, message, sequence);
            put(run->options, both->back, message, sequence + 1);
        }
        floor_stop(run, FLOOR_RECEIVER);
    }
    free(message);
}

int main(int argc, char **argv) {
    floor_options options = floor_parse(argc, argv, "mq");
    if (floor_is(options.shape, "batch"))
        floor_die(&options, "a message queue has no batch call", 0);
    queues both = {open_queue(&options, "there"), open_queue(&options, "back")};
    if (floor_is(options.command, "stream"))
        return floor_run(&options, stream_sender, stream_receiver, &both);
    if (floor_is(options.command, "trip"))
        return floor_run(&options, trip_sender, trip_receiver, &both);
    floor_die(&options, "a message queue has the commands stream and trip", 0);
}
