#include <errno.h>
#include <limits.h>
#include <linux/futex.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "naru/os.h"

int nr_os_futex_wait(_Atomic uint32_t *word, uint32_t expected, uint64_t timeout_ns)
{
    struct timespec limit = {(time_t)(timeout_ns / 1000000000u), (long)(timeout_ns % 1000000000u)};
    struct timespec *wanted = timeout_ns == NR_FOREVER ? NULL : &limit;

    return syscall(SYS_futex, word, FUTEX_WAIT, expected, wanted, NULL, 0) < 0 ? -errno : 0;
}

int nr_os_futex_wake(_Atomic uint32_t *word)
{
    long woken = syscall(SYS_futex, word, FUTEX_WAKE, INT_MAX, NULL, NULL, 0);

    return woken < 0 ? -errno : (int)woken;
}
