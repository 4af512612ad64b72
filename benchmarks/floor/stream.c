/*
 * stream.c: the loops over descriptors (see stream.h).
 */
#include "stream.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

static unsigned char *allocate(const floor_options *options, size_t size_bytes) {
    unsigned char *memory = malloc(size_bytes);
    if (!memory)
        floor_die(options, "malloc", errno);
    memset(memory, 0x5a, size_bytes); /* faulted in before the clock starts */
    return memory;
}

static void write_all(const floor_options *options, int fd, const unsigned char *data, size_t left) {
    while (left > 0) {
        ssize_t written = write(fd, data, left);
        if (written < 0 && errno != EINTR)
            floor_die(options, "write", errno);
        if (written > 0) {
            data += written;
            left -= (size_t)written;
        }
    }
}

static size_t read_some(const floor_options *options, int fd, unsigned char *data, size_t room) {
    for (;;) {
        ssize_t taken = read(fd, data, room);
        if (taken > 0)
            return (size_t)taken;
        if (taken == 0)
            floor_die(options, "the other side closed early", 0);
        if (errno != EINTR)
            floor_die(options, "read", errno);
    }
}

static void read_exactly(const floor_options *options, int fd, unsigned char *data, size_t left) {
    while (left > 0) {
        size_t taken = read_some(options, fd, data, left);
        data += taken;
        left -= taken;
    }
}

static void send_pass(floor_run_state *run, int fd, unsigned char *block, uint64_t group,
                      uint64_t count) {
    size_t size = run->options->size_bytes;
    for (uint64_t sequence = 0; sequence < count; sequence += group) {
        for (uint64_t slot = 0; slot < group; slot++)
            floor_number(block + slot * size, sequence + slot);
        write_all(run->options, fd, block, size * group);
    }
}

/* Takes what is there, checks each whole message, keeps the cut one for the next read. */
static void receive_pass(floor_run_state *run, int fd, unsigned char *buffer, size_t room,
                         uint64_t count) {
    size_t size = run->options->size_bytes, held = 0;
    for (uint64_t sequence = 0; sequence < count;) {
        held += read_some(run->options, fd, buffer + held, room - held);
        size_t at = 0;
        for (; held - at >= size; at += size, sequence++)
            floor_check(run->options, buffer + at, sequence);
        held -= at;
        if (held > 0)
            memmove(buffer, buffer + at, held);
        if (sequence > count || (sequence == count && held > 0))
            floor_die(run->options, "more bytes came than were sent", 0);
    }
}

static void stream_sender(floor_run_state *run, void *context) {
    floor_stream *stream = context;
    uint64_t group = floor_is(run->options->shape, "batch") ? FLOOR_BATCH : 1;
    unsigned char *block = allocate(run->options, run->options->size_bytes * group);
    for (int pass = 0; pass < 2; pass++) {
        floor_start(run, FLOOR_SENDER);
        send_pass(run, stream->there_write, block, group, floor_pass_count(run->options, pass));
        floor_stop(run, FLOOR_SENDER);
    }
    free(block);
}

static void stream_receiver(floor_run_state *run, void *context) {
    floor_stream *stream = context;
    size_t size = run->options->size_bytes;
    size_t room = size > FLOOR_READ_BYTES ? size : FLOOR_READ_BYTES;
    unsigned char *buffer = allocate(run->options, room);
    for (int pass = 0; pass < 2; pass++) {
        floor_start(run, FLOOR_RECEIVER);
        receive_pass(run, stream->there_read, buffer, room, floor_pass_count(run->options, pass));
        floor_stop(run, FLOOR_RECEIVER);
    }
    free(buffer);
}

static void trip_sender(floor_run_state *run, void *context) {
    floor_stream *stream = context;
    size_t size = run->options->size_bytes;
    unsigned char *message = allocate(run->options, size);
    for (int pass = 0; pass < 2; pass++) {
        uint64_t count = floor_pass_count(run->options, pass);
        floor_start(run, FLOOR_SENDER);
        uint64_t last_ns = floor_now_ns();
        for (uint64_t sequence = 0; sequence < count; sequence++) {
            floor_number(message, sequence);
            write_all(run->options, stream->there_write, message, size);
            read_exactly(run->options, stream->back_read, message, size);
            floor_check(run->options, message, sequence + 1);
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
    floor_stream *stream = context;
    size_t size = run->options->size_bytes;
    unsigned char *message = allocate(run->options, size);
    for (int pass = 0; pass < 2; pass++) {
        uint64_t count = floor_pass_count(run->options, pass);
        floor_start(run, FLOOR_RECEIVER);
        for (uint64_t sequence = 0; sequence < count; sequence++) {
            read_exactly(run->options, stream->there_read, message, size);
            floor_check(run->options, message, sequence);
            floor_number(message, sequence + 1);
            write_all(run->options, stream->back_write, message, size);
        }
        floor_stop(run, FLOOR_RECEIVER);
    }
    free(message);
}

/* The pause is what is measured: how much the receiver uses while nothing comes. */
static void idle_sender(floor_run_state *run, void *context) {
    floor_stream *stream = context;
    double idle_s = run->options->idle_s;
    struct timespec pause = {.tv_sec = (time_t)idle_s,
                             .tv_nsec = (long)((idle_s - (double)(time_t)idle_s) * 1e9)};
    unsigned char *message = allocate(run->options, run->options->size_bytes);
    floor_number(message, 0);
    floor_start(run, FLOOR_SENDER);
    clock_nanosleep(CLOCK_MONOTONIC, 0, &pause, NULL);
    write_all(run->options, stream->there_write, message, run->options->size_bytes);
    floor_stop(run, FLOOR_SENDER);
    free(message);
}

static void idle_receiver(floor_run_state *run, void *context) {
    floor_stream *stream = context;
    unsigned char *message = allocate(run->options, run->options->size_bytes);
    floor_start(run, FLOOR_RECEIVER);
    read_exactly(run->options, stream->there_read, message, run->options->size_bytes);
    floor_check(run->options, message, 0);
    floor_stop(run, FLOOR_RECEIVER);
    free(message);
}

int floor_stream_main(const floor_options *options, floor_stream *stream) {
    if (floor_is(options->command, "stream"))
        return floor_run(options, stream_sender, stream_receiver, stream);
    if (floor_is(options->command, "trip"))
        return floor_run(options, trip_sender, trip_receiver, stream);
    if (floor_is(options->command, "idle"))
        return floor_run(options, idle_sender, idle_receiver, stream);
    floor_die(options, "a byte stream has the commands stream, trip and idle", 0);
}
