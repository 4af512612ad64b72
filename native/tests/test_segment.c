/* The segment: its layout, its seals, its header in the hands of a liar (FAULTS 37, 38, 39, 53).
 *
 *     test_segment [seconds of flipping]
 */
#include <fcntl.h>
#include <linux/memfd.h>
#include <pthread.h>
#include <sys/resource.h>
#include <sys/stat.h>

#include "hostile.h"
#include "ledger.h"

#define PAGE 4096u
#define SEALS (F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL)

static double flip_s = 1;

static int make(uint64_t capacity0, uint64_t capacity1)
{
    const uint64_t capacity[2] = {capacity0, capacity1};
    int fd = nr_segment_create(capacity, 0);

    REQUIRE(fd >= 0);
    return fd;
}

/* A memfd with this header and size; sparse, as a liar would. */
static int forge(const struct nr_segment_header *header, uint64_t file_bytes, int seals)
{
    int fd = nr_os_memfd("forged");
    size_t size = file_bytes < sizeof *header ? file_bytes : sizeof *header;

    REQUIRE(fd >= 0 && ftruncate(fd, (off_t)file_bytes) == 0);
    REQUIRE(pwrite(fd, header, size, 0) == (ssize_t)size);
    REQUIRE(nr_os_add_seals(fd, seals) == 0);
    return fd;
}

static struct nr_segment_header good_header(uint64_t capacity0, uint64_t capacity1)
{
    struct nr_segment_header header;
    int fd = make(PAGE, PAGE);

    REQUIRE(pread(fd, &header, sizeof header, 0) == sizeof header);
    nr_os_close(fd);
    header.capacity[0] = capacity0;
    header.capacity[1] = capacity1;
    header.total_bytes = 3 * PAGE + capacity0 + capacity1;
    return header;
}

/* Maps, uses both rings in both roles when it maps, and unmaps. */
static int try_segment(int fd)
{
    struct nr_segment *segment = NULL;
    int result = nr_segment_map(fd, &segment), end;

    if (result < 0) {
        CHECK(segment == NULL);
        return result;
    }
    for (int i = 0; i < 2; i++) {
        struct nr_ring ring;

        nr_segment_open_ring(segment, i, false, &ring);
        if (!ring.control || ring.capacity > 1 << 20)
            continue;
        drive_consumer(&ring, &end);
        nr_segment_open_ring(segment, i, false, &ring);
        drive_producer(&ring, 100, &end);
    }
    nr_segment_release(segment);
    return result;
}

static int try_forged(const struct nr_segment_header *header, uint64_t file_bytes, int seals)
{
    int fd = forge(header, file_bytes, seals);
    int result = try_segment(fd);

    nr_os_close(fd);
    return result;
}

/* Mappings of memfds; sanitizers and threads make others of their own. */
static int count_maps(void)
{
    FILE *maps = fopen("/proc/self/maps", "r");
    char line[512];
    int found = 0;

    REQUIRE(maps);
    while (fgets(line, sizeof line, maps))
        found += strstr(line, "memfd:") != NULL;
    fclose(maps);
    return found;
}

/* ---- the good one ---- */

static void layout_is_as_documented(void)
{
    const uint64_t capacity[2] = {PAGE + 1, 5};
    int fd = nr_segment_create(capacity, 4096);
    struct nr_segment_header header;
    uint64_t words[2];

    REQUIRE(fd >= 0 && pread(fd, &header, sizeof header, 0) == sizeof header);
    CHECK(memcmp(header.magic, "NARUSHM1", 8) == 0);
    CHECK_EQUAL(header.version, 1);
    CHECK_EQUAL(header.byte_order, 0x01020304);
    CHECK_EQUAL(header.capacity[0], 2 * PAGE);
    CHECK_EQUAL(header.capacity[1], PAGE);
    CHECK_EQUAL(header.total_bytes, 6 * PAGE);
    CHECK_EQUAL(nr_os_file_size(fd), 6 * PAGE);
    CHECK_EQUAL(header.first_position, 4096);
    for (int i = 0; i < 2; i++) {
        REQUIRE(pread(fd, &words[0], 8, (1 + i) * PAGE) == 8);
        REQUIRE(pread(fd, &words[1], 8, (1 + i) * PAGE + 128) == 8);
        CHECK(words[0] == 4096 && words[1] == 4096);
    }
    CHECK(fcntl(fd, F_GETFD) & FD_CLOEXEC);
    CHECK_EQUAL(try_segment(fd), 0);
    nr_os_close(fd);
}

/* All of it is there from the beginning: a full machine is an error now, not a SIGBUS later. */
static void memory_is_allocated_at_once(void)
{
    int fd = make(64 * PAGE, PAGE);
    struct stat status;

    REQUIRE(fstat(fd, &status) == 0);
    CHECK(status.st_blocks * 512 >= 68 * (off_t)PAGE);
    nr_os_close(fd);
}

static void bad_wishes_are_refused(void)
{
    const uint64_t huge[2] = {PAGE, NR_SEGMENT_MAX_CAPACITY + 1};
    const uint64_t endless[2] = {-1ull, PAGE};
    const uint64_t good[2] = {PAGE, PAGE};
    struct rlimit before, none;

    CHECK_EQUAL(nr_segment_create(huge, 0), -EINVAL);
    CHECK_EQUAL(nr_segment_create(endless, 0), -EINVAL);
    CHECK_EQUAL(nr_segment_create(good, 4), -EINVAL);
    REQUIRE(getrlimit(RLIMIT_NOFILE, &before) == 0);
    none = (struct rlimit){3, before.rlim_max};
    REQUIRE(setrlimit(RLIMIT_NOFILE, &none) == 0);
    CHECK_EQUAL(nr_segment_create(good, 0), -EMFILE);
    setrlimit(RLIMIT_NOFILE, &before);
}

/* FAULTS 39. */
static void peer_cannot_pull_the_pages_away(void)
{
    int fd = make(PAGE, PAGE);
    struct nr_segment *segment;

    REQUIRE(nr_segment_map(fd, &segment) == 0);
    CHECK(ftruncate(fd, 0) < 0 && errno == EPERM);
    CHECK(ftruncate(fd, 4 * PAGE) < 0 && errno == EPERM);
    CHECK(ftruncate(fd, 100 * PAGE) < 0 && errno == EPERM);
    CHECK(fallocate(fd, 0, 5 * PAGE, PAGE) < 0 && errno == EPERM);
    CHECK(fcntl(fd, F_ADD_SEALS, F_SEAL_WRITE) < 0 && errno == EPERM);
    /* what is left to him: zeroes instead of data */
    CHECK(fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, 5 * PAGE) == 0);
    CHECK_EQUAL(segment->data[1][PAGE - 1], 0);
    nr_segment_release(segment);
    CHECK_EQUAL(try_segment(fd), -EPROTO);
    nr_os_close(fd);
}

/* ---- header classes ---- */

static void every_byte_of_the_header_page(void)
{
    static const uint8_t values[] = {0x00, 0x01, 0x07, 0x08, 0x10, 0x7f, 0x80, 0xff};
    int fd = make(PAGE, 2 * PAGE), maps = count_maps();

    for (off_t offset = 0; offset < PAGE; offset++) {
        uint8_t before;

        REQUIRE(pread(fd, &before, 1, offset) == 1);
        for (size_t i = 0; i < sizeof values; i++) {
            uint64_t at;
            int result;

            REQUIRE(pwrite(fd, &values[i], 1, offset) == 1);
            allow_one_cpu_second();
            result = try_segment(fd);
            allow_everything();
            /* the rings were used: back to the beginning for the next value */
            for (int ring = 0; ring < 2; ring++)
                for (at = 0; at <= 512; at += 128)
                    REQUIRE(pwrite(fd, &(uint64_t){0}, 8, (off_t)((1 + ring) * PAGE + at)) == 8);
            if (values[i] == before || offset >= 48)
                CHECK_EQUAL(result, 0); /* reserved bytes are for a later version */
            else if (offset < 8)
                CHECK_EQUAL(result, -EPROTO);
            else if (offset < 16)
                CHECK_EQUAL(result, -EPROTONOSUPPORT);
            else if (offset < 40 || (offset == 40 && values[i] & 7))
                CHECK_EQUAL(result, -EBADMSG);
            else
                CHECK_EQUAL(result, 0);
        }
        REQUIRE(pwrite(fd, &before, 1, offset) == 1);
    }
    nr_os_close(fd);
    CHECK_EQUAL(count_maps(), maps);
}

static void versions_and_byte_orders(void)
{
    static const uint32_t versions[] = {0, 2, 0x01000000, 0xffffffff};
    static const uint32_t orders[] = {0, 0x04030201, 0x01020305, 0xffffffff};
    struct nr_segment_header header;

    for (size_t i = 0; i < 4; i++) {
        header = good_header(PAGE, PAGE);
        header.version = versions[i];
        CHECK_EQUAL(try_forged(&header, 5 * PAGE, SEALS), -EPROTONOSUPPORT);
        header = good_header(PAGE, PAGE);
        header.byte_order = orders[i];
        CHECK_EQUAL(try_forged(&header, 5 * PAGE, SEALS), -EPROTONOSUPPORT);
    }
    header = good_header(PAGE, PAGE);
    memcpy(header.magic, "NARUSHM2", 8);
    CHECK_EQUAL(try_forged(&header, 5 * PAGE, SEALS), -EPROTO);
}

static void sizes_that_do_not_fit(void)
{
    static const uint64_t capacities[] = {1,
                                          PAGE - 1,
                                          PAGE + 1,
                                          1ull << 31,
                                          (1ull << 32) - 1,
                                          NR_SEGMENT_MAX_CAPACITY,
                                          NR_SEGMENT_MAX_CAPACITY + PAGE,
                                          1ull << 63,
                                          -4096ull,
                                          -1ull};
    static const uint64_t files[] = {3 * PAGE, 4 * PAGE, 5 * PAGE, 5 * PAGE - 1, 5 * PAGE + 1};

    for (size_t i = 0; i < sizeof capacities / sizeof *capacities; i++)
        for (int ring = 0; ring < 2; ring++)
            for (size_t f = 0; f < sizeof files / sizeof *files; f++) {
                struct nr_segment_header header = good_header(ring ? PAGE : capacities[i],
                                                              ring ? capacities[i] : PAGE);

                CHECK_EQUAL(try_forged(&header, files[f], SEALS), -EBADMSG);
                header.total_bytes = files[f];
                CHECK_EQUAL(try_forged(&header, files[f], SEALS), -EBADMSG);
            }
    for (size_t f = 0; f < sizeof files / sizeof *files; f++) {
        struct nr_segment_header header = good_header(PAGE, PAGE);

        CHECK_EQUAL(try_forged(&header, files[f], SEALS), files[f] == 5 * PAGE ? 0 : -EBADMSG);
        header = good_header(-(uint64_t)PAGE, 2 * PAGE); /* their sum is right modulo 2^64 */
        CHECK_EQUAL(try_forged(&header, files[f], SEALS), -EBADMSG);
        header = good_header(PAGE, PAGE);
        header.total_bytes = 0;
        CHECK_EQUAL(try_forged(&header, files[f], SEALS), -EBADMSG);
    }
#ifndef __SANITIZE_THREAD__ /* which takes most addresses for itself */
    /* sparse and enormous, but consistent: only addresses are spent on it */
    struct nr_segment_header huge = good_header(NR_SEGMENT_MAX_CAPACITY, PAGE);

    CHECK_EQUAL(try_forged(&huge, huge.total_bytes, SEALS), 0);
#endif
}

static void positions_that_do_not_fit(void)
{
    struct nr_segment_header header = good_header(PAGE, 3 * PAGE);

    for (uint64_t odd = 1; odd < 8; odd++) {
        header.first_position = odd;
        CHECK_EQUAL(try_forged(&header, 7 * PAGE, SEALS), -EBADMSG);
    }
    header.first_position = -8ull; /* not where the tail is: the rings will say so */
    CHECK_EQUAL(try_forged(&header, 7 * PAGE, SEALS), 0);
}

static void truncated_files(void)
{
    struct nr_segment_header header = good_header(PAGE, PAGE);
    static const uint64_t sizes[] = {0, 1, 8, 511, 512, PAGE - 1, PAGE, 2 * PAGE, 3 * PAGE - 1};

    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++)
        CHECK_EQUAL(try_forged(&header, sizes[i], SEALS), -EPROTO);
}

static void what_is_not_sealed(void)
{
    struct nr_segment_header header = good_header(PAGE, PAGE);
    static const int seals[] = {0, F_SEAL_SHRINK, F_SEAL_GROW, F_SEAL_SEAL,
                                F_SEAL_SEAL | F_SEAL_GROW};
    FILE *file = tmpfile();
    int pipes[2], fd;

    for (size_t i = 0; i < sizeof seals / sizeof *seals; i++)
        CHECK_EQUAL(try_forged(&header, 5 * PAGE, seals[i]), -EPROTO);
    CHECK_EQUAL(try_forged(&header, 5 * PAGE, F_SEAL_SHRINK | F_SEAL_GROW), 0);
    /* sealed against writing: it can be no ring of two directions */
    CHECK_EQUAL(try_forged(&header, 5 * PAGE, SEALS | F_SEAL_WRITE), -EPROTO);
    CHECK_EQUAL(try_forged(&header, 5 * PAGE, SEALS | F_SEAL_FUTURE_WRITE), -EPROTO);

    REQUIRE(file && ftruncate(fileno(file), 5 * PAGE) == 0);
    REQUIRE(pwrite(fileno(file), &header, sizeof header, 0) == sizeof header);
    CHECK_EQUAL(try_segment(fileno(file)), -EPROTO);
    fclose(file);
    REQUIRE(pipe2(pipes, O_CLOEXEC) == 0);
    CHECK_EQUAL(try_segment(pipes[0]), -EPROTO);
    nr_os_close(pipes[0]);
    nr_os_close(pipes[1]);
    fd = open("/dev/zero", O_RDWR | O_CLOEXEC);
    CHECK_EQUAL(try_segment(fd), -EPROTO);
    nr_os_close(fd);
    CHECK_EQUAL(try_segment(-1), -EPROTO);
}

static void descriptor_without_the_right_to_write(void)
{
    int fd = make(PAGE, PAGE), read_only;
    char path[40];

    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    read_only = open(path, O_RDONLY | O_CLOEXEC);
    REQUIRE(read_only >= 0);
    CHECK_EQUAL(try_segment(read_only), -EPROTO);
    nr_os_close(read_only);
    nr_os_close(fd);
}

static void references_keep_the_mapping(void)
{
    int maps = count_maps();
    struct nr_segment *segment = make_segment(PAGE, PAGE, 0);

    nr_segment_retain(segment);
    nr_segment_release(segment);
    CHECK_EQUAL(segment->data[0][2 * PAGE - 1], 0);
    nr_segment_release(segment);
    CHECK_EQUAL(count_maps(), maps);
}

/* ---- FAULTS 38: rewritten between the check and the use ---- */

#ifndef __SANITIZE_THREAD__ /* these races are the test */

static _Atomic bool flipping;

static void *flip_header(void *mapped)
{
    volatile uint64_t *words = mapped;
    const uint64_t good[6] = {words[0], words[1], words[2], words[3], words[4], words[5]};
    uint64_t random = 78;

    while (atomic_load_explicit(&flipping, memory_order_relaxed)) {
        uint64_t dice = ledger_random(&random);
        unsigned i = 2 + dice % 4;

        /* 8 KiB and 16 KiB change places: the sum stays right */
        words[i] = dice & 64 ? (uint64_t)(dice >> 8 & 7) * PAGE : dice;
        words[i] = good[i];
        words[3] = good[4];
        words[4] = good[3];
        words[3] = good[3];
        words[4] = good[4];
    }
    return NULL;
}

static void header_changes_between_check_and_use(void)
{
    int fd = make(2 * PAGE, 4 * PAGE), maps = count_maps();
    uint64_t until = nr_os_now_ns() + (uint64_t)(flip_s * 1e9);
    uint64_t counts[2] = {0, 0};
    pthread_t flipper;
    void *mapped;

    check_watch((unsigned)flip_s + 60);
    REQUIRE(nr_os_map(NULL, PAGE, fd, 0, &mapped) == 0);
    flipping = true;
    REQUIRE(pthread_create(&flipper, NULL, flip_header, mapped) == 0);
    while (nr_os_now_ns() < until) {
        struct nr_segment *segment = NULL;
        int result = nr_segment_map(fd, &segment);

        CHECK(result == 0 || result == -EBADMSG);
        counts[result == 0]++;
        if (result < 0)
            continue;
        for (int i = 0; i < 2; i++) {
            CHECK(segment->capacity[i] == 2 * PAGE || segment->capacity[i] == 4 * PAGE ||
                  segment->capacity[0] + segment->capacity[1] == 6 * PAGE);
            for (uint64_t at = 0; at < 2 * segment->capacity[i]; at += PAGE)
                (void)*(volatile uint8_t *)(segment->data[i] + at);
        }
        nr_segment_release(segment);
    }
    atomic_store(&flipping, false);
    pthread_join(flipper, NULL);
    printf("%llu mapped, %llu refused\n", (unsigned long long)counts[1],
           (unsigned long long)counts[0]);
    CHECK(counts[0] > 0 && counts[1] > 0);
    nr_os_unmap(mapped, PAGE);
    nr_os_close(fd);
    CHECK_EQUAL(count_maps(), maps);
}

#endif

int main(int argc, char **argv)
{
    if (argc > 1)
        flip_s = strtod(argv[1], NULL);
    REQUIRE(nr_os_barrier_register() == 0);
    RUN(layout_is_as_documented);
    RUN(memory_is_allocated_at_once);
    RUN(bad_wishes_are_refused);
    RUN(peer_cannot_pull_the_pages_away);
    RUN(every_byte_of_the_header_page);
    RUN(versions_and_byte_orders);
    RUN(sizes_that_do_not_fit);
    RUN(positions_that_do_not_fit);
    RUN(truncated_files);
    RUN(what_is_not_sealed);
    RUN(descriptor_without_the_right_to_write);
    RUN(references_keep_the_mapping);
#ifndef __SANITIZE_THREAD__
    RUN(header_changes_between_check_and_use);
#endif
    return check_finish();
}
