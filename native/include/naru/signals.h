/* naru/signals.h: signals as messages.
 *
 * As in os.h every function returns >= 0 or -errno. A set of signals is a word: bit n-1 is signal n.
 * Nothing here is state of the process but what the kernel itself keeps (dispositions, masks). */
#ifndef NARU_SIGNALS_H
#define NARU_SIGNALS_H

#include <signal.h>
#include <stdint.h>

struct nr_signal {
    int32_t number;
    int32_t code;  /* SI_USER, SI_QUEUE, CLD_EXITED ...: sigaction(2) */
    int32_t pid;   /* of the sender; of the child with SIGCHLD */
    int32_t uid;
    int32_t value; /* where code says that one came with it */
};

/* A descriptor of the process: what is sent through it never reaches another one with its number. */
int nr_os_pidfd_open(int pid);
/* kill(2): standard signals coalesce, and a full queue of real-time signals is not told. */
int nr_os_pidfd_kill(int pidfd, int number);
/* sigqueue(3): -EAGAIN when a real-time signal finds RLIMIT_SIGPENDING used up. */
int nr_os_pidfd_queue(int pidfd, int number, int32_t value);

/* The next pending one of the set, which this thread must have blocked: 1. -EAGAIN at the end of the
 * time (ns; NR_FOREVER). -EINTR is passed on: another signal came, look at it. */
int nr_os_signal_wait(uint64_t set, uint64_t timeout_ns, struct nr_signal *signal);

/* Nonblocking, close-on-exec. Reading gives how many were taken, 0 when none is pending. */
int nr_os_signalfd(uint64_t set);
int nr_os_signalfd_read(int fd, struct nr_signal *signals, int limit);

/* A mask belongs to one thread, and a signal to the process goes to any thread that does not block
 * it: one that a library has started (a pool for linear algebra) takes what a signalfd waits for,
 * and the default action ends the process. So the caught signal gets a handler that blocks it in
 * such a thread for ever and sends it to the process again. */
int nr_signal_catch(int number, struct sigaction *before);
/* Asks another thread to block a caught signal now; one that blocks it already must not be asked. The
 * thread's mask says when it is done. */
int nr_signal_block_in_thread(int thread, int number);
/* Puts `before` back, unless somebody has changed the disposition since. */
int nr_signal_release(int number, const struct sigaction *before);

#endif
