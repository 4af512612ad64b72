/*
 * unix.c: the floor of a Unix stream socket.
 *
 *   cc -O2 -std=c11 -D_GNU_SOURCE -o floor_unix unix.c stream.c floor.c
 */
#include "stream.h"

#include <errno.h>
#include <sys/socket.h>

int main(int argc, char **argv) {
    floor_options options = floor_parse(argc, argv, "unix");
    int ends[2];
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) < 0)
        floor_die(&options, "socketpair", errno);
    if (options.capacity_bytes > 0) {
        int bytes = (int)options.capacity_bytes;
        if (setsockopt(ends[0], SOL_SOCKET, SO_SNDBUF, &bytes, sizeof bytes) < 0)
            floor_die(&options, "SO_SNDBUF", errno);
    }
    floor_stream stream = {ends[0], ends[1], ends[1], ends[0]};
    return floor_stream_main(&options, &stream);
}
