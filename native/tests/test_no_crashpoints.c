/* The core that is shipped has no crash points: linked without -DNR_TEST, there is no plan. */
#include "check.h"
#include "naru/segment.h"

#ifdef NR_TEST
#error "this one tests the core as it is shipped"
#endif

extern char nr_crashpoint_plan __attribute__((weak));

static void shipped_core_has_no_plan(void)
{
    const uint64_t capacity[2] = {4096, 4096};
    struct nr_segment *segment = NULL;
    struct nr_ring ring;
    int fd;

    setenv("NARU_CRASHPOINT", "0:abort", 1);
    fd = nr_segment_create(capacity, 0);
    REQUIRE(fd >= 0 && nr_segment_map(fd, &segment) == 0);
    nr_segment_open_ring(segment, 0, true, &ring);
    CHECK(!nr_ring_consumer_falls_asleep(&ring));
    CHECK(&nr_crashpoint_plan == NULL);
    nr_segment_release(segment);
    nr_os_close(fd);
}

int main(void)
{
    RUN(shipped_core_has_no_plan);
    return check_finish();
}
