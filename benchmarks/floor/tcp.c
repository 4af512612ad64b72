/*
 * tcp.c: the floor of TCP over the loopback, TCP_NODELAY on both ends.
 *
 *   cc -O2 -std=c11 -D_GNU_SOURCE -o floor_tcp tcp.c stream.c floor.c
 */
#include "stream.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>
#include <unistd.h>

static void set_option(const floor_options *options, int fd, int level, int name, int value) {
    if (setsockopt(fd, level, name, &value, sizeof value) < 0)
        floor_die(options, "setsockopt", errno);
}

/* Buffers are set before connect, because the window scale is agreed there. */
static int open_socket(const floor_options *options) {
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0)
        floor_die(options, "socket", errno);
    set_option(options, fd, IPPROTO_TCP, TCP_NODELAY, 1);
    if (options->capacity_bytes > 0) {
        set_option(options, fd, SOL_SOCKET, SO_SNDBUF, (int)options->capacity_bytes);
        set_option(options, fd, SOL_SOCKET, SO_RCVBUF, (int)options->capacity_bytes);
    }
    return fd;
}

int main(int argc, char **argv) {
    floor_options options = floor_parse(argc, argv, "tcp");
    struct sockaddr_in address = {.sin_family = AF_INET,
                                  .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t length = sizeof address;
    int listener = open_socket(&options), client = open_socket(&options);
    if (bind(listener, (struct sockaddr *)&address, length) < 0 || listen(listener, 1) < 0 ||
        getsockname(listener, (struct sockaddr *)&address, &length) < 0)
        floor_die(&options, "listen", errno);
    if (connect(client, (struct sockaddr *)&address, length) < 0)
        floor_die(&options, "connect", errno);
    int server = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
    if (server < 0)
        floor_die(&options, "accept", errno);
    close(listener);
    set_option(&options, server, IPPROTO_TCP, TCP_NODELAY, 1);
    floor_stream stream = {client, server, server, client};
    return floor_stream_main(&options, &stream);
}
