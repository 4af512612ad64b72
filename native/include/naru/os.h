/* naru/os.h: one system call = one function.
 *
 * Every function returns >= 0 or -errno and retries EINTR itself, with one exception that its name
 * says: nr_os_sleep(), where a signal must reach the caller (Ctrl-C in Python). Nothing here knows
 * what a message is. */
#ifndef NARU_OS_H
#define NARU_OS_H

#include <poll.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/socket.h>
#include <sys/types.h>
#include <sys/uio.h>

#define NR_FOREVER UINT64_MAX

/* ---- clock.c ---- */
uint64_t nr_os_now_ns(void);          /* CLOCK_MONOTONIC */
uint64_t nr_os_coarse_now_ns(void);   /* the same clock, 4 ms steps, a quarter of the price */
uint64_t nr_os_boot_ns(void);         /* CLOCK_BOOTTIME: goes on while the machine sleeps */
uint64_t nr_os_real_ns(void);         /* CLOCK_REALTIME: may jump */

/* ---- files.c: descriptors ---- */
int nr_os_close(int fd);              /* never retried: on Linux the number is free even at EINTR */
int nr_os_set_nonblocking(int fd);
int nr_os_eventfd(void);              /* nonblocking, close-on-exec */
int nr_os_eventfd_ring(int fd);       /* adds 1; a full counter is a rung bell, hence success */
int nr_os_eventfd_drain(int fd);      /* 1 if it had been rung, 0 if not */
int nr_os_sleep(struct pollfd *fds, nfds_t count, uint64_t timeout_ns); /* poll; -EINTR is passed on */
int nr_os_poll_now(int fd, short events); /* revents, 0 when none */
ssize_t nr_os_read(int fd, void *buffer, size_t size);
/* write without SIGPIPE: pwritev2(RWF_NOSIGNAL) where the kernel has it (6.18), else the signal is
 * held back in this thread around the call. */
ssize_t nr_os_write_parts(int fd, const struct iovec *parts, int count);
int nr_os_lock_byte_is_held(int fd, uint64_t offset); /* OFD write lock of another open file: 1, 0 */
int nr_os_lock_byte(int fd, uint64_t offset);         /* waits for it */
int nr_os_unlock_byte(int fd, uint64_t offset);

/* ---- events.c: epoll, timers, pipes, listening, limits ---- */
struct epoll_event;
int nr_os_epoll(void);                /* close-on-exec */
int nr_os_epoll_change(int epoll, int operation, int fd, uint32_t events, uint64_t data);
/* Like nr_os_sleep(): -EINTR is passed on. */
int nr_os_epoll_wait(int epoll, struct epoll_event *events, int room, uint64_t timeout_ns);
int nr_os_timer(void);                /* a timerfd of CLOCK_MONOTONIC */
int nr_os_timer_set(int timer, uint64_t due_ns); /* absolute; NR_FOREVER: off. Unreads what expired */
int nr_os_map_private(size_t size, void **mapped); /* zeroed again in a forked child */
int nr_os_duplicate_onto(int fd, int number);      /* dup3, close-on-exec */
int nr_os_accept(int fd);             /* nonblocking, close-on-exec */
int nr_os_socket(int family);         /* a stream, nonblocking, close-on-exec */
int nr_os_connect(int fd, const struct sockaddr *, socklen_t size); /* -EINPROGRESS */
bool nr_os_is_own_peer(int fd);       /* a TCP socket that connected to itself */
int nr_os_shutdown(int fd, int how);
int nr_os_pipe(int *ends, size_t size_bytes); /* nonblocking, close-on-exec; of that size if allowed */
ssize_t nr_os_splice(int from, int to, size_t size); /* SIGPIPE: the caller's care */
int nr_os_spare(void);                /* a descriptor of /dev/null */
int nr_os_hold_sigpipe(bool *pending_before); /* in this thread: 1 if it was not held back before */
void nr_os_release_sigpipe(bool pending_before); /* and forgets the one that came meanwhile */
/* RLIMIT_NOFILE: soft raised to hard. What it is now. */
int64_t nr_os_raise_descriptor_limit(void);
/* ---- transfers.c: between descriptors, without user space ----
 * A blocking descriptor may hold these up for long: as with nr_os_sleep(), -EINTR is passed on. None of
 * them lets SIGPIPE through. `offset`: where to read, and moved on; NULL: at the file's own position. */
ssize_t nr_os_sendfile(int target, int source, int64_t *offset, size_t size);
ssize_t nr_os_copy_range(int source, int64_t *offset, int target, size_t size);
ssize_t nr_os_splice_at(int source, int64_t *offset, int target, size_t size); /* SPLICE_F_NONBLOCK */
ssize_t nr_os_read_at(int fd, void *buffer, size_t size, int64_t offset);   /* -1: at the position */
ssize_t nr_os_write(int fd, const void *data, size_t size);

/* ---- sockets.c ---- */
ssize_t nr_os_receive(int fd, void *buffer, size_t size, int flags);
ssize_t nr_os_send(int fd, const void *data, size_t size, int flags);          /* MSG_NOSIGNAL added */
ssize_t nr_os_send_message(int fd, const struct msghdr *message, int flags);   /* MSG_NOSIGNAL added */
ssize_t nr_os_receive_message(int fd, struct msghdr *message, int flags);      /* MSG_CMSG_CLOEXEC added */
int nr_os_set_option(int fd, int level, int option, int value);
int nr_os_socket_error(int fd);       /* -SO_ERROR, 0 when there is none */
int nr_os_tcp_unsent_bytes(int fd);   /* accepted by the kernel, not yet given to the network */
int64_t nr_os_tcp_silence_ms(int fd); /* since the last data byte came (TCP_INFO) */

/* ---- queues.c: POSIX message queues ---- */
ssize_t nr_os_mq_send(int queue, const void *data, size_t size, unsigned priority);
ssize_t nr_os_mq_receive(int queue, void *buffer, size_t size, unsigned *priority);
int nr_os_mq_attributes(int queue, long *depth, long *message_bytes, long *current);
int nr_os_mq_open(const char *name, int flags, unsigned mode, long depth, long message_bytes);
int nr_os_mq_unlink(const char *name);

/* ---- memory.c ---- */
int nr_os_memfd(const char *name);    /* close-on-exec, seals allowed */
int nr_os_allocate(int fd, uint64_t size);     /* posix_fallocate: -ENOSPC now, never SIGBUS later */
int nr_os_add_seals(int fd, int seals);
int nr_os_get_seals(int fd);
int64_t nr_os_file_size(int fd);
int nr_os_map(void *address, size_t size, int fd, uint64_t offset, void **mapped);
int nr_os_map_readable(void *address, size_t size, int fd, uint64_t offset, void **mapped);
int nr_os_map_reserve(size_t size, void **mapped); /* addresses only, PROT_NONE */
int nr_os_unmap(void *address, size_t size);
/* Asymmetric fence (membarrier(2), GLOBAL_EXPEDITED): the rare side pays, the hot side does not. */
int nr_os_barrier_register(void);
int nr_os_barrier(void);

/* ---- process.c ---- */
int nr_os_cpu_count(void);            /* online in this machine, not in the affinity mask */
int nr_os_die_with_parent(int signal_number); /* when the thread that forked us ends (prctl(2)) */
int nr_os_catch_forks(void (*before)(void), void (*in_parent)(void), void (*in_child)(void));
/* When it started (/proc/PID/stat, field 22): with the pid, one process for ever. -ESRCH: dead, and a
 * zombie is. */
int nr_os_process_started(uint32_t pid, uint64_t *started);
int nr_os_boot_id(uint8_t id[16]);    /* another after each boot */
int nr_os_pid_namespace(uint64_t *number);

/* ---- futex.c: sleeping on a word that several processes map ---- */
/* While *word is `expected`: 0 woken, -EAGAIN it is not, -ETIMEDOUT. Like nr_os_sleep(), -EINTR is
 * passed on. */
int nr_os_futex_wait(_Atomic uint32_t *word, uint32_t expected, uint64_t timeout_ns);
int nr_os_futex_wake(_Atomic uint32_t *word); /* all; how many slept */

#endif
