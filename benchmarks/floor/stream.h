/*
 * stream.h: messages over a byte stream (pipe, Unix socket, TCP).
 *
 * Holds: the loops that write and read a stream of equal messages, per message
 * or 64 at a time, the round trip and the idle receiver.
 * Must not know: what the descriptors are. Messages have no header: the floor
 * is the plain cost of moving the bytes, and both sides know the size.
 * Joins: pipe.c, unix.c and tcp.c open the descriptors and call
 * floor_stream_main.
 */
#ifndef FLOOR_STREAM_H
#define FLOOR_STREAM_H

#include "floor.h"

/* Four descriptors: `there` carries sender to receiver, `back` the answers. A
 * socket has one descriptor for both directions at each end. */
typedef struct floor_stream {
    int there_write;
    int there_read;
    int back_write;
    int back_read;
} floor_stream;

/* Most bytes of one read: one call takes many messages. */
enum { FLOOR_READ_BYTES = 256 * 1024 };

int floor_stream_main(const floor_options *options, floor_stream *stream);

#endif
