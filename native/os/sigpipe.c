/* SIGPIPE, which some system calls raise and no flag of theirs prevents: held back in this thread, and
 * forgotten when it came. A program that embeds the core may have left it at its default, which kills. */
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <time.h>

#include "naru/os.h"

bool nr_os_sigpipe_is_ignored(void)
{
    struct sigaction action;

    return sigaction(SIGPIPE, NULL, &action) == 0 && action.sa_handler == SIG_IGN;
}

void nr_os_hold_sigpipe(struct nr_held_sigpipe *held)
{
    sigset_t sigpipe, before, pending;

    sigemptyset(&sigpipe);
    sigaddset(&sigpipe, SIGPIPE);
    sigpending(&pending);
    held->was_pending = sigismember(&pending, SIGPIPE);
    pthread_sigmask(SIG_BLOCK, &sigpipe, &before);
    held->was_blocked = sigismember(&before, SIGPIPE);
}

void nr_os_release_sigpipe(const struct nr_held_sigpipe *held, bool may_have_come)
{
    const struct timespec at_once = {0, 0};
    sigset_t sigpipe;

    sigemptyset(&sigpipe);
    sigaddset(&sigpipe, SIGPIPE);
    if (may_have_come && !held->was_pending)
        while (sigtimedwait(&sigpipe, NULL, &at_once) < 0 && errno == EINTR)
            continue;
    if (!held->was_blocked)
        pthread_sigmask(SIG_UNBLOCK, &sigpipe, NULL);
}
