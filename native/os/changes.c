#include "naru/changes.h"

#include <errno.h>
#include <sys/inotify.h>

int nr_os_inotify_open(void)
{
    int fd = inotify_init1(IN_NONBLOCK | IN_CLOEXEC);

    return fd < 0 ? -errno : fd;
}

int nr_os_inotify_add(int fd, const char *path, uint32_t events)
{
    int watch = inotify_add_watch(fd, path, events);

    return watch < 0 ? -errno : watch;
}

int nr_os_inotify_remove(int fd, int watch)
{
    return inotify_rm_watch(fd, watch) < 0 ? -errno : 0;
}
