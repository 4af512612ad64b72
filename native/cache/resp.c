/* Bytes to commands. Pure: naru/resp.h. */
#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "naru/resp.h"

#define FIRST_ROOM 8u
#define STRANGER_ARGUMENTS_MOST 10
#define STRANGER_BULK_MOST 16384

void nr_resp_init(struct nr_resp *resp)
{
    memset(resp, 0, sizeof *resp);
    resp->bulk_bytes = -1;
}

void nr_resp_free(struct nr_resp *resp)
{
    free(resp->places);
    free(resp->words);
    nr_resp_init(resp);
}

void nr_resp_reset(struct nr_resp *resp)
{
    resp->count = resp->wanted = resp->position = 0;
    resp->bulk_bytes = -1;
    if (resp->words) {
        free(resp->words);
        resp->words = NULL;
    }
}

static enum nr_resp_result wrong(struct nr_resp *resp, const char *text)
{
    snprintf(resp->error, sizeof resp->error, "Protocol error: %s", text);
    return NR_RESP_WRONG;
}

static int add(struct nr_resp *resp, uint32_t offset, uint32_t size)
{
    if (resp->count == resp->room) {
        uint32_t room = resp->room ? resp->room * 2 : FIRST_ROOM;
        struct nr_resp_place *places = realloc(resp->places, room * sizeof *places);

        if (!places)
            return -1;
        resp->places = places;
        resp->room = room;
    }
    resp->places[resp->count++] = (struct nr_resp_place){offset, size};
    return 0;
}

/* ---- arrays of bulk strings ---- */

/* Exactly a number: no spaces, no plus, no leading zeroes, as Redis reads them. */
static bool read_number(const uint8_t *text, size_t size, int64_t *number)
{
    bool negative = size && *text == '-';
    uint64_t value = 0;

    if (negative) {
        text++;
        size--;
    }
    if (size == 0 || size > 18 || (*text == '0' && (size > 1 || negative)))
        return false;
    for (size_t i = 0; i < size; i++) {
        unsigned digit = (unsigned)text[i] - '0';

        if (digit > 9)
            return false;
        value = value * 10 + digit;
    }
    *number = negative ? -(int64_t)value : (int64_t)value;
    return true;
}

/* The line at `position` and the number behind its first byte. Its end is CR and one more byte. */
static enum nr_resp_result read_count(struct nr_resp *resp, const uint8_t *bytes, size_t size,
                                      const char *too_big, bool *is_number, int64_t *number)
{
    const uint8_t *begin = bytes + resp->position;
    size_t there = size - resp->position;
    const uint8_t *end = memchr(begin, '\r', there);

    if ((end ? (size_t)(end - begin) : there) > NR_RESP_LINE_MOST)
        return wrong(resp, too_big);
    if (!end || (size_t)(end - begin) + 2 > there)
        return NR_RESP_PARTIAL;
    *is_number = read_number(begin + 1, (size_t)(end - begin) - 1, number);
    resp->position += (uint32_t)(end - begin) + 2;
    return NR_RESP_COMMAND;
}

static enum nr_resp_result begin_array(struct nr_resp *resp, const struct nr_resp_limits *limits,
                                       const uint8_t *bytes, size_t size)
{
    int64_t number = 0;
    bool is_number;
    enum nr_resp_result result =
        read_count(resp, bytes, size, "too big mbulk count string", &is_number, &number);

    if (result != NR_RESP_COMMAND)
        return result;
    if (!is_number || number > limits->arguments_most)
        return wrong(resp, "invalid multibulk length");
    if (limits->stranger && number > STRANGER_ARGUMENTS_MOST)
        return wrong(resp, "unauthenticated multibulk length");
    if (number <= 0)
        return NR_RESP_NOTHING;
    resp->wanted = (uint32_t)number;
    return NR_RESP_COMMAND;
}

static enum nr_resp_result begin_bulk(struct nr_resp *resp, const struct nr_resp_limits *limits,
                                      const uint8_t *bytes, size_t size)
{
    int64_t number = 0;
    bool is_number;
    uint8_t first = bytes[resp->position];
    enum nr_resp_result result =
        read_count(resp, bytes, size, "too big bulk count string", &is_number, &number);

    if (result != NR_RESP_COMMAND)
        return result;
    if (first != '$') {
        char text[32];

        snprintf(text, sizeof text, "expected '$', got '%c'",
                 first == '\r' || first == '\n' ? ' ' : first ? first : '?');
        return wrong(resp, text);
    }
    if (!is_number || number < 0 || (uint64_t)number > limits->bulk_bytes_most)
        return wrong(resp, "invalid bulk length");
    if (limits->stranger && number > STRANGER_BULK_MOST)
        return wrong(resp, "unauthenticated bulk length");
    resp->bulk_bytes = number;
    return NR_RESP_COMMAND;
}

static enum nr_resp_result parse_array(struct nr_resp *resp, const struct nr_resp_limits *limits,
                                       const uint8_t *bytes, size_t size)
{
    enum nr_resp_result result;

    if (!resp->wanted) {
        result = begin_array(resp, limits, bytes, size);
        if (result != NR_RESP_COMMAND)
            return result;
    }
    while (resp->count < resp->wanted) {
        if (resp->bulk_bytes < 0) {
            if (resp->position >= size)
                return NR_RESP_PARTIAL;
            result = begin_bulk(resp, limits, bytes, size);
            if (result != NR_RESP_COMMAND)
                return result;
        }
        if (size - resp->position < (uint64_t)resp->bulk_bytes + 2)
            return NR_RESP_PARTIAL;
        if (add(resp, resp->position, (uint32_t)resp->bulk_bytes) < 0)
            return NR_RESP_NO_MEMORY;
        resp->position += (uint32_t)resp->bulk_bytes + 2; /* whatever the two are: the length wins */
        resp->bulk_bytes = -1;
    }
    return NR_RESP_COMMAND;
}

/* ---- a glance ahead ---- */

/* `mark`, a number of at most five digits, CR, LF: false when there is anything else. */
static bool glance_number(const uint8_t **at, const uint8_t *end, uint8_t mark, uint32_t *number)
{
    const uint8_t *p = *at;

    if (end - p < 9 || *p++ != mark) /* whatever follows: a command is longer than that */
        return false;
    for (*number = 0; *p != '\r'; p++) {
        unsigned digit = (unsigned)*p - '0';

        if (digit > 9 || p - *at > 5)
            return false;
        *number = *number * 10 + digit;
    }
    *at = p + 2;
    return true;
}

/* One command, with its second argument. */
static bool glance_one(const uint8_t **at, const uint8_t *end, struct nr_bytes *second)
{
    uint32_t count, size;

    if (!glance_number(at, end, '*', &count) || count < 2)
        return false;
    for (uint32_t i = 0; i < count; i++) {
        /* The last argument may be so short that fewer bytes follow than a number has room for. */
        const uint8_t *mark = *at;

        if (end - mark < 9) {
            if (end - mark < 7 || mark[0] != '$' || mark[1] < '0' || mark[1] > '9' || mark[2] != '\r')
                return false;
            size = mark[1] - '0';
            *at = mark + 4;
        } else if (!glance_number(at, end, '$', &size))
            return false;
        if ((size_t)(end - *at) < (size_t)size + 2)
            return false;
        if (i == 1)
            *second = (struct nr_bytes){*at, size};
        *at += size + 2;
    }
    return true;
}

uint32_t nr_resp_glance(const uint8_t *bytes, size_t size, struct nr_bytes *seconds, uint32_t most,
                        size_t *end)
{
    const uint8_t *at = bytes;
    uint32_t found = 0;

    *end = 0;
    while (found < most && glance_one(&at, bytes + size, &seconds[found])) {
        *end = (size_t)(at - bytes);
        found++;
    }
    return found;
}

/* ---- inline commands ---- */

static int hex_of(uint8_t c) { return isdigit(c) ? c - '0' : isxdigit(c) ? tolower(c) - 'a' + 10 : -1; }

/* One character within double quotes, at text[*at] behind the backslash. */
static uint8_t unescape(const uint8_t *text, size_t size, size_t *at)
{
    uint8_t c = text[*at];

    if (c == 'x' && *at + 2 < size && hex_of(text[*at + 1]) >= 0 && hex_of(text[*at + 2]) >= 0) {
        uint8_t value = (uint8_t)(hex_of(text[*at + 1]) << 4 | hex_of(text[*at + 2]));

        *at += 2;
        return value;
    }
    return c == 'n' ? '\n' : c == 'r' ? '\r' : c == 't' ? '\t' : c == 'b' ? '\b' : c == 'a' ? '\a' : c;
}

/* The quoted part that begins behind text[*at]: false when it does not end, or goes on behind its end. */
static bool take_quoted(const uint8_t *text, size_t size, size_t *at, uint8_t **into)
{
    uint8_t quote = text[(*at)++];

    for (; *at < size; (*at)++) {
        uint8_t c = text[*at];

        if (c == quote) {
            (*at)++;
            return *at == size || isspace(text[*at]);
        }
        if (c == '\\' && *at + 1 < size && quote == '"') {
            (*at)++;
            c = unescape(text, size, at);
        } else if (c == '\\' && *at + 1 < size && text[*at + 1] == '\'')
            c = text[++(*at)];
        *(*into)++ = c;
    }
    return false;
}

/* Between words is all white space, but only these end one: as Redis. */
static bool ends_word(uint8_t c) { return c == ' ' || c == '\n' || c == '\r' || c == '\t' || c == 0; }

/* As Redis: quotes may begin within a word, and a NUL ends the line. */
static enum nr_resp_result split_words(struct nr_resp *resp, const uint8_t *text, size_t size)
{
    uint8_t *into = resp->words;
    size_t at = 0;

    for (;;) {
        uint8_t *begin = into;

        while (at < size && isspace(text[at]))
            at++;
        if (at == size || !text[at])
            return resp->count ? NR_RESP_COMMAND : NR_RESP_NOTHING;
        while (at < size && !ends_word(text[at])) {
            if (text[at] == '"' || text[at] == '\'') {
                if (!take_quoted(text, size, &at, &into))
                    return wrong(resp, "unbalanced quotes in request");
                break;
            }
            *into++ = text[at++];
        }
        if (add(resp, (uint32_t)(begin - resp->words), (uint32_t)(into - begin)) < 0)
            return NR_RESP_NO_MEMORY;
    }
}

static enum nr_resp_result parse_line(struct nr_resp *resp, const uint8_t *bytes, size_t size)
{
    const uint8_t *end = memchr(bytes + resp->position, '\n', size - resp->position);
    size_t length;

    /* Also when its end came along with so much: how the bytes arrive makes no difference. */
    if ((end ? (size_t)(end - bytes) : size) > NR_RESP_LINE_MOST)
        return wrong(resp, "too big inline request");
    if (!end) {
        resp->position = (uint32_t)size; /* looked through */
        return NR_RESP_PARTIAL;
    }
    length = (size_t)(end - bytes);
    resp->position = (uint32_t)length + 1;
    if (length && bytes[length - 1] == '\r')
        length--;
    if (length == 0)
        return NR_RESP_NOTHING;
    resp->words = malloc(length);
    return resp->words ? split_words(resp, bytes, length) : NR_RESP_NO_MEMORY;
}

enum nr_resp_result nr_resp_parse(struct nr_resp *resp, const struct nr_resp_limits *limits,
                                  const uint8_t *bytes, size_t size)
{
    if (size == 0)
        return NR_RESP_PARTIAL;
    return *bytes == '*' ? parse_array(resp, limits, bytes, size) : parse_line(resp, bytes, size);
}
