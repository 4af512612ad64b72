/* Fuzz target: the RESP parser. The first byte chooses how the bytes arrive, the rest is the stream: in one
 * piece and in many it must be the same commands and the same end. */
#include "fuzz_main.h"
#include "naru/resp.h"

struct outcome {
    uint64_t digest;
    unsigned commands;
    int end;
    size_t used;
    char error[64];
};

static void mix(struct outcome *outcome, const uint8_t *bytes, size_t size)
{
    for (size_t i = 0; i < size; i++)
        outcome->digest = (outcome->digest ^ bytes[i]) * 1099511628211u;
    outcome->digest = (outcome->digest ^ size) * 1099511628211u;
}

/* As a connection does it: what came so far lies in memory of exactly that size. */
static struct outcome feed(const uint8_t *data, size_t size, size_t piece)
{
    const struct nr_resp_limits limits = {.arguments_most = 64, .bulk_bytes_most = 1024};
    struct outcome outcome = {.digest = 14695981039346656037u, .end = NR_RESP_PARTIAL};
    struct nr_resp resp;
    size_t there = 0;

    nr_resp_init(&resp);
    while (outcome.end != NR_RESP_WRONG) {
        size_t have = there - outcome.used;
        uint8_t *exact = malloc(have ? have : 1);

        FUZZ_REQUIRE(exact);
        memcpy(exact, data + outcome.used, have);
        outcome.end = nr_resp_parse(&resp, &limits, exact, have);
        FUZZ_REQUIRE(outcome.end != NR_RESP_NO_MEMORY);
        if (outcome.end == NR_RESP_COMMAND) {
            FUZZ_REQUIRE(resp.count >= 1 && resp.count <= (resp.words ? 65536 : 64));
            outcome.commands++;
            for (uint32_t i = 0; i < resp.count; i++) {
                struct nr_bytes argument = nr_resp_argument(&resp, exact, i);

                mix(&outcome, argument.bytes, argument.size);
            }
        }
        if (outcome.end == NR_RESP_COMMAND || outcome.end == NR_RESP_NOTHING) {
            FUZZ_REQUIRE(resp.position >= 1 && resp.position <= have);
            outcome.used += resp.position;
            nr_resp_reset(&resp);
        }
        free(exact);
        if (outcome.end == NR_RESP_PARTIAL) {
            if (there == size)
                break;
            there += size - there < piece ? size - there : piece;
        }
    }
    memcpy(outcome.error, resp.error, sizeof outcome.error);
    nr_resp_free(&resp);
    return outcome;
}

/* What a glance sees is what the parser finds. */
static void compare_glance(const uint8_t *data, size_t size)
{
    const struct nr_resp_limits limits = {.arguments_most = 1 << 20, .bulk_bytes_most = 1 << 20};
    uint8_t *exact = malloc(size ? size : 1);
    struct nr_bytes seconds[4];
    struct nr_resp resp;
    size_t end, used = 0;
    uint32_t count;

    FUZZ_REQUIRE(exact);
    memcpy(exact, data, size);
    count = nr_resp_glance(exact, size, seconds, 4, &end);
    FUZZ_REQUIRE(count <= 4 && end <= size && (count > 0) == (end > 0));
    nr_resp_init(&resp);
    for (uint32_t i = 0; i < count; i++) {
        nr_resp_reset(&resp);
        if (nr_resp_parse(&resp, &limits, exact + used, size - used) != NR_RESP_COMMAND)
            break; /* a glance takes a number with zeroes in front, the parser does not */
        FUZZ_REQUIRE(nr_resp_argument(&resp, exact + used, 1).bytes == seconds[i].bytes);
        FUZZ_REQUIRE(nr_resp_argument(&resp, exact + used, 1).size == seconds[i].size);
        used += resp.position;
    }
    FUZZ_REQUIRE(used <= end);
    nr_resp_free(&resp);
    free(exact);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct outcome whole, pieces;

    if (size == 0)
        return 0;
    compare_glance(data + 1, size - 1);
    whole = feed(data + 1, size - 1, size);
    pieces = feed(data + 1, size - 1, data[0] % 16u + 1);
    FUZZ_REQUIRE(whole.commands == pieces.commands && whole.digest == pieces.digest);
    FUZZ_REQUIRE(whole.used == pieces.used && whole.end == pieces.end);
    FUZZ_REQUIRE(memcmp(whole.error, pieces.error, sizeof whole.error) == 0);
    return 0;
}
