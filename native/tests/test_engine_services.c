/* Services: echo and the byte proxy, with clients that behave and clients that do not. */
#include <sys/resource.h>

#include "services.h"

static void echo_over(int family)
{
    struct house house;
    int fds[50];

    house_open(&house, family, &(struct nr_service_settings){.protocol = &nr_protocol_echo});
    for (int i = 0; i < 50; i++)
        fds[i] = house_visit(&house);
    for (int round = 0; round < 20; round++)
        for (int i = 0; i < 50; i++) {
            char text[64];

            snprintf(text, sizeof text, "round %d of %d", round, i);
            house_send(fds[i], text, sizeof text);
            house_expect(fds[i], text, sizeof text);
        }
    for (int i = 0; i < 50; i++) {
        shutdown(fds[i], SHUT_WR);
        CHECK_EQUAL(recv(fds[i], (char[1]){0}, 1, 0), 0);
        close(fds[i]);
    }
    HOUSE_AWAIT(&house, counts.open == 0);
    CHECK_EQUAL(house_counts(&house).accepted, 50);
    CHECK_EQUAL(house_counts(&house).closed_orderly, 50);
    CHECK_EQUAL(house_counts(&house).bytes_received, 50 * 20 * 64);
    house_close(&house);
}

static void echo_tcp(void) { echo_over(AF_INET); }
static void echo_unix(void) { echo_over(AF_UNIX); }

static void make_proxy(struct house *proxy, int family, const struct house *target)
{
    struct nr_splice_target to = {.address = target->address,
                                  .address_bytes = target->address_bytes};
    struct nr_splice *splice;

    REQUIRE(nr_splice_create(&to, &splice) == 0);
    house_open(proxy, family,
               &(struct nr_service_settings){.protocol = &nr_protocol_splice, .context = splice});
}

struct pour {
    int fd;
    size_t size;
};

static void *pour_bytes(void *data)
{
    struct pour *pour = data;
    uint8_t block[50000];
    size_t sent = 0;

    while (sent < pour->size) {
        size_t size = pour->size - sent < sizeof block ? pour->size - sent : sizeof block;

        for (size_t i = 0; i < size; i++)
            block[i] = (uint8_t)((sent + i) * 2654435761u >> 13);
        if (!CHECK(send(pour->fd, block, size, MSG_NOSIGNAL) == (ssize_t)size))
            break;
        sent += size;
    }
    shutdown(pour->fd, SHUT_WR);
    return NULL;
}

static void proxy_carries(int outside, int inside, size_t size)
{
    struct house echo, proxy;
    struct pour pour = {.size = size};
    pthread_t thread;
    uint8_t block[30000];
    size_t got = 0;
    ssize_t count;

    house_open(&echo, inside, &(struct nr_service_settings){.protocol = &nr_protocol_echo});
    make_proxy(&proxy, outside, &echo);
    pour.fd = house_visit(&proxy);
    REQUIRE(pthread_create(&thread, NULL, pour_bytes, &pour) == 0);
    while ((count = recv(pour.fd, block, sizeof block, 0)) > 0) {
        for (ssize_t i = 0; i < count; i++)
            if (!CHECK(block[i] == (uint8_t)((got + (size_t)i) * 2654435761u >> 13)))
                break;
        got += (size_t)count;
    }
    CHECK_EQUAL(count, 0);
    CHECK_EQUAL(got, size);
    pthread_join(thread, NULL);
    close(pour.fd);
    HOUSE_AWAIT(&proxy, counts.open == 0);
    CHECK_EQUAL(house_counts(&proxy).closed_orderly, 2);
    house_close(&proxy);
    house_close(&echo);
}

static void proxy_tcp_to_unix(void) { proxy_carries(AF_INET, AF_UNIX, 20000000); }
static void proxy_unix_to_tcp(void) { proxy_carries(AF_UNIX, AF_INET, 20000000); }
static void proxy_one_byte(void) { proxy_carries(AF_UNIX, AF_UNIX, 1); }
static void proxy_nothing(void) { proxy_carries(AF_INET, AF_INET, 0); }

/* ---- limits ---- */

#define MS 1000000ull

static void slow_peer_is_cut_off(void)
{
    struct house house;
    uint8_t *block = calloc(1, 1 << 20);
    ssize_t sent;
    int fd;

    house_open(&house, AF_UNIX,
               &(struct nr_service_settings){.protocol = &nr_protocol_echo,
                                             .stall_timeout_ns = 100 * MS});
    fd = house_visit(&house);
    REQUIRE(fcntl(fd, F_SETFL, O_NONBLOCK) == 0);
    do /* asks and asks, and never reads */
        sent = send(fd, block, 1 << 20, MSG_NOSIGNAL);
    while (sent > 0 || errno == EAGAIN);
    HOUSE_AWAIT(&house, counts.closed_slow == 1);
    CHECK_EQUAL(house_counts(&house).open, 0);
    CHECK_EQUAL(house_counts(&house).chokes, 1);
    CHECK(house_counts(&house).bytes_received < 4u << 20); /* it was not read for ever */
    close(fd);
    free(block);
    house_close(&house);
}

static void choked_peer_goes_on_when_it_reads(void)
{
    struct house house;
    struct pour pour = {.size = 8u << 20};
    uint8_t block[65536];
    pthread_t thread;
    size_t got = 0;
    ssize_t count;

    house_open(&house, AF_UNIX, &(struct nr_service_settings){.protocol = &nr_protocol_echo});
    pour.fd = house_visit(&house);
    REQUIRE(pthread_create(&thread, NULL, pour_bytes, &pour) == 0);
    HOUSE_AWAIT(&house, counts.chokes == 1);
    while ((count = recv(pour.fd, block, sizeof block, 0)) > 0)
        got += (size_t)count;
    CHECK_EQUAL(got, pour.size);
    pthread_join(thread, NULL);
    close(pour.fd);
    house_close(&house);
}

static void idle_connection_is_ended(void)
{
    struct house house;
    uint64_t began = nr_os_now_ns();
    int quiet, busy;
    char byte = 'x';

    house_open(&house, AF_INET,
               &(struct nr_service_settings){.protocol = &nr_protocol_echo,
                                             .idle_timeout_ns = 100 * MS});
    quiet = house_visit(&house);
    busy = house_visit(&house);
    while (house_counts(&house).closed_idle == 0) {
        house_send(busy, &byte, 1);
        house_expect(busy, &byte, 1);
        usleep(2000);
    }
    CHECK(nr_os_now_ns() - began >= 100 * MS);
    CHECK_EQUAL(recv(quiet, &byte, 1, 0), 0);
    CHECK_EQUAL(house_counts(&house).open, 1);
    HOUSE_AWAIT(&house, counts.closed_idle == 2);
    close(quiet);
    close(busy);
    house_close(&house);
}

static void connection_limit_lets_the_others_wait(void)
{
    struct house house;
    int fds[10];

    house_open(&house, AF_UNIX,
               &(struct nr_service_settings){.protocol = &nr_protocol_echo, .connection_limit = 3});
    for (int i = 0; i < 10; i++) {
        fds[i] = house_visit(&house);
        house_send(fds[i], &i, sizeof i);
    }
    for (int i = 0; i < 10; i++) { /* each is served when the one before it has left */
        house_expect(fds[i], &i, sizeof i);
        CHECK(house_counts(&house).open <= 3);
        close(fds[i]);
    }
    HOUSE_AWAIT(&house, counts.closed_orderly + counts.closed_reset == 10);
    CHECK_EQUAL(house_counts(&house).most_open, 3);
    CHECK(house_counts(&house).pauses_limit >= 1);
    house_close(&house);
}

/* FAULTS 14, 79: without a descriptor, clients wait in the queue, and nothing spins. */
static void no_descriptor_pauses_accepting(void)
{
    const int clients = 40;
    struct rlimit before, few;
    struct nr_engine_statistics first, second;
    struct house house;
    int fds[40], next;

    house_make(&house, AF_UNIX, &(struct nr_service_settings){.protocol = &nr_protocol_echo});
    for (int i = 0; i < clients; i++) {
        fds[i] = house_visit(&house);
        house_send(fds[i], &i, sizeof i);
    }
    next = dup(0);
    close(next);
    REQUIRE(getrlimit(RLIMIT_NOFILE, &before) == 0);
    few = (struct rlimit){(rlim_t)next + 5, before.rlim_max};
    REQUIRE(setrlimit(RLIMIT_NOFILE, &few) == 0);
    REQUIRE(pthread_create(&house.thread, NULL, house_run, &house) == 0);
    HOUSE_AWAIT(&house, counts.pauses_descriptors >= 1);
    nr_engine_read_statistics(house.engine, &first);
    usleep(350000);
    nr_engine_read_statistics(house.engine, &second);
    CHECK(second.wakeups - first.wakeups < 20); /* a try each 100 ms */
    for (int i = 0; i < clients; i++) {
        house_expect(fds[i], &i, sizeof i);
        close(fds[i]);
    }
    HOUSE_AWAIT(&house, counts.closed_orderly == (uint64_t)clients);
    REQUIRE(setrlimit(RLIMIT_NOFILE, &before) == 0);
    house_close(&house);
}

static void drain_lets_the_queue_go_out(void)
{
    struct house house;
    struct nr_service_statistics counts;
    uint8_t *block = calloc(1, 200000), *back = malloc(200000);
    int fd;

    house_make(&house, AF_UNIX, &(struct nr_service_settings){.protocol = &nr_protocol_echo});
    fd = house_visit(&house);
    REQUIRE(fcntl(fd, F_SETFL, O_NONBLOCK) == 0);
    for (size_t sent = 0; sent < 200000;) {
        ssize_t now = send(fd, block + sent, 200000 - sent, MSG_NOSIGNAL);

        if (now > 0)
            sent += (size_t)now;
        CHECK(nr_engine_run_once(house.engine, nr_os_now_ns() + MS) >= 0);
    }
    while (house_counts(&house).bytes_received < 200000)
        CHECK(nr_engine_run_once(house.engine, NR_FOREVER) >= 0);
    nr_service_drain(house.service);
    CHECK(nr_service_is_draining(house.service));
    for (size_t got = 0; got < 200000;) {
        ssize_t now = recv(fd, back, 200000, 0);

        if (!CHECK(now != 0))
            break;
        if (now > 0)
            got += (size_t)now;
        CHECK(nr_engine_run_once(house.engine, nr_os_now_ns() + MS) >= 0);
    }
    close(fd);
    do {
        CHECK(nr_engine_run_once(house.engine, nr_os_now_ns() + MS) >= 0);
        counts = house_counts(&house);
    } while (counts.open > 0);
    CHECK_EQUAL(counts.closed_orderly, 1);
    house_destroy(&house);
    free(block);
    free(back);
}

static void destroyed_with_open_connections(void)
{
    struct house house;
    int fds[5];

    house_open(&house, AF_INET, &(struct nr_service_settings){.protocol = &nr_protocol_echo});
    for (int i = 0; i < 5; i++)
        fds[i] = house_visit(&house);
    HOUSE_AWAIT(&house, counts.open == 5);
    house_close(&house);
    for (int i = 0; i < 5; i++) {
        CHECK_EQUAL(recv(fds[i], (char[1]){0}, 1, 0), 0);
        close(fds[i]);
    }
}

/* ---- the proxy, and what breaks ---- */

static void reset_client(int fd)
{
    const struct linger at_once = {1, 0};

    REQUIRE(setsockopt(fd, SOL_SOCKET, SO_LINGER, &at_once, sizeof at_once) == 0);
    close(fd);
}

static void proxy_without_target(void)
{
    struct house gone, proxy;
    char byte;
    int fd;

    house_open(&gone, AF_INET, &(struct nr_service_settings){.protocol = &nr_protocol_echo});
    house_close(&gone); /* its port is free, and nobody listens there */
    make_proxy(&proxy, AF_INET, &gone);
    for (int i = 0; i < 20; i++) {
        fd = house_visit(&proxy);
        CHECK_EQUAL(recv(fd, &byte, 1, 0), -1);
        CHECK_EQUAL(errno, ECONNRESET);
        close(fd);
    }
    HOUSE_AWAIT(&proxy, counts.open == 0 && counts.open_outgoing == 0);
    CHECK_EQUAL(house_counts(&proxy).connects_failed, 20);
    house_close(&proxy);
}

static void proxy_passes_a_reset_on(void)
{
    struct house proxy, target = {0};
    int listener = house_listener(AF_INET, &target.address, &target.address_bytes, 16);
    int client, server;
    char byte = 'x';

    make_proxy(&proxy, AF_INET, &target);
    for (int turn = 0; turn < 2; turn++) {
        client = house_visit(&proxy);
        server = accept(listener, NULL, NULL);
        REQUIRE(server >= 0);
        house_send(client, &byte, 1);
        house_expect(server, &byte, 1);
        reset_client(turn ? server : client);
        CHECK_EQUAL(recv(turn ? client : server, &byte, 1, 0), -1);
        CHECK_EQUAL(errno, ECONNRESET);
        close(turn ? client : server);
    }
    HOUSE_AWAIT(&proxy, counts.open == 0 && counts.open_outgoing == 0);
    close(listener);
    house_close(&proxy);
}

static void proxy_half_closes(void)
{
    struct house proxy, target = {0};
    int listener = house_listener(AF_UNIX, &target.address, &target.address_bytes, 16);
    int client, server;
    char byte;

    make_proxy(&proxy, AF_INET, &target);
    client = house_visit(&proxy);
    server = accept(listener, NULL, NULL);
    REQUIRE(server >= 0);
    house_send(client, "ask", 3);
    shutdown(client, SHUT_WR);
    house_expect(server, "ask", 3);
    CHECK_EQUAL(recv(server, &byte, 1, 0), 0);
    house_send(server, "answer", 6); /* after the end of the question */
    house_expect(client, "answer", 6);
    close(server);
    CHECK_EQUAL(recv(client, &byte, 1, 0), 0);
    close(client);
    HOUSE_AWAIT(&proxy, counts.open == 0);
    CHECK_EQUAL(house_counts(&proxy).closed_orderly, 2);
    close(listener);
    house_close(&proxy);
}

/* A Unix client that writes and leaves at once: what it wrote is delivered all the same. */
static void proxy_delivers_what_a_gone_client_sent(void)
{
    struct house proxy, target = {0};
    int listener = house_listener(AF_UNIX, &target.address, &target.address_bytes, 16);
    uint8_t *block = calloc(1, 100000), *back = malloc(100000);
    int client, server;

    make_proxy(&proxy, AF_UNIX, &target);
    client = house_visit(&proxy);
    house_send(client, block, 100000);
    close(client);
    server = accept(listener, NULL, NULL);
    REQUIRE(server >= 0);
    usleep(20000); /* a slow one */
    house_expect(server, block, 100000);
    CHECK_EQUAL(recv(server, back, 1, 0), 0);
    close(server);
    HOUSE_AWAIT(&proxy, counts.open == 0);
    close(listener);
    house_close(&proxy);
    free(block);
    free(back);
}

/* connect(2) of a Unix socket says EAGAIN while the listener's queue is full. */
static void proxy_waits_for_a_full_queue(void)
{
    struct house proxy, target = {0};
    int listener = house_listener(AF_UNIX, &target.address, &target.address_bytes, 0);
    int clients[8], servers[8];

    make_proxy(&proxy, AF_UNIX, &target);
    for (int i = 0; i < 8; i++) {
        clients[i] = house_visit(&proxy);
        house_send(clients[i], "x", 1);
    }
    HOUSE_AWAIT(&proxy, counts.accepted == 8);
    usleep(10000);
    for (int i = 0; i < 8; i++) {
        servers[i] = accept(listener, NULL, NULL);
        REQUIRE(servers[i] >= 0);
        house_expect(servers[i], "x", 1);
    }
    for (int i = 0; i < 8; i++) {
        close(clients[i]);
        close(servers[i]);
    }
    HOUSE_AWAIT(&proxy, counts.open == 0);
    CHECK_EQUAL(house_counts(&proxy).connects_failed, 0);
    close(listener);
    house_close(&proxy);
}

static void stalled_proxy_sleeps(void)
{
    struct house proxy, target = {0};
    int listener = house_listener(AF_UNIX, &target.address, &target.address_bytes, 16);
    struct nr_engine_statistics first, second;
    uint8_t *block = calloc(1, 1 << 16);
    int client, server;
    uint64_t before = 1, now = 0;

    make_proxy(&proxy, AF_INET, &target);
    client = house_visit(&proxy);
    server = accept(listener, NULL, NULL);
    REQUIRE(fcntl(client, F_SETFL, O_NONBLOCK) == 0);
    while (now != before) { /* until nothing moves any more: the target reads nothing */
        while (send(client, block, 1 << 16, MSG_NOSIGNAL) > 0)
            continue;
        usleep(50000);
        before = now;
        now = house_counts(&proxy).bytes_received;
    }
    nr_engine_read_statistics(proxy.engine, &first);
    usleep(200000);
    nr_engine_read_statistics(proxy.engine, &second);
    CHECK(second.wakeups - first.wakeups < 10); /* TCP's own timers may still move a little */
    shutdown(client, SHUT_RDWR); /* its end comes, and cannot be passed on yet */
    usleep(100000);
    nr_engine_read_statistics(proxy.engine, &second);
    CHECK(second.wakeups - first.wakeups < 10);
    close(client);
    close(server);
    HOUSE_AWAIT(&proxy, counts.open == 0 && counts.open_outgoing == 0);
    close(listener);
    house_close(&proxy);
    free(block);
}

/* ---- frames ---- */

static int echo_frame(struct nr_connection *c, const uint8_t *bytes, size_t size, void *data)
{
    (void)data;
    return nr_frames_send(c, bytes, size);
}

static const struct nr_hello good_hello = {NR_HELLO_MAGIC, NR_PROTOCOL_VERSION, NR_HELLO_CHANNEL,
                                           1 << 20, 0};

static void open_frames(struct house *house)
{
    const struct nr_frames_settings settings = {.max_message_bytes = 1 << 20,
                                                .on_frame = echo_frame};
    struct nr_frames *frames;

    REQUIRE(nr_frames_create(&settings, &frames) == 0);
    house_open(house, AF_UNIX,
               &(struct nr_service_settings){.protocol = &nr_protocol_frames,
                                             .context = frames,
                                             .input_limit_bytes = 2 << 20});
}

static void frames_in_pieces(void)
{
    struct house house;
    uint8_t stream[64], hello[NR_HELLO_BYTES];
    const struct nr_record records[3] = {{5, 0}, {0, NR_RECORD_HEARTBEAT}, {0, NR_RECORD_BYE}};
    size_t size = 0;
    int fd;

    open_frames(&house);
    memcpy(stream, &good_hello, sizeof good_hello);
    size = sizeof good_hello;
    for (int i = 0; i < 3; i++) {
        memcpy(stream + size, &records[i], sizeof records[i]);
        size += sizeof records[i];
        memcpy(stream + size, "hello", records[i].length);
        size += records[i].length;
    }
    fd = house_visit(&house);
    for (size_t i = 0; i < size; i++)
        house_send(fd, stream + i, 1);
    CHECK_EQUAL(recv(fd, hello, sizeof hello, MSG_WAITALL), sizeof hello);
    CHECK(memcmp(hello, "NARU", 4) == 0);
    house_expect(fd, stream + sizeof good_hello, 13);
    CHECK_EQUAL(recv(fd, hello, 1, 0), 0);
    close(fd);
    HOUSE_AWAIT(&house, counts.closed_orderly == 1);
    house_close(&house);
}

static void frames_refuse(const void *bytes, size_t size)
{
    struct house house;
    char answer[64];
    int fd;

    open_frames(&house);
    fd = house_visit(&house);
    house_send(fd, bytes, size);
    while (recv(fd, answer, sizeof answer, 0) > 0)
        continue;
    close(fd);
    HOUSE_AWAIT(&house, counts.open == 0);
    CHECK_EQUAL(house_counts(&house).closed_orderly, 0);
    house_close(&house);
}

static void frames_refuse_nonsense(void)
{
    struct {
        struct nr_hello hello;
        struct nr_record record;
    } bad = {good_hello, {1u << 30, 0}};

    frames_refuse("GET / HTTP/1.1\r\n\r\n", 18);
    frames_refuse(&bad, sizeof bad); /* too long */
    bad.record = (struct nr_record){0, NR_RECORD_MORE};
    frames_refuse(&bad, sizeof bad); /* the ring's */
    bad.record = (struct nr_record){4, NR_RECORD_BYE};
    frames_refuse(&bad, sizeof bad);
    bad.record = (struct nr_record){4, 1u << NR_RECORD_FDS_SHIFT};
    frames_refuse(&bad, sizeof bad); /* descriptors */
}

int main(void)
{
    RUN(echo_tcp);
    RUN(echo_unix);
    RUN(slow_peer_is_cut_off);
    RUN(choked_peer_goes_on_when_it_reads);
    RUN(idle_connection_is_ended);
    RUN(connection_limit_lets_the_others_wait);
    RUN(no_descriptor_pauses_accepting);
    RUN(drain_lets_the_queue_go_out);
    RUN(destroyed_with_open_connections);
    RUN(proxy_without_target);
    RUN(proxy_passes_a_reset_on);
    RUN(proxy_half_closes);
    RUN(proxy_delivers_what_a_gone_client_sent);
    RUN(proxy_waits_for_a_full_queue);
    RUN(stalled_proxy_sleeps);
    RUN(frames_in_pieces);
    RUN(frames_refuse_nonsense);
    RUN(proxy_tcp_to_unix);
    RUN(proxy_unix_to_tcp);
    RUN(proxy_one_byte);
    RUN(proxy_nothing);
    return check_finish();
}
