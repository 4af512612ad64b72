#include <time.h>

#include "naru/os.h"

static uint64_t read_clock(clockid_t clock)
{
    struct timespec now;

    clock_gettime(clock, &now); /* cannot fail for these clocks */
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

uint64_t nr_os_now_ns(void) { return read_clock(CLOCK_MONOTONIC); }

uint64_t nr_os_coarse_now_ns(void) { return read_clock(CLOCK_MONOTONIC_COARSE); }

uint64_t nr_os_boot_ns(void) { return read_clock(CLOCK_BOOTTIME); }

uint64_t nr_os_real_ns(void) { return read_clock(CLOCK_REALTIME); }
