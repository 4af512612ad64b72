/* The echo protocol: the smallest there is, and the floor of what a message costs. */
#include "naru/protocol.h"

static ssize_t on_bytes(struct nr_connection *connection, const uint8_t *bytes, size_t size)
{
    int result = nr_connection_send(connection, bytes, size);

    return result < 0 ? result : (ssize_t)size;
}

const struct nr_protocol_ops nr_protocol_echo = {.name = "echo", .on_bytes = on_bytes};
