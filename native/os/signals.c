#include "naru/signals.h"

#include <errno.h>
#include <string.h>
#include <sys/signalfd.h>
#include <sys/syscall.h>
#include <time.h>
#include <ucontext.h>
#include <unistd.h>

#include "naru/os.h"

static void fill(sigset_t *set, uint64_t bits)
{
    sigemptyset(set);
    for (int number = 1; number <= 64; number++)
        if (bits >> (number - 1) & 1)
            (void)sigaddset(set, number); /* glibc keeps 32 and 33 for itself, and says no */
}

int nr_os_pidfd_open(int pid)
{
    long fd = syscall(SYS_pidfd_open, pid, 0); /* close-on-exec by itself */

    return fd < 0 ? -errno : (int)fd;
}

int nr_os_pidfd_kill(int pidfd, int number)
{
    return syscall(SYS_pidfd_send_signal, pidfd, number, NULL, 0) < 0 ? -errno : 0;
}

int nr_os_pidfd_queue(int pidfd, int number, int32_t value)
{
    siginfo_t info;

    memset(&info, 0, sizeof info);
    info.si_signo = number;
    info.si_code = SI_QUEUE; /* the kernel takes the rest on trust, hence the true sender */
    info.si_pid = getpid();
    info.si_uid = getuid();
    info.si_value.sival_int = value;
    return syscall(SYS_pidfd_send_signal, pidfd, number, &info, 0) < 0 ? -errno : 0;
}

/* A thread other than the main one may not repeat what kill(2) or the kernel said, whose codes are not
 * negative: sent on, they are these. */
#define SENT_ON (-7800)
#define MOST_CODE 255

static int32_t true_code(int32_t code)
{
    return code <= SENT_ON && code >= SENT_ON - MOST_CODE ? SENT_ON - code : code;
}

int nr_os_signal_wait(uint64_t set, uint64_t timeout_ns, struct nr_signal *signal)
{
    struct timespec time = {.tv_sec = (time_t)(timeout_ns / 1000000000u),
                            .tv_nsec = (long)(timeout_ns % 1000000000u)};
    siginfo_t info;
    sigset_t wanted;

    fill(&wanted, set);
    if (sigtimedwait(&wanted, &info, timeout_ns == NR_FOREVER ? NULL : &time) < 0)
        return -errno;
    *signal = (struct nr_signal){.number = info.si_signo,
                                 .code = true_code(info.si_code),
                                 .pid = info.si_pid,
                                 .uid = (int32_t)info.si_uid,
                                 .value = info.si_value.sival_int};
    return 1;
}

int nr_os_signalfd(uint64_t set)
{
    sigset_t wanted;
    int fd;

    fill(&wanted, set);
    fd = signalfd(-1, &wanted, SFD_NONBLOCK | SFD_CLOEXEC);
    return fd < 0 ? -errno : fd;
}

#define AT_ONCE 32

int nr_os_signalfd_read(int fd, struct nr_signal *signals, int limit)
{
    struct signalfd_siginfo got[AT_ONCE];
    int count = limit < AT_ONCE ? limit : AT_ONCE;
    ssize_t size = nr_os_read(fd, got, (size_t)count * sizeof got[0]);

    if (size < 0)
        return size == -EAGAIN ? 0 : (int)size;
    count = (int)((size_t)size / sizeof got[0]);
    for (int i = 0; i < count; i++)
        signals[i] = (struct nr_signal){.number = (int32_t)got[i].ssi_signo,
                                        .code = true_code(got[i].ssi_code),
                                        .pid = (int32_t)got[i].ssi_pid,
                                        .uid = (int32_t)got[i].ssi_uid,
                                        .value = got[i].ssi_int};
    return count;
}

/* ---- threads that do not block it ---- */

#define BLOCK_HERE (-7701) /* an si_code that nobody else uses: this is no message, only a request */

static void block_and_send_on(int number, siginfo_t *info, void *context)
{
    ucontext_t *interrupted = context;
    int error = errno;

    (void)sigaddset(&interrupted->uc_sigmask, number); /* from the end of this handler on */
    if (info->si_code == BLOCK_HERE)
        return;
    if (info->si_code >= 0 && info->si_code <= MOST_CODE)
        info->si_code = SENT_ON - info->si_code;
    if (syscall(SYS_rt_sigqueueinfo, getpid(), number, info) < 0)
        (void)kill(getpid(), number); /* the queue is full: without its sender, but not lost */
    errno = error;
}

int nr_signal_catch(int number, struct sigaction *before)
{
    struct sigaction action = {.sa_sigaction = block_and_send_on,
                               .sa_flags = SA_SIGINFO | SA_RESTART | SA_ONSTACK};

    sigfillset(&action.sa_mask);
    return sigaction(number, &action, before) < 0 ? -errno : 0;
}

int nr_signal_block_in_thread(int thread, int number)
{
    siginfo_t info;

    memset(&info, 0, sizeof info);
    info.si_signo = number;
    info.si_code = BLOCK_HERE;
    info.si_pid = getpid();
    return syscall(SYS_rt_tgsigqueueinfo, getpid(), thread, number, &info) < 0 ? -errno : 0;
}

int nr_signal_release(int number, const struct sigaction *before)
{
    struct sigaction now;

    if (sigaction(number, NULL, &now) < 0)
        return -errno;
    if (!(now.sa_flags & SA_SIGINFO) || now.sa_sigaction != block_and_send_on)
        return 0;
    return sigaction(number, before, NULL) < 0 ? -errno : 0;
}
