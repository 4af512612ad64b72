/*
 * pipe.c: the floor of a pipe (two of them for the round trip).
 *
 *   cc -O2 -std=c11 -D_GNU_SOURCE -o floor_pipe pipe.c stream.c floor.c
 */
#include "stream.h"

#include <errno.h>
#include <fcntl.h>
#include <unistd.h>

enum { DEFAULT_CAPACITY_BYTES = 1 << 20 }; /* fs.pipe-max-size of an unprivileged user */

static void open_pipe(const floor_options *options, int *read_end, int *write_end) {
    int ends[2];
    if (pipe2(ends, O_CLOEXEC) < 0)
        floor_die(options, "pipe2", errno);
    if (fcntl(ends[1], F_SETPIPE_SZ, (int)options->capacity_bytes) < 0)
        floor_die(options, "F_SETPIPE_SZ", errno);
    *read_end = ends[0];
    *write_end = ends[1];
}

int main(int argc, char **argv) {
    floor_options options = floor_parse(argc, argv, "pipe");
    if (options.capacity_bytes == 0)
        options.capacity_bytes = DEFAULT_CAPACITY_BYTES;
    floor_stream stream;
    open_pipe(&options, &stream.there_read, &stream.there_write);
    open_pipe(&options, &stream.back_read, &stream.back_write);
    return floor_stream_main(&options, &stream);
}
