/*
 * floor.c: options, the two processes, clocks and the JSON line (see floor.h).
 */
#include "floor.h"

#include <errno.h>
#include <getopt.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

/* A run that takes longer hangs: the alarm ends it. */
enum { LIMIT_S = 300 };

bool floor_is(const char *text, const char *wanted) { return strcmp(text, wanted) == 0; }

void floor_die(const floor_options *options, const char *text, int error) {
    if (error)
        fprintf(stderr, "floor_%s: %s: %s\n", options->mechanism, text, strerror(error));
    else
        fprintf(stderr, "floor_%s: %s\n", options->mechanism, text);
    exit(1);
}

uint64_t floor_now_ns(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

static uint64_t cpu_now_ns(void) {
    struct rusage used;
    getrusage(RUSAGE_SELF, &used);
    return ((uint64_t)used.ru_utime.tv_sec + (uint64_t)used.ru_stime.tv_sec) * 1000000000u +
           ((uint64_t)used.ru_utime.tv_usec + (uint64_t)used.ru_stime.tv_usec) * 1000u;
}

static _Noreturn void usage(const char *mechanism) {
    fprintf(stderr,
            "usage: floor_%s stream|trip|large|idle [--shape per-message|batch|copy|reserve]\n"
            "  [--wait spin|adaptive|futex|eventfd|block] [--read touch|copy] [--size BYTES]\n"
            "  [--capacity BYTES] [--count N] [--warm-up N] [--sender-core N] [--receiver-core N]\n"
            "  [--idle SECONDS]\n"
            "Not every mechanism has every command.\n",
            mechanism);
    exit(2);
}

static uint64_t parse_count(const char *text, const char *mechanism) {
    char *end;
    errno = 0;
    unsigned long long value = strtoull(text, &end, 10);
    if (errno || *end || end == text || *text == '-')
        usage(mechanism);
    return value;
}

floor_options floor_parse(int argc, char **argv, const char *mechanism) {
    static const struct option known[] = {
        {"shape", required_argument, NULL, 's'},       {"wait", required_argument, NULL, 'w'},
        {"read", required_argument, NULL, 'r'},        {"size", required_argument, NULL, 'b'},
        {"capacity", required_argument, NULL, 'c'},    {"count", required_argument, NULL, 'n'},
        {"warm-up", required_argument, NULL, 'u'},     {"sender-core", required_argument, NULL, 'S'},
        {"receiver-core", required_argument, NULL, 'R'}, {"idle", required_argument, NULL, 'i'},
        {NULL, 0, NULL, 0},
    };
    floor_options options = {
        .mechanism = mechanism, .shape = "per-message", .wait = "block", .read = "touch",
        .size_bytes = 1024, .count = 1000000, .warm_up_count = UINT64_MAX,
        .sender_core = 0, .receiver_core = 1, .idle_s = 5.0,
    };
    for (int letter; (letter = getopt_long(argc, argv, "", known, NULL)) != -1;) {
        switch (letter) {
        case 's': options.shape = optarg; break;
        case 'w': options.wait = optarg; break;
        case 'r': options.read = optarg; break;
        case 'b': options.size_bytes = parse_count(optarg, mechanism); break;
        case 'c': options.capacity_bytes = parse_count(optarg, mechanism); break;
        case 'n': options.count = parse_count(optarg, mechanism); break;
        case 'u': options.warm_up_count = parse_count(optarg, mechanism); break;
        case 'S': options.sender_core = (int)parse_count(optarg, mechanism); break;
        case 'R': options.receiver_core = (int)parse_count(optarg, mechanism); break;
        case 'i': options.idle_s = strtod(optarg, NULL); break;
        default: usage(mechanism);
        }
    }
    if (optind != argc - 1)
        usage(mechanism);
    options.command = argv[optind];
    if (options.size_bytes < sizeof(uint64_t) || options.count == 0)
        floor_die(&options, "--size is at least 8 (the message number) and --count at least 1", 0);
    /* A batch is never cut, so both passes are whole batches. */
    if (floor_is(options.shape, "batch"))
        options.count = (options.count + FLOOR_BATCH - 1) / FLOOR_BATCH * FLOOR_BATCH;
    if (options.warm_up_count == UINT64_MAX)
        options.warm_up_count = options.count / 10;
    options.warm_up_count = options.warm_up_count / FLOOR_BATCH * FLOOR_BATCH;
    return options;
}

void *floor_shared_memory(const floor_options *options, size_t size_bytes) {
    void *memory = mmap(NULL, size_bytes, PROT_READ | PROT_WRITE,
                        MAP_SHARED | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
    if (memory == MAP_FAILED)
        floor_die(options, "mmap", errno);
    return memory;
}

uint64_t floor_pass_count(const floor_options *options, int pass) {
    return pass ? options->count : options->warm_up_count;
}

void floor_start(floor_run_state *run, floor_side side) {
    floor_shared *shared = run->shared;
    uint32_t phase = atomic_load_explicit(&shared->phase, memory_order_acquire);
    /* The second to come opens the gate; pairs with: the acquire load of phase below. */
    if (atomic_fetch_add_explicit(&shared->arrived, 1, memory_order_acq_rel) == 1) {
        atomic_store_explicit(&shared->arrived, 0, memory_order_relaxed);
        atomic_store_explicit(&shared->phase, phase + 1, memory_order_release);
    }
    while (atomic_load_explicit(&shared->phase, memory_order_acquire) == phase)
        sched_yield(); /* the two may be pinned to one core */
    shared->clock[side].start_cpu_ns = cpu_now_ns();
    shared->clock[side].start_ns = floor_now_ns();
}

void floor_stop(floor_run_state *run, floor_side side) {
    run->shared->clock[side].end_ns = floor_now_ns();
    run->shared->clock[side].end_cpu_ns = cpu_now_ns();
}

static pid_t fork_role(floor_run_state *run, floor_role role, void *context, int core) {
    pid_t pid = fork();
    if (pid < 0)
        floor_die(run->options, "fork", errno);
    if (pid > 0)
        return pid;
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    signal(SIGALRM, SIG_DFL);
    alarm(LIMIT_S);
    cpu_set_t cores;
    CPU_ZERO(&cores);
    CPU_SET((size_t)core, &cores);
    if (sched_setaffinity(0, sizeof cores, &cores) < 0)
        floor_die(run->options, "sched_setaffinity", errno);
    role(run, context);
    exit(0);
}

/* Waits for both; the first failure ends the other, which may wait for ever. */
static void wait_for_both(const floor_options *options, const pid_t pids[2]) {
    bool failed = false;
    for (int left = 2; left > 0; left--) {
        int status;
        struct rusage used;
        pid_t pid = wait4(-1, &status, 0, &used);
        if (pid < 0)
            floor_die(options, "wait4", errno);
        if (WIFEXITED(status) && WEXITSTATUS(status) == 0)
            continue;
        if (!failed && left == 2)
            kill(pid == pids[FLOOR_SENDER] ? pids[FLOOR_RECEIVER] : pids[FLOOR_SENDER], SIGKILL);
        if (WIFSIGNALED(status) && !failed)
            fprintf(stderr, "floor_%s: a side was ended by signal %d\n", options->mechanism,
                    WTERMSIG(status));
        failed = true;
    }
    if (failed)
        exit(1);
}

static int compare_ns(const void *left, const void *right) {
    uint64_t a = *(const uint64_t *)left, b = *(const uint64_t *)right;
    return (a > b) - (a < b);
}

static uint64_t percentile_ns(const uint64_t *sorted, uint64_t count, double fraction) {
    uint64_t index = (uint64_t)((double)count * fraction);
    return sorted[index < count ? index : count - 1];
}

static void print_json(const floor_run_state *run) {
    const floor_options *options = run->options;
    const floor_shared *shared = run->shared;
    bool one_way = floor_is(options->command, "stream") || floor_is(options->command, "large");
    /* One way: from the sender's first message to the receiver's last. */
    uint64_t end_ns = shared->clock[one_way ? FLOOR_RECEIVER : FLOOR_SENDER].end_ns;
    double seconds = (double)(end_ns - shared->clock[FLOOR_SENDER].start_ns) / 1e9;
    double cpu_s[2];
    for (int side = 0; side < 2; side++)
        cpu_s[side] =
            (double)(shared->clock[side].end_cpu_ns - shared->clock[side].start_cpu_ns) / 1e9;
    printf("{\"mechanism\":\"%s\",\"command\":\"%s\",\"shape\":\"%s\",\"wait\":\"%s\","
           "\"read\":\"%s\",\"size\":%zu,\"capacity\":%zu,\"count\":%llu,\"seconds\":%.9f,"
           "\"cpu_sender_s\":%.6f,\"cpu_receiver_s\":%.6f",
           options->mechanism, options->command, options->shape, options->wait, options->read,
           options->size_bytes, options->capacity_bytes, (unsigned long long)options->count,
           seconds, cpu_s[FLOOR_SENDER], cpu_s[FLOOR_RECEIVER]);
    if (run->trips_ns) {
        qsort(run->trips_ns, options->count, sizeof(uint64_t), compare_ns);
        printf(",\"p50_ns\":%llu,\"p99_ns\":%llu,\"p999_ns\":%llu,\"mean_ns\":%.1f",
               (unsigned long long)percentile_ns(run->trips_ns, options->count, 0.5),
               (unsigned long long)percentile_ns(run->trips_ns, options->count, 0.99),
               (unsigned long long)percentile_ns(run->trips_ns, options->count, 0.999),
               seconds * 1e9 / (double)options->count);
    }
    printf("}\n");
}

/* A misspelt word must not be measured as the default. */
static void check_words(const floor_options *options) {
    bool large = floor_is(options->command, "large");
    const char *one = large ? "copy" : "per-message", *other = large ? "reserve" : "batch";
    if (!floor_is(options->shape, one) && !floor_is(options->shape, other))
        floor_die(options, large ? "large --shape is copy or reserve"
                                 : "--shape is per-message or batch", 0);
    if (!floor_is(options->read, "touch") && !floor_is(options->read, "copy"))
        floor_die(options, "--read is touch or copy", 0);
}

int floor_run(const floor_options *options, floor_role sender, floor_role receiver, void *context) {
    check_words(options);
    floor_run_state run = {
        .options = options,
        .shared = floor_shared_memory(options, sizeof(floor_shared)),
    };
    if (floor_is(options->command, "trip"))
        run.trips_ns = floor_shared_memory(options, options->count * sizeof(uint64_t));
    /* Nothing is buffered here yet, but a child's exit() would write it twice. */
    fflush(NULL);
    pid_t pids[2];
    pids[FLOOR_RECEIVER] = fork_role(&run, receiver, context, options->receiver_core);
    pids[FLOOR_SENDER] = fork_role(&run, sender, context, options->sender_core);
    wait_for_both(options, pids);
    print_json(&run);
    return 0;
}
