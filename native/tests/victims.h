/* victims.h: children that die at a crash point, or are killed; for tests of what they leave behind. */
#ifndef NR_TESTS_VICTIMS_H
#define NR_TESTS_VICTIMS_H

#include <sys/prctl.h>
#include <sys/wait.h>

#include "check.h"
#include "naru/crashpoint.h"

/* fork() for a victim: 0 in the child, which dies with its parent and has its crash point armed. */
__attribute__((unused)) static pid_t victim_fork(const char *crashpoint)
{
    pid_t child;

    fflush(stdout);
    child = fork();
    REQUIRE(child >= 0);
    if (child == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        alarm(0);
        nr_crashpoint_arm(crashpoint);
    }
    return child;
}

/* Whether it was killed; else it has ended with 0. */
__attribute__((unused)) static bool victim_bury(pid_t child)
{
    int status = 0;

    REQUIRE(waitpid(child, &status, 0) == child);
    if (!WIFSIGNALED(status))
        CHECK_EQUAL(status, 0);
    return WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL;
}

#endif
