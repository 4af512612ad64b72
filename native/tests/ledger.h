/* ledger.h: messages that betray every loss, repetition, mixture and tear.
 *
 *   message   0         8      12     16
 *             +---------+------+------+-----------------+
 *             |sequence |length|CRC32 | noise           |   the CRC is over all the rest
 *             +---------+------+------+-----------------+
 */
#ifndef NR_TESTS_LEDGER_H
#define NR_TESTS_LEDGER_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>

#define LEDGER_HEADER 16u

/* Not looked at by TSan, for speed: a threaded test copies a message out of the shared memory
 * before it judges it, and that copy is looked at. */
#define LEDGER_UNUSED __attribute__((unused, no_sanitize("thread"))) static

/* xorshift64*: the tests are repeatable, rand() is locked and short. */
LEDGER_UNUSED uint64_t ledger_random(uint64_t *state)
{
    *state ^= *state >> 12;
    *state ^= *state << 25;
    *state ^= *state >> 27;
    return *state * 0x2545f4914f6cdd1dull;
}

/* IEEE 802.3, reflected. */
LEDGER_UNUSED uint32_t ledger_crc32(uint32_t crc, const uint8_t *bytes, size_t size)
{
    static _Atomic uint32_t table[256]; /* filled by whoever comes first: all write the same */
    static _Atomic bool filled;

    if (!atomic_load_explicit(&filled, memory_order_acquire)) {
        for (uint32_t i = 0; i < 256; i++) {
            uint32_t entry = i;

            for (int bit = 0; bit < 8; bit++)
                entry = entry >> 1 ^ (entry & 1 ? 0xedb88320u : 0);
            atomic_store_explicit(&table[i], entry, memory_order_relaxed);
        }
        atomic_store_explicit(&filled, true, memory_order_release);
    }
    crc = ~crc;
    for (size_t i = 0; i < size; i++)
        crc = crc >> 8 ^
              atomic_load_explicit(&table[(crc ^ bytes[i]) & 0xff], memory_order_relaxed);
    return ~crc;
}

LEDGER_UNUSED uint32_t ledger_sum(const uint8_t *message, size_t size)
{
    uint32_t crc = ledger_crc32(0, message, 12);

    return ledger_crc32(crc, message + LEDGER_HEADER, size - LEDGER_HEADER);
}

LEDGER_UNUSED void ledger_fill(uint8_t *message, uint32_t size, uint64_t sequence)
{
    uint64_t noise = sequence * 0x9e3779b97f4a7c15ull | 1;
    uint32_t crc;

    memcpy(message, &sequence, 8);
    memcpy(message + 8, &size, 4);
    for (uint32_t i = LEDGER_HEADER; i < size; i += 8) {
        uint64_t word = ledger_random(&noise);

        memcpy(message + i, &word, size - i < 8 ? size - i : 8);
    }
    crc = ledger_sum(message, size);
    memcpy(message + 12, &crc, 4);
}

/* Is it exactly the message of that number? */
LEDGER_UNUSED bool ledger_is(const uint8_t *message, uint64_t size, uint64_t sequence)
{
    uint64_t found;
    uint32_t length, crc;

    if (size < LEDGER_HEADER)
        return false;
    memcpy(&found, message, 8);
    memcpy(&length, message + 8, 4);
    memcpy(&crc, message + 12, 4);
    return found == sequence && length == size && crc == ledger_sum(message, size);
}

/* Mostly small, sometimes up to `most`: as real traffic, and every remainder of 8. */
LEDGER_UNUSED uint32_t ledger_size(uint64_t *random, uint32_t most)
{
    uint64_t dice = ledger_random(random);
    uint32_t range = dice % 64 == 0 ? most : most < 256 ? most : 256;

    return LEDGER_HEADER + (uint32_t)((dice >> 16) % (range - LEDGER_HEADER + 1));
}

#endif
