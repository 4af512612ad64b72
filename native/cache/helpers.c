/* Pure: words, numbers, patterns, slots. */
#include <ctype.h>
#include <errno.h>
#include <math.h>

#include "parts.h"

bool nr_bytes_are(struct nr_bytes bytes, const char *lower_case)
{
    for (size_t i = 0; i < bytes.size; i++) {
        uint8_t c = bytes.bytes[i];

        if (c >= 'A' && c <= 'Z')
            c |= 0x20;
        if (!lower_case[i] || c != (uint8_t)lower_case[i])
            return false;
    }
    return lower_case[bytes.size] == 0;
}

bool nr_read_integer(struct nr_bytes text, int64_t *number)
{
    bool negative = text.size && *text.bytes == '-';
    const uint8_t *digits = text.bytes + negative;
    size_t size = text.size - negative;
    uint64_t value = 0, most = (uint64_t)INT64_MAX + negative;

    if (size == 0 || size > 19 || (*digits == '0' && text.size > 1))
        return false;
    for (size_t i = 0; i < size; i++) {
        unsigned digit = (unsigned)digits[i] - '0';

        if (digit > 9 || value > (most - digit) / 10)
            return false;
        value = value * 10 + digit;
    }
    *number = (int64_t)(negative ? 0 - value : value);
    return true;
}

bool nr_call_integer(struct call *call, uint32_t index, int64_t *number)
{
    if (nr_read_integer(call->arguments[index], number))
        return true;
    nr_reply_error(call->reply, NR_NOT_INTEGER);
    return false;
}

bool nr_read_double(struct nr_bytes text, long double *number)
{
    char copy[256], *end;

    if (text.size == 0 || text.size >= sizeof copy || isspace(*text.bytes))
        return false;
    memcpy(copy, text.bytes, text.size);
    copy[text.size] = 0;
    errno = 0;
    *number = strtold(copy, &end);
    if (end != copy + text.size || isnan(*number))
        return false;
    return !(errno == ERANGE && (*number == HUGE_VALL || *number == -HUGE_VALL || *number == 0));
}

/* ---- patterns, as KEYS, SCAN and PSUBSCRIBE have them ---- */

/* One [set] at *at, behind its bracket; *at moves behind its end. */
static bool in_set(struct nr_bytes pattern, size_t *at, uint8_t c)
{
    bool negated = *at < pattern.size && pattern.bytes[*at] == '^', found = false;

    if (negated)
        (*at)++;
    while (*at < pattern.size && pattern.bytes[*at] != ']') {
        const uint8_t *p = pattern.bytes + *at;
        size_t rest = pattern.size - *at;

        if (*p == '\\' && rest >= 2) {
            found |= p[1] == c;
            *at += 2;
        } else if (rest >= 3 && p[1] == '-') {
            uint8_t low = p[0] < p[2] ? p[0] : p[2], high = p[0] < p[2] ? p[2] : p[0];

            found |= c >= low && c <= high;
            *at += 3;
        } else {
            found |= *p == c;
            (*at)++;
        }
    }
    if (*at < pattern.size)
        (*at)++;
    return found != negated;
}

/* One element at pattern[*at], which is not a star, against c. */
static bool matches_one(struct nr_bytes pattern, size_t *at, uint8_t c)
{
    uint8_t p = pattern.bytes[(*at)++];

    if (p == '?')
        return true;
    if (p == '[')
        return in_set(pattern, at, c);
    if (p == '\\' && *at < pattern.size)
        p = pattern.bytes[(*at)++];
    return p == c;
}

/* Goes back to the last star only, which is enough, and never takes longer than the product of the sizes. */
bool nr_glob(struct nr_bytes pattern, struct nr_bytes text)
{
    size_t p = 0, t = 0, star = SIZE_MAX, star_text = 0;

    while (t < text.size) {
        size_t next = p;

        if (p < pattern.size && pattern.bytes[p] == '*') {
            star = ++p;
            star_text = t;
        } else if (p < pattern.size && matches_one(pattern, &next, text.bytes[t])) {
            p = next;
            t++;
        } else if (star != SIZE_MAX) {
            p = star;
            t = ++star_text;
        } else
            return false;
    }
    while (p < pattern.size && pattern.bytes[p] == '*')
        p++;
    return p == pattern.size;
}

/* ---- slots: CRC16 of what stands in the first braces, else of the key ---- */

/* CCITT, polynomial 0x1021, from 0, four bits at a time. Source: the Redis Cluster specification. */
static uint16_t crc16(const uint8_t *bytes, size_t size)
{
    static const uint16_t steps[16] = {0x0000, 0x1021, 0x2042, 0x3063, 0x4084, 0x50a5, 0x60c6, 0x70e7,
                                       0x8108, 0x9129, 0xa14a, 0xb16b, 0xc18c, 0xd1ad, 0xe1ce, 0xf1ef};
    uint16_t crc = 0;

    for (size_t i = 0; i < size; i++) {
        crc = (uint16_t)(crc << 4 ^ steps[(crc >> 12 ^ bytes[i] >> 4) & 15]);
        crc = (uint16_t)(crc << 4 ^ steps[(crc >> 12 ^ bytes[i]) & 15]);
    }
    return crc;
}

uint32_t nr_slot_of(struct nr_bytes key)
{
    const uint8_t *open = key.size ? memchr(key.bytes, '{', key.size) : NULL;

    if (open) {
        const uint8_t *from = open + 1;
        const uint8_t *close = memchr(from, '}', key.size - (size_t)(from - key.bytes));

        if (close && close > from)
            return crc16(from, (size_t)(close - from)) % NR_SLOTS;
    }
    return crc16(key.bytes, key.size) % NR_SLOTS;
}

/* ---- SHA-1: the names of scripts. Source: RFC 3174. Not for secrets. ---- */

static uint32_t rotate(uint32_t x, int by) { return x << by | x >> (32 - by); }

static void sha1_block(uint32_t *h, const uint8_t *block)
{
    uint32_t w[80], a = h[0], b = h[1], c = h[2], d = h[3], e = h[4];

    for (int i = 0; i < 16; i++)
        w[i] = (uint32_t)block[i * 4] << 24 | (uint32_t)block[i * 4 + 1] << 16 |
               (uint32_t)block[i * 4 + 2] << 8 | block[i * 4 + 3];
    for (int i = 16; i < 80; i++)
        w[i] = rotate(w[i - 3] ^ w[i - 8] ^ w[i - 14] ^ w[i - 16], 1);
    for (int i = 0; i < 80; i++) {
        uint32_t f = i < 20   ? ((b & c) | (~b & d)) + 0x5a827999u
                     : i < 40 ? (b ^ c ^ d) + 0x6ed9eba1u
                     : i < 60 ? ((b & c) | (b & d) | (c & d)) + 0x8f1bbcdcu
                              : (b ^ c ^ d) + 0xca62c1d6u;
        uint32_t next = rotate(a, 5) + f + e + w[i];

        e = d;
        d = c;
        c = rotate(b, 30);
        b = a;
        a = next;
    }
    h[0] += a;
    h[1] += b;
    h[2] += c;
    h[3] += d;
    h[4] += e;
}

void nr_sha1_hex(const void *bytes, size_t size, char text[41])
{
    static const char digits[] = "0123456789abcdef";
    uint32_t h[5] = {0x67452301u, 0xefcdab89u, 0x98badcfeu, 0x10325476u, 0xc3d2e1f0u};
    uint8_t last[128] = {0};
    const uint8_t *at = bytes;
    size_t rest = size, padded;

    for (; rest >= 64; rest -= 64, at += 64)
        sha1_block(h, at);
    if (rest)
        memcpy(last, at, rest);
    last[rest] = 0x80;
    padded = rest < 56 ? 64 : 128;
    for (int i = 0; i < 8; i++)
        last[padded - 1 - (size_t)i] = (uint8_t)((uint64_t)size * 8 >> (i * 8));
    for (size_t i = 0; i < padded; i += 64)
        sha1_block(h, last + i);
    for (int i = 0; i < 40; i++)
        text[i] = digits[h[i / 8] >> (28 - i % 8 * 4) & 15u];
    text[40] = 0;
}
