/* Replies to bytes, in RESP2 and RESP3. Pure: naru/resp.h. */
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "naru/resp.h"

#define FIRST_ROOM 65536u
#define NUMBER_MOST 24u /* a type byte, 64 bits in decimal, the line's end */

void nr_reply_free(struct nr_reply *reply)
{
    free(reply->bytes);
    reply->bytes = NULL;
    reply->size = reply->room = 0;
}

uint8_t *nr_reply_grow(struct nr_reply *reply, size_t more)
{
    size_t room = reply->room ? reply->room : FIRST_ROOM;
    uint8_t *bytes;

    if (reply->failed)
        return NULL;
    if (reply->room - reply->size >= more)
        return reply->bytes + reply->size;
    if (reply->most && reply->size + more > reply->most) {
        reply->failed = true;
        return NULL;
    }
    while (room - reply->size < more)
        room *= 2;
    bytes = realloc(reply->bytes, room);
    if (!bytes) {
        reply->failed = true;
        return NULL;
    }
    reply->bytes = bytes;
    reply->room = room;
    return bytes + reply->size;
}

void nr_reply_raw(struct nr_reply *reply, const void *bytes, size_t size)
{
    uint8_t *to = nr_reply_grow(reply, size);

    if (!to || size == 0)
        return;
    memcpy(to, bytes, size);
    reply->size += size;
}

/* type, number, line end */
static void head(struct nr_reply *reply, char type, int64_t number)
{
    uint8_t *to = nr_reply_grow(reply, NUMBER_MOST), digits[20];
    uint64_t rest = number < 0 ? 0 - (uint64_t)number : (uint64_t)number;
    size_t count = 0, at = 0;

    if (!to)
        return;
    to[at++] = (uint8_t)type;
    if (number < 0)
        to[at++] = '-';
    do
        digits[count++] = (uint8_t)('0' + rest % 10);
    while (rest /= 10);
    while (count)
        to[at++] = digits[--count];
    to[at++] = '\r';
    to[at++] = '\n';
    reply->size += at;
}

void nr_reply_text(struct nr_reply *reply, const char *text)
{
    nr_reply_raw(reply, "+", 1);
    nr_reply_raw(reply, text, strlen(text));
    nr_reply_raw(reply, "\r\n", 2);
}

void nr_reply_ok(struct nr_reply *reply) { nr_reply_raw(reply, "+OK\r\n", 5); }

void nr_reply_error(struct nr_reply *reply, const char *format, ...)
{
    char text[512];
    va_list arguments;

    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    for (char *c = text; *c; c++)
        if (*c == '\r' || *c == '\n')
            *c = ' ';
    nr_reply_raw(reply, "-", 1);
    nr_reply_raw(reply, text, strlen(text));
    nr_reply_raw(reply, "\r\n", 2);
}

void nr_reply_integer(struct nr_reply *reply, int64_t number) { head(reply, ':', number); }

uint8_t *nr_reply_place_bulk(struct nr_reply *reply, size_t size)
{
    uint8_t *to;

    head(reply, '$', (int64_t)size);
    to = nr_reply_grow(reply, size + 2);
    if (!to)
        return NULL;
    to[size] = '\r';
    to[size + 1] = '\n';
    reply->size += size + 2;
    return to;
}

void nr_reply_bulk(struct nr_reply *reply, const void *bytes, size_t size)
{
    uint8_t *to = nr_reply_place_bulk(reply, size);

    if (to && size)
        memcpy(to, bytes, size);
}

void nr_reply_string(struct nr_reply *reply, const char *text)
{
    nr_reply_bulk(reply, text, strlen(text));
}

void nr_reply_bulk_integer(struct nr_reply *reply, int64_t number)
{
    char text[24];
    int size = snprintf(text, sizeof text, "%lld", (long long)number);

    nr_reply_bulk(reply, text, (size_t)size);
}

void nr_reply_null(struct nr_reply *reply)
{
    if (reply->version == 3)
        nr_reply_raw(reply, "_\r\n", 3);
    else
        nr_reply_raw(reply, "$-1\r\n", 5);
}

void nr_reply_null_array(struct nr_reply *reply)
{
    if (reply->version == 3)
        nr_reply_raw(reply, "_\r\n", 3);
    else
        nr_reply_raw(reply, "*-1\r\n", 5);
}

void nr_reply_array(struct nr_reply *reply, size_t count) { head(reply, '*', (int64_t)count); }

void nr_reply_array_around(struct nr_reply *reply, size_t at, size_t count)
{
    size_t behind = reply->size - at, size;
    uint8_t header[NUMBER_MOST];

    head(reply, '*', (int64_t)count); /* written behind, and then put before */
    if (reply->failed)
        return;
    size = reply->size - at - behind;
    memcpy(header, reply->bytes + at + behind, size);
    memmove(reply->bytes + at + size, reply->bytes + at, behind);
    memcpy(reply->bytes + at, header, size);
}

void nr_reply_map(struct nr_reply *reply, size_t pairs)
{
    head(reply, reply->version == 3 ? '%' : '*', (int64_t)(reply->version == 3 ? pairs : pairs * 2));
}

void nr_reply_set(struct nr_reply *reply, size_t count)
{
    head(reply, reply->version == 3 ? '~' : '*', (int64_t)count);
}

void nr_reply_push(struct nr_reply *reply, size_t count)
{
    head(reply, reply->version == 3 ? '>' : '*', (int64_t)count);
}

void nr_reply_verbatim(struct nr_reply *reply, const char *text, size_t size)
{
    if (reply->version != 3) {
        nr_reply_bulk(reply, text, size);
        return;
    }
    head(reply, '=', (int64_t)size + 4);
    nr_reply_raw(reply, "txt:", 4);
    nr_reply_raw(reply, text, size);
    nr_reply_raw(reply, "\r\n", 2);
}
