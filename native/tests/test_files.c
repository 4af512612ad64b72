/* naru/files.h: scanning against the plainest loops there are, and transfers whose method the kernel
 * refuses half-way. */
#include <errno.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/socket.h>

#include "check.h"
#include "naru/files.h"

#define SIZE 70000

static uint8_t data[SIZE];

static uint32_t seed = 1;

static uint32_t next_random(void) { return seed = seed * 1664525u + 1013904223u; }

static void fill(unsigned values)
{
    for (size_t i = 0; i < SIZE; i++)
        data[i] = (uint8_t)((next_random() >> 16) % values);
}

/* ---- scanning ---- */

static ssize_t plain_find(size_t size, size_t from, const uint8_t *pattern, size_t length)
{
    for (size_t at = from; at + length <= size; at++)
        if (memcmp(data + at, pattern, length) == 0)
            return (ssize_t)at;
    return -1;
}

static void counts_at_every_size_and_offset(void)
{
    fill(3);
    for (size_t begin = 0; begin < 70; begin += 7)
        for (size_t size = 0; begin + size < SIZE; size = size < 300 ? size + 1 : size * 3) {
            uint64_t expected = 0;
            for (size_t i = 0; i < size; i++)
                expected += data[begin + i] == 1;
            if (!CHECK_EQUAL(nr_scan_count(data + begin, size, 1), expected))
                return;
        }
    memset(data, 1, SIZE); /* every lane of 8 bits at its most */
    CHECK_EQUAL(nr_scan_count(data, SIZE, 1), SIZE);
}

static void finds_as_a_plain_loop_does(void)
{
    static const uint8_t patterns[][3] = {{0}, {1, 0}, {1, 1}, {0, 1, 0}, {1, 1, 1}};
    static const size_t lengths[] = {1, 2, 2, 3, 3};

    fill(2);
    for (int p = 0; p < 5; p++)
        for (size_t size = 0; size < 200; size++) {
            const uint8_t *pattern = patterns[p];
            size_t length = lengths[p], from = 0, count;
            uint64_t offsets[256];
            ssize_t at = 0, last = -1, from_left = -1;

            count = nr_scan_all(data, size, &from, pattern, length, offsets, 256);
            for (size_t i = 0; i <= count; i++) {
                at = plain_find(size, (size_t)at, pattern, length);
                CHECK_EQUAL(i < count ? (ssize_t)offsets[i] : -1, at);
                if (at >= 0)
                    from_left = at += (ssize_t)length;
            }
            for (at = 0; (at = plain_find(size, (size_t)at, pattern, length)) >= 0; at++)
                last = at + (ssize_t)length;
            CHECK_EQUAL(nr_scan_behind_last(data, size, pattern, length), last);
            CHECK_EQUAL(nr_scan_behind_last_from_left(data, size, pattern, length), from_left);
        }
}

static int file_of_data(void)
{
    int fd = memfd_create("data", MFD_CLOEXEC);

    REQUIRE(fd >= 0 && write(fd, data, SIZE) == SIZE && lseek(fd, 0, SEEK_SET) == 0);
    return fd;
}

static void counts_a_file_and_says_where_it_ended(void)
{
    uint8_t block[1000];
    uint64_t done = 10, count = 0;
    int fd, result, rounds = 0;

    fill(5);
    fd = file_of_data();
    while ((result = nr_count_file(fd, &done, SIZE, 5000, 2, block, sizeof block, &count)) == 1)
        rounds++;
    CHECK_EQUAL(result, 0);
    CHECK_EQUAL(done, SIZE);
    CHECK_EQUAL(rounds, (SIZE - 10 - 1) / 5000);
    CHECK_EQUAL(count, nr_scan_count(data + 10, SIZE - 10, 2));
    done = count = 0;
    CHECK_EQUAL(nr_count_file(fd, &done, SIZE + 1, SIZE * 2, 2, block, sizeof block, &count), -ENODATA);
    CHECK_EQUAL(done, SIZE);
    close(fd);
}

/* ---- transfers ---- */

static void expect_data(int fd, size_t size)
{
    static uint8_t found[SIZE];

    CHECK_EQUAL(pread(fd, found, sizeof found, 0), size);
    CHECK(memcmp(found, data, size) == 0);
}

static void run_to_the_end(struct nr_transfer *t)
{
    ssize_t moved;

    while ((moved = nr_transfer_step(t, 4096)) > 0)
        continue;
    CHECK_EQUAL(moved, 0);
}

static void moves_between_files_by_each_method(void)
{
    for (int method = NR_BY_COPY_RANGE; method < NR_METHODS; method++) {
        struct nr_transfer t;
        int source, target = memfd_create("target", MFD_CLOEXEC);

        fill(256);
        source = file_of_data();
        nr_transfer_init(&t, source, target, 1u << method);
        t.positioned = true;
        t.left = SIZE;
        run_to_the_end(&t);
        CHECK_EQUAL(t.moved, SIZE);
        CHECK_EQUAL(t.offset, SIZE);
        CHECK_EQUAL(lseek(source, 0, SEEK_CUR), 0);
        expect_data(target, SIZE);
        /* splice(2) wants a pipe: refused, and read and written instead. */
        CHECK_EQUAL(t.method, method == NR_BY_SPLICE ? NR_BY_READ_WRITE : method);
        nr_transfer_release(&t);
        nr_transfer_release(&t);
        close(source);
        close(target);
    }
}

static void what_is_in_the_pipe_survives_a_refusal(void)
{
    char name[] = "/tmp/naru-test-XXXXXX";
    struct nr_transfer t;
    int ends[2], target = mkostemp(name, O_APPEND | O_CLOEXEC);

    REQUIRE(target >= 0 && unlink(name) == 0);
    REQUIRE(socketpair(AF_UNIX, SOCK_STREAM, 0, ends) == 0);
    fill(256);
    CHECK_EQUAL(write(ends[1], data, 5000), 5000);
    close(ends[1]);
    /* The kernel takes the bytes into the pipe, and then refuses a target opened for appending. */
    nr_transfer_init(&t, ends[0], target, 1u << NR_BY_PIPE);
    run_to_the_end(&t);
    CHECK_EQUAL(t.method, NR_BY_READ_WRITE);
    CHECK_EQUAL(t.moved, 5000);
    CHECK_EQUAL(t.held, 0);
    expect_data(target, 5000);
    nr_transfer_release(&t);
    close(ends[0]);
    close(target);
}

static void says_which_side_to_wait_for(void)
{
    struct nr_transfer t;
    int in[2], out[2];

    REQUIRE(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, in) == 0);
    REQUIRE(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, out) == 0);
    for (int method = NR_BY_PIPE; method <= NR_BY_READ_WRITE; method++) {
        nr_transfer_init(&t, in[0], out[0], 1u << method);
        t.target_is_socket = true;
        CHECK_EQUAL(nr_transfer_step(&t, 4096), -EAGAIN);
        CHECK_EQUAL(t.waits_for, NR_SOURCE);
        for (;;) { /* nobody reads at the other end */
            ssize_t moved;
            if (write(in[1], data, 4096) < 0)
                CHECK_EQUAL(errno, EAGAIN);
            moved = nr_transfer_step(&t, 4096);
            if (moved < 0) {
                CHECK_EQUAL(moved, -EAGAIN);
                CHECK_EQUAL(t.waits_for, NR_TARGET);
                CHECK(t.held > 0);
                break;
            }
        }
        while (read(out[1], data, SIZE) > 0)
            continue;
        CHECK(nr_transfer_step(&t, 4096) > 0);
        do { /* until all of it is through */
            while (read(out[1], data, SIZE) > 0)
                continue;
        } while (nr_transfer_step(&t, SIZE) != -EAGAIN || t.waits_for != NR_SOURCE);
        nr_transfer_release(&t);
    }
    for (int i = 0; i < 2; i++) {
        close(in[i]);
        close(out[i]);
    }
}

static void a_closed_reader_is_an_error_and_no_signal(void)
{
    struct nr_transfer t;
    int ends[2], source;

    fill(256);
    source = file_of_data();
    for (int method = NR_BY_SENDFILE; method <= NR_BY_READ_WRITE; method++) {
        REQUIRE(pipe(ends) == 0); /* SIGPIPE is at its default: it would end this program */
        close(ends[0]);
        nr_transfer_init(&t, source, ends[1], 1u << method);
        t.positioned = true;
        CHECK_EQUAL(nr_transfer_step(&t, 4096), -EPIPE);
        nr_transfer_release(&t);
        close(ends[1]);
    }
    close(source);
}

int main(void)
{
    RUN(counts_at_every_size_and_offset);
    RUN(finds_as_a_plain_loop_does);
    RUN(counts_a_file_and_says_where_it_ended);
    RUN(moves_between_files_by_each_method);
    RUN(what_is_in_the_pipe_survives_a_refusal);
    RUN(says_which_side_to_wait_for);
    RUN(a_closed_reader_is_an_error_and_no_signal);
    return check_finish();
}
