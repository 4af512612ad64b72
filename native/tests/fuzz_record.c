/* Fuzz target: the parsers of record.h. What they let through keeps what they promise. */
#include "fuzz_main.h"
#include "naru/record.h"

static void parse_record(const uint8_t *bytes, uint32_t most)
{
    struct nr_record record, again;
    int result = nr_record_parse(bytes, most, &record);

    FUZZ_REQUIRE(result == 0 || result == -EPROTO || result == -EMSGSIZE);
    memcpy(&again, bytes, sizeof again);
    FUZZ_REQUIRE(record.length == again.length && record.flags == again.flags);
    if (result < 0)
        return;
    FUZZ_REQUIRE(record.length <= most && nr_record_fds(record) <= NR_MAX_FDS);
    FUZZ_REQUIRE((record.flags & 0x00ffffffu & ~(uint32_t)NR_RECORD_KNOWN) == 0);
}

static void parse_hello(const uint8_t *bytes)
{
    struct nr_hello hello;
    int result = nr_hello_parse(bytes, &hello);

    FUZZ_REQUIRE(result == 0 || result == -EPROTO || result == -EPROTONOSUPPORT);
    FUZZ_REQUIRE((result == -EPROTONOSUPPORT) ==
                 (memcmp(bytes, "NARU", 4) == 0 && hello.version != NR_PROTOCOL_VERSION));
    if (result == 0)
        FUZZ_REQUIRE(memcmp(bytes, "NARU\1", 6) == 0 && hello.kind >= 1 && hello.kind <= 7);
}

static void parse_chunk(const uint8_t *bytes, uint32_t most, uint32_t most_chunk)
{
    struct nr_chunk chunk;
    int result = nr_chunk_parse(bytes, most, most_chunk, &chunk);

    FUZZ_REQUIRE(result == 0 || result == -EPROTO || result == -EMSGSIZE);
    if (result == 0)
        FUZZ_REQUIRE(chunk.length <= most_chunk && chunk.length <= chunk.total &&
                     chunk.total <= most);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct fuzz_input input = {data, size};
    uint32_t most = (uint32_t)fuzz_take(&input, 4), most_chunk = (uint32_t)fuzz_take(&input, 2);
    uint8_t *bytes = malloc(NR_CHUNK_HEADER);

    FUZZ_REQUIRE(bytes);
    while (input.size > 0) {
        size_t taken = input.size < NR_CHUNK_HEADER ? input.size : NR_CHUNK_HEADER;

        memset(bytes, 0, NR_CHUNK_HEADER);
        memcpy(bytes, input.data, taken);
        /* each at the end of the block: one byte more is a byte too many */
        parse_record(bytes + NR_CHUNK_HEADER - NR_RECORD_HEADER, most);
        parse_record(bytes + NR_CHUNK_HEADER - NR_RECORD_HEADER, NR_MAX_MESSAGE);
        parse_hello(bytes + NR_CHUNK_HEADER - NR_HELLO_BYTES);
        parse_chunk(bytes, most, most_chunk);
        input.data += taken;
        input.size -= taken;
    }
    free(bytes);
    return 0;
}
