#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
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

/* A whole small file of /proc: its size, or -errno. */
static ssize_t read_small(const char *path, char *into, size_t room)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    ssize_t size;

    if (fd < 0)
        return -errno;
    size = nr_os_read(fd, into, room - 1);
    nr_os_close(fd);
    if (size >= 0)
        into[size] = 0;
    return size;
}

int nr_os_process_started(uint32_t pid, uint64_t *started)
{
    char path[32], text[512];
    const char *at;
    ssize_t size;

    snprintf(path, sizeof path, "/proc/%u/stat", pid);
    size = read_small(path, text, sizeof text);
    if (size < 0)
        return (int)size == -ENOENT ? -ESRCH : (int)size;
    at = strrchr(text, ')'); /* the name before it may contain anything */
    if (!at || at[1] != ' ')
        return -EBADMSG;
    if (at[2] == 'Z' || at[2] == 'X')
        return -ESRCH;
    for (int field = 2; field < 22 && at; field++)
        at = strchr(at + 1, ' ');
    if (!at)
        return -EBADMSG;
    *started = strtoull(at + 1, NULL, 10);
    return 0;
}

int nr_os_boot_id(uint8_t id[16])
{
    char text[64];
    ssize_t size = read_small("/proc/sys/kernel/random/boot_id", text, sizeof text);

    if (size < 0)
        return (int)size;
    memset(id, 0, 16);
    for (int i = 0, digits = 0; text[i] && digits < 32; i++) {
        int digit = text[i] >= 'a' ? text[i] - 'a' + 10 : text[i] - '0';

        if (text[i] == '-')
            continue;
        id[digits / 2] = (uint8_t)(id[digits / 2] << 4 | (digit & 15));
        digits++;
    }
    return 0;
}

int nr_os_pid_namespace(uint64_t *number)
{
    struct stat status;

    if (stat("/proc/self/ns/pid", &status) < 0)
        return -errno;
    *number = status.st_ino;
    return 0;
}
