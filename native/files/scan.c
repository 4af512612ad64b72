/* Looking through a block of bytes. Counting is left to the compiler's vectors, finding to the C
 * library's, which choose by the processor they run on. */
#include <errno.h>
#include <string.h>

#include "naru/files.h"
#include "naru/os.h"

/* Bytes are summed in lanes of 8 bits, at most 255 times before they would overflow. */
#define LANES 128
#define COUNT_BODY                                                                                  \
    uint64_t total = 0;                                                                             \
    while (size >= LANES) {                                                                         \
        size_t rounds = size / LANES < 255 ? size / LANES : 255;                                    \
        uint8_t sums[LANES] = {0};                                                                  \
        uint64_t part = 0;                                                                          \
        for (size_t round = 0; round < rounds; round++, data += LANES)                              \
            for (size_t lane = 0; lane < LANES; lane++)                                             \
                sums[lane] = (uint8_t)(sums[lane] + (data[lane] == byte));                          \
        for (size_t lane = 0; lane < LANES; lane++)                                                 \
            part += sums[lane];                                                                     \
        total += part;                                                                              \
        size -= rounds * LANES;                                                                     \
    }                                                                                               \
    for (; size > 0; size--, data++)                                                                \
        total += *data == byte;                                                                     \
    return total;

static uint64_t count_anywhere(const uint8_t *data, size_t size, uint8_t byte) { COUNT_BODY }

#if defined(__x86_64__) && defined(__GNUC__)
__attribute__((target("avx2"))) static uint64_t count_avx2(const uint8_t *data, size_t size, uint8_t byte)
{
    COUNT_BODY
}
#endif

uint64_t nr_scan_count(const uint8_t *data, size_t size, uint8_t byte)
{
#if defined(__x86_64__) && defined(__GNUC__)
    if (__builtin_cpu_supports("avx2"))
        return count_avx2(data, size, byte);
#endif
    return count_anywhere(data, size, byte);
}

ssize_t nr_scan_find(const uint8_t *data, size_t size, size_t from, const uint8_t *pattern, size_t length)
{
    const uint8_t *found;

    if (from > size || size - from < length)
        return -1;
    if (length == 1)
        found = memchr(data + from, *pattern, size - from);
    else
        found = memmem(data + from, size - from, pattern, length);
    return found == NULL ? -1 : found - data;
}

ssize_t nr_scan_behind_last(const uint8_t *data, size_t size, const uint8_t *pattern, size_t length)
{
    const uint8_t *last;
    uint8_t first = pattern[0];

    if (size < length)
        return -1;
    size -= length - 1; /* where a match may begin */
    while ((last = memrchr(data, first, size)) != NULL) {
        size = (size_t)(last - data);
        if (memcmp(last, pattern, length) == 0)
            return (ssize_t)(size + length);
    }
    return -1;
}

ssize_t nr_scan_behind_last_from_left(const uint8_t *data, size_t size, const uint8_t *pattern,
                                      size_t length)
{
    ssize_t behind = -1, at = 0;

    while ((at = nr_scan_find(data, size, (size_t)at, pattern, length)) >= 0)
        behind = at += (ssize_t)length;
    return behind;
}

size_t nr_scan_all(const uint8_t *data, size_t size, size_t *from, const uint8_t *pattern, size_t length,
                   uint64_t *offsets, size_t limit)
{
    size_t count = 0;
    ssize_t at;

    while (count < limit && (at = nr_scan_find(data, size, *from, pattern, length)) >= 0) {
        offsets[count++] = (uint64_t)at;
        *from = (size_t)at + length;
    }
    return count;
}

int nr_count_file(int fd, uint64_t *done, uint64_t end, uint64_t limit, uint8_t byte, uint8_t *block,
                  size_t size, uint64_t *count)
{
    uint64_t until = end - *done > limit ? *done + limit : end;

    while (*done < until) {
        size_t wanted = until - *done < size ? (size_t)(until - *done) : size;
        ssize_t got = nr_os_read_at(fd, block, wanted, (int64_t)*done);

        if (got < 0)
            return (int)got;
        if (got == 0)
            return -ENODATA;
        *count += nr_scan_count(block, (size_t)got, byte);
        *done += (uint64_t)got;
    }
    return *done < end;
}
