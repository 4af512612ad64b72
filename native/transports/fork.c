/* What an endpoint needs to know of its process, and the registry that lets a forked child give up
 * what is its parent's.
 *
 * The only mutable global of the core: pthread_atfork(3) passes no argument to its handlers. */
#include <errno.h>
#include <stdlib.h>
#include <sys/random.h>

#include "naru/endpoint.h"

static struct {
    pthread_mutex_t lock;
    struct nr_endpoint *first;
    uint32_t token;
    int interrupt_fd; /* readable while some endpoint of this process is being closed */
    unsigned interrupts;
    int cpu_count;
    bool has_barrier;
    bool started;
} process = {.lock = PTHREAD_MUTEX_INITIALIZER, .interrupt_fd = -1};

static uint32_t random_token(void)
{
    uint32_t token = 0;

    while (token == 0)
        if (getrandom(&token, sizeof token, 0) != (ssize_t)sizeof token)
            abort(); /* Linux never fails it for so few bytes once the machine is up */
    return token;
}

static void before_fork(void) { pthread_mutex_lock(&process.lock); }

static void in_parent(void) { pthread_mutex_unlock(&process.lock); }

/* Everything is made anew; the membarrier registration too, where the kernel does not inherit it. */
static void in_child(void)
{
    struct nr_endpoint *next;

    process.token = random_token();
    if (process.has_barrier)
        (void)nr_os_barrier_register();
    nr_os_close(process.interrupt_fd);
    process.interrupt_fd = nr_os_eventfd();
    process.interrupts = 0;
    pthread_mutex_init(&process.lock, NULL);
    for (struct nr_endpoint *e = process.first; e; e = next) {
        next = e->next;
        nr_endpoint_after_fork(e);
    }
}

int nr_process_start(void)
{
    if (process.started)
        return 0;
    process.token = random_token();
    process.cpu_count = nr_os_cpu_count();
    process.has_barrier = nr_os_barrier_register() == 0;
    process.interrupt_fd = nr_os_eventfd();
    if (process.interrupt_fd < 0)
        return process.interrupt_fd;
    process.started = true;
    return nr_os_catch_forks(before_fork, in_parent, in_child);
}

int nr_process_interrupt_fd(void) { return process.interrupt_fd; }

/* Counted: one closer must not silence the bell that another one's waiters have not heard yet. */
void nr_process_begin_interrupt(void)
{
    pthread_mutex_lock(&process.lock);
    process.interrupts++;
    (void)nr_os_eventfd_ring(process.interrupt_fd);
    pthread_mutex_unlock(&process.lock);
}

void nr_process_end_interrupt(void)
{
    pthread_mutex_lock(&process.lock);
    if (--process.interrupts == 0)
        (void)nr_os_eventfd_drain(process.interrupt_fd);
    pthread_mutex_unlock(&process.lock);
}

uint32_t nr_process_token(void) { return process.token; }
int nr_process_cpu_count(void) { return process.cpu_count; }
bool nr_process_has_barrier(void) { return process.has_barrier; }

void nr_process_register(struct nr_endpoint *e)
{
    pthread_mutex_lock(&process.lock);
    e->next = process.first;
    e->previous = &process.first;
    if (e->next)
        e->next->previous = &e->next;
    process.first = e;
    pthread_mutex_unlock(&process.lock);
}

void nr_process_unregister(struct nr_endpoint *e)
{
    pthread_mutex_lock(&process.lock);
    if (e->previous) {
        *e->previous = e->next;
        if (e->next)
            e->next->previous = e->previous;
        e->previous = NULL;
    }
    pthread_mutex_unlock(&process.lock);
}
