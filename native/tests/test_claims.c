/* The page that says which process holds which end of a pair. */
#include <errno.h>
#include <fcntl.h>
#include <linux/memfd.h>
#include <sys/wait.h>

#include "check.h"
#include "naru/claims.h"
#include "naru/os.h"

#define PAGE 4096

static struct nr_claims *make(void)
{
    struct nr_claims *claims = NULL;

    REQUIRE(nr_claims_create(&claims) == 0);
    return claims;
}

static void first_token_keeps_the_end(void)
{
    struct nr_claims *claims = make();

    CHECK_EQUAL(nr_claims_owner(claims, 0), 0);
    CHECK_EQUAL(nr_claims_age_ns(claims, 0), 0);
    CHECK(nr_claims_take(claims, 0, 7) && nr_claims_take(claims, 0, 7));
    CHECK(!nr_claims_take(claims, 0, 8));
    CHECK(nr_claims_take(claims, 1, 8));
    CHECK(nr_claims_owner(claims, 0) == 7 && nr_claims_owner(claims, 1) == 8);
    CHECK(nr_claims_age_ns(claims, 0) < 60000000000u && claims->page->since_ns[0] > 0);
    nr_claims_release(claims);
}

static void other_mapping_sees_the_same(void)
{
    struct nr_claims *claims = make(), *other = NULL;
    int fd = fcntl(claims->fd, F_DUPFD_CLOEXEC, 0);

    REQUIRE(fd >= 0 && nr_claims_map(fd, &other) == 0);
    CHECK(nr_claims_take(claims, 1, 5) && !nr_claims_take(other, 1, 6));
    nr_claims_release(claims);
    CHECK_EQUAL(nr_claims_owner(other, 1), 5);
    nr_claims_release(other);
    CHECK(fcntl(fd, F_GETFD) < 0 && errno == EBADF); /* closed with it */
}

static void last_reference_unmaps(void)
{
    struct nr_claims *claims = make();
    int fd = claims->fd;

    nr_claims_retain(claims);
    nr_claims_release(claims);
    CHECK(fcntl(fd, F_GETFD) >= 0);
    nr_claims_release(claims);
    CHECK(fcntl(fd, F_GETFD) < 0);
}

/* The page is sealed: nobody truncates it under the other. */
static void page_cannot_be_pulled_away(void)
{
    struct nr_claims *claims = make();

    CHECK(ftruncate(claims->fd, 0) < 0 && errno == EPERM);
    CHECK(ftruncate(claims->fd, 2 * PAGE) < 0 && errno == EPERM);
    nr_claims_release(claims);
}

static void refuse(int fd, const char *what)
{
    struct nr_claims *claims = NULL;

    if (!CHECK_EQUAL(nr_claims_map(fd, &claims), -EPROTO))
        fprintf(stderr, "  %s\n", what);
    CHECK(fcntl(fd, F_GETFD) >= 0); /* still the caller's */
    nr_os_close(fd);
}

static int forge(off_t size, const char *magic, int seals)
{
    int fd = nr_os_memfd("forged");

    REQUIRE(fd >= 0 && ftruncate(fd, size) == 0 && nr_os_add_seals(fd, seals) == 0);
    REQUIRE(size < PAGE || pwrite(fd, magic, 4, 0) == 4);
    return fd;
}

static void strangers_pages_are_refused(void)
{
    refuse(forge(PAGE, "NRCL", 0), "unsealed");
    refuse(forge(PAGE, "NRCL", F_SEAL_GROW), "may shrink");
    refuse(forge(PAGE, "NRCX", F_SEAL_SHRINK), "magic");
    refuse(forge(PAGE - 1, "NRCL", F_SEAL_SHRINK), "short");
    refuse(forge(0, "", F_SEAL_SHRINK), "empty");
    refuse(forge(2 * PAGE, "NRCL", F_SEAL_SHRINK), "long");
    refuse(open("/dev/zero", O_RDWR | O_CLOEXEC), "device");
    refuse(nr_os_eventfd(), "eventfd");
}

static void one_of_two_processes_wins(void)
{
    for (int round = 0; round < 200; round++) {
        struct nr_claims *claims = make();
        pid_t pids[2];
        int winners = 0, status;

        for (uint32_t i = 0; i < 2; i++) {
            pids[i] = fork();
            REQUIRE(pids[i] >= 0);
            if (pids[i] == 0)
                _exit(nr_claims_take(claims, 0, 100 + i));
        }
        for (int i = 0; i < 2; i++) {
            REQUIRE(waitpid(pids[i], &status, 0) == pids[i] && WIFEXITED(status));
            if (WEXITSTATUS(status)) {
                winners++;
                CHECK_EQUAL(nr_claims_owner(claims, 0), 100 + i);
            }
        }
        CHECK_EQUAL(winners, 1);
        nr_claims_release(claims);
    }
}

int main(void)
{
    RUN(first_token_keeps_the_end);
    RUN(other_mapping_sees_the_same);
    RUN(last_reference_unmaps);
    RUN(page_cannot_be_pulled_away);
    RUN(strangers_pages_are_refused);
    RUN(one_of_two_processes_wins);
    return check_finish();
}
