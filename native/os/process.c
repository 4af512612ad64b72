#include <errno.h>
#include <pthread.h>
#include <sys/prctl.h>
#include <unistd.h>

#include "naru/os.h"

int nr_os_cpu_count(void)
{
    long count = sysconf(_SC_NPROCESSORS_ONLN);

    return count < 1 ? 1 : (int)count;
}

int nr_os_die_with_parent(int signal_number)
{
    return prctl(PR_SET_PDEATHSIG, (unsigned long)signal_number, 0, 0, 0) < 0 ? -errno : 0;
}

int nr_os_catch_forks(void (*before)(void), void (*in_parent)(void), void (*in_child)(void))
{
    return -pthread_atfork(before, in_parent, in_child);
}
