/* check.h: assertions and totals for the C tests, in one header and without a framework.
 *
 * A program RUNs its cases in main() and ends with `return check_finish()`. A failed CHECK says
 * where and goes on, so that one fault shows all of its consequences; a case fails when one of its
 * checks did. Threads may check. A case that hangs is named and ends the program. */
#ifndef NR_TESTS_CHECK_H
#define NR_TESTS_CHECK_H

#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define CHECK_MOST_LINES 20 /* of one case; a broken loop says the same a million times */

static struct {
    const char *running;
    _Atomic int failures; /* of the running case */
    int passed, failed;
} check_state;

__attribute__((unused)) static int check_that(int holds, const char *file, int line,
                                              const char *text, long long actual,
                                              long long expected)
{
    int number;

    if (holds)
        return 1;
    number = atomic_fetch_add_explicit(&check_state.failures, 1, memory_order_relaxed);
    if (number < CHECK_MOST_LINES)
        fprintf(stderr, "%s:%d: %s: %s (%lld, expected %lld)\n", file, line,
                check_state.running ? check_state.running : "-", text, actual, expected);
    return 0;
}

/* Both give their truth, so that a loop can end at the first failure. */
#define CHECK(condition) check_that(!!(condition), __FILE__, __LINE__, #condition, 0, 1)
#define CHECK_EQUAL(actual, expected)                                                              \
    __extension__({                                                                                \
        long long check_actual = (long long)(actual), check_expected = (long long)(expected);      \
        check_that(check_actual == check_expected, __FILE__, __LINE__, #actual " == " #expected,   \
                   check_actual, check_expected);                                                  \
    })

/* What a test needs and does not test. */
#define REQUIRE(condition)                                                                         \
    do {                                                                                           \
        if (!(condition)) {                                                                        \
            fprintf(stderr, "%s:%d: cannot test: %s\n", __FILE__, __LINE__, #condition);           \
            exit(2);                                                                               \
        }                                                                                          \
    } while (0)

__attribute__((unused)) static void check_hangs(int signal_number)
{
    const char *name = check_state.running ? check_state.running : "-";

    (void)signal_number;
    (void)!write(2, "hangs: ", 7);
    (void)!write(2, name, strlen(name));
    (void)!write(2, "\n", 1);
    _exit(3);
}

/* Within so many seconds the case is over, or hangs. 0: not watched. */
__attribute__((unused)) static void check_watch(unsigned limit_s)
{
    signal(SIGALRM, check_hangs);
    alarm(limit_s);
}

__attribute__((unused)) static void check_run(const char *name, void (*test)(void))
{
    int failures;

    check_state.running = name;
    atomic_store(&check_state.failures, 0);
    check_watch(120);
    test();
    alarm(0);
    failures = atomic_load(&check_state.failures);
    if (failures == 0) {
        check_state.passed++;
        printf("ok %s\n", name);
    } else {
        check_state.failed++;
        printf("FAILED %s (%d checks)\n", name, failures);
    }
    fflush(stdout);
}

#define RUN(test) check_run(#test, test)

__attribute__((unused)) static int check_finish(void)
{
    printf("%d passed, %d failed\n", check_state.passed, check_state.failed);
    return check_state.failed != 0;
}

#endif
