/* Fuzz target: the frames protocol, fed by a peer who cuts its bytes anywhere.
 *
 * The first byte chooses the cut, the rest is the stream. The same stream in one piece and in many
 * must give the same messages and the same end. */
#include <errno.h>
#include <fcntl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "fuzz_main.h"
#include "naru/protocol.h"

#define MOST_BYTES 4096u

struct outcome {
    uint64_t digest;
    unsigned messages;
    bool opened, ended;
    int reason;
};

static int on_frame(struct nr_connection *c, const uint8_t *bytes, size_t size, void *data)
{
    struct outcome *outcome = data;

    FUZZ_REQUIRE(outcome->opened && !outcome->ended && size <= MOST_BYTES);
    outcome->messages++;
    for (size_t i = 0; i < size; i++)
        outcome->digest = (outcome->digest ^ bytes[i]) * 1099511628211u;
    outcome->digest = (outcome->digest ^ size) * 1099511628211u;
    (void)nr_frames_send(c, bytes, size);
    return 0;
}

static int on_open(struct nr_connection *c, void *data)
{
    struct outcome *outcome = data;

    (void)c;
    FUZZ_REQUIRE(!outcome->opened);
    outcome->opened = true;
    return 0;
}

static void on_close(struct nr_connection *c, int reason, void *data)
{
    struct outcome *outcome = data;

    (void)c;
    FUZZ_REQUIRE(outcome->opened && !outcome->ended);
    outcome->ended = true;
    outcome->reason = reason;
}

static struct outcome feed(const uint8_t *data, size_t size, size_t piece)
{
    struct outcome outcome = {0};
    const struct nr_frames_settings frames_settings = {MOST_BYTES, on_frame, on_open, on_close,
                                                       &outcome};
    struct nr_service_settings settings = {.protocol = &nr_protocol_frames,
                                           .input_limit_bytes = MOST_BYTES + 65536};
    struct nr_service_statistics counts;
    struct nr_connection *connection;
    struct nr_engine *engine;
    struct nr_service *service;
    struct nr_frames *frames;
    uint8_t answers[8192];
    int fds[2];

    FUZZ_REQUIRE(nr_engine_create(NULL, &engine) == 0);
    FUZZ_REQUIRE(nr_frames_create(&frames_settings, &frames) == 0);
    settings.context = frames;
    FUZZ_REQUIRE(nr_service_create(engine, &settings, &service) == 0);
    FUZZ_REQUIRE(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, fds) == 0);
    FUZZ_REQUIRE(nr_service_adopt(service, fds[0], NULL, &connection) == 0);
    for (size_t sent = 0; sent < size;) {
        size_t now = size - sent < piece ? size - sent : piece;

        if (send(fds[1], data + sent, now, MSG_NOSIGNAL) < 0)
            break;
        sent += now;
        FUZZ_REQUIRE(nr_engine_run_once(engine, 0) >= 0);
        while (recv(fds[1], answers, sizeof answers, 0) > 0)
            continue;
    }
    (void)shutdown(fds[1], SHUT_WR);
    for (int turn = 0; turn < 100; turn++) {
        FUZZ_REQUIRE(nr_engine_run_once(engine, 0) >= 0);
        while (recv(fds[1], answers, sizeof answers, 0) > 0)
            continue;
    }
    nr_service_read_statistics(service, &counts);
    FUZZ_REQUIRE(counts.open == 0); /* whatever came, the end of the stream ended it */
    nr_service_destroy(service);
    nr_engine_destroy(engine);
    close(fds[1]);
    return outcome;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct outcome whole, pieces;

    if (size == 0)
        return 0;
    whole = feed(data + 1, size - 1, 65536);
    pieces = feed(data + 1, size - 1, data[0] % 32u + 1);
    FUZZ_REQUIRE(whole.opened == pieces.opened && whole.messages == pieces.messages);
    FUZZ_REQUIRE(whole.digest == pieces.digest && whole.ended == pieces.ended);
    FUZZ_REQUIRE(whole.reason == pieces.reason);
    return 0;
}
