/* Fuzz target: a segment from a stranger. The input is patches to a good one, its seals, its size.
 * Whatever maps is then used in both roles; whatever does not says why. */
#include <fcntl.h>
#include <linux/memfd.h>

#include "fuzz_main.h"
#include "hostile.h"

#define PAGE 4096u

static const struct nr_segment_header good = {
    .magic = "NARUSHM1",
    .version = NR_SEGMENT_VERSION,
    .byte_order = 0x01020304,
    .total_bytes = 6 * PAGE,
    .capacity = {PAGE, 2 * PAGE},
};

static void use(int fd)
{
    struct nr_segment *segment = NULL;
    int result = nr_segment_map(fd, &segment), end;

    FUZZ_REQUIRE(result == 0 || result == -EPROTO || result == -EPROTONOSUPPORT ||
                 result == -EBADMSG || result == -ENOMEM);
    FUZZ_REQUIRE((result == 0) == (segment != NULL));
    if (!segment)
        return;
    for (int i = 0; i < 2; i++) {
        struct nr_ring ring;

        nr_segment_open_ring(segment, i, false, &ring);
        FUZZ_REQUIRE((ring.control == NULL) == (segment->capacity[i] == 0));
        if (!ring.control || ring.capacity > 16 * PAGE)
            continue;
        drive_consumer(&ring, &end);
        nr_segment_open_ring(segment, i, true, &ring);
        drive_producer(&ring, 200, &end);
    }
    nr_segment_release(segment);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct fuzz_input input = {data, size};
    int seals = (int)fuzz_take(&input, 1) & 0x1f, fd = nr_os_memfd("fuzzed");
    uint8_t image[4 * PAGE] = {0};
    uint64_t file_bytes = 6 * PAGE;
    size_t written;

    FUZZ_REQUIRE(fd >= 0);
    memcpy(image, &good, sizeof good);
    if (fuzz_take(&input, 1) & 1)
        file_bytes = fuzz_take(&input, 8) & ((1ull << 42) - 1);
    while (input.size > 0) {
        uint64_t offset = fuzz_take(&input, 2), bytes = 1 + fuzz_take(&input, 1) % 8;
        uint64_t value = fuzz_take(&input, bytes);

        /* half of them into the fields that mean something */
        offset = offset & 0x8000 ? offset % 64 : offset % (sizeof image - 8);
        memcpy(image + offset, &value, bytes);
    }
    written = file_bytes < sizeof image ? file_bytes : sizeof image;
    FUZZ_REQUIRE(ftruncate(fd, (off_t)file_bytes) == 0);
    FUZZ_REQUIRE(pwrite(fd, image, written, 0) == (ssize_t)written);
    FUZZ_REQUIRE(nr_os_add_seals(fd, seals) == 0);
    use(fd);
    nr_os_close(fd);
    return 0;
}
