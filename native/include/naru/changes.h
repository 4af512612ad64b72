/* naru/changes.h: inotify(7). As in os.h: >= 0 or -errno. */
#ifndef NARU_CHANGES_H
#define NARU_CHANGES_H

#include <stdint.h>

int nr_os_inotify_open(void); /* nonblocking, close-on-exec */
int nr_os_inotify_add(int fd, const char *path, uint32_t events);
int nr_os_inotify_remove(int fd, int watch);

#endif
