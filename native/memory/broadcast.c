#include "naru/broadcast.h"

#include <fcntl.h>
#include <linux/memfd.h>
#include <stdlib.h>

#ifndef F_SEAL_FUTURE_WRITE
#define F_SEAL_FUTURE_WRITE 0x0010 /* Linux 5.1 */
#endif

#define BYTE_ORDER_MARK 0x01020304u
#define TRIES 16 /* how often a reader that is overtaken while it copies begins anew in one call */

static const uint8_t data_magic[8] = {'N', 'A', 'R', 'U', 'C', 'A', 'S', 'T'};
static const uint8_t slot_magic[8] = {'N', 'A', 'R', 'U', 'S', 'L', 'O', 'T'};

/* ---- the shared memory ---- */

static void write_header(struct nr_segment *segment, uint64_t first_position)
{
    struct nr_broadcast_header *header = (struct nr_broadcast_header *)segment->header;
    struct nr_broadcast_control *control = nr_broadcast_control_of(segment);

    memcpy(header->magic, data_magic, sizeof data_magic);
    header->version = NR_BROADCAST_VERSION;
    header->byte_order = BYTE_ORDER_MARK;
    header->total_bytes = NR_SEGMENT_DATA_OFFSET + segment->capacity[0];
    header->capacity = segment->capacity[0];
    header->first_position = first_position;
    segment->first_position = first_position;
    atomic_store(&control->tail, first_position);
    atomic_store(&control->newest, first_position);
    atomic_store(&control->floor, first_position);
}

int nr_broadcast_create(uint64_t capacity, uint64_t first_position, struct nr_segment **segment,
                        int *fd)
{
    int made, result;

    if (capacity == 0 || capacity > NR_SEGMENT_MAX_CAPACITY || first_position & 7u)
        return -EINVAL;
    capacity = (capacity + NR_SEGMENT_PAGE - 1) & ~(uint64_t)(NR_SEGMENT_PAGE - 1);
    made = nr_os_memfd("naru");
    if (made < 0)
        return made;
    result = nr_os_allocate(made, NR_SEGMENT_DATA_OFFSET + capacity);
    if (result == 0)
        result = nr_segment_map_one(made, capacity, true, segment);
    if (result < 0) {
        nr_os_close(made);
        return result;
    }
    write_header(*segment, first_position);
    /* After the writer's own mapping: from here on nobody can make another that is writable. */
    result = nr_os_add_seals(made, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_FUTURE_WRITE | F_SEAL_SEAL);
    if (result < 0) {
        nr_segment_release(*segment);
        nr_os_close(made);
        return result;
    }
    *fd = made;
    return 0;
}

static bool is_sealed(int fd)
{
    const int required = F_SEAL_SHRINK | F_SEAL_GROW;
    int seals = nr_os_get_seals(fd);

    return seals >= 0 && (seals & required) == required;
}

/* Checks a private copy of the header against the file that it came in. */
static int check_header(const struct nr_broadcast_header *header, uint64_t file_bytes)
{
    if (memcmp(header->magic, data_magic, sizeof data_magic) != 0)
        return -EPROTO;
    if (header->version != NR_BROADCAST_VERSION || header->byte_order != BYTE_ORDER_MARK)
        return -EPROTONOSUPPORT;
    if (header->capacity == 0 || header->capacity > NR_SEGMENT_MAX_CAPACITY ||
        header->capacity % NR_SEGMENT_PAGE != 0 || header->first_position & 7u)
        return -EBADMSG;
    if (header->total_bytes != NR_SEGMENT_DATA_OFFSET + header->capacity ||
        header->total_bytes != file_bytes)
        return -EBADMSG;
    return 0;
}

int nr_broadcast_map(int fd, struct nr_segment **segment)
{
    struct nr_broadcast_header header;
    int64_t file_bytes = nr_os_file_size(fd);
    void *mapped;
    int result;

    if (!is_sealed(fd) || file_bytes < (int64_t)(NR_SEGMENT_DATA_OFFSET + NR_SEGMENT_PAGE))
        return -EPROTO; /* its owner could truncate it under us (SIGBUS) */
    result = nr_os_map_readable(NULL, NR_SEGMENT_PAGE, fd, 0, &mapped);
    if (result < 0)
        return result == -EPERM || result == -EACCES ? -EPROTO : result;
    memcpy(&header, mapped, sizeof header); /* the writer may write on: one copy is checked and used */
    atomic_signal_fence(memory_order_seq_cst);
    nr_os_unmap(mapped, NR_SEGMENT_PAGE);
    result = check_header(&header, (uint64_t)file_bytes);
    if (result == 0)
        result = nr_segment_map_one(fd, header.capacity, false, segment);
    if (result == 0)
        (*segment)->first_position = header.first_position;
    return result;
}

int nr_broadcast_slot_create(enum nr_policy policy, uint64_t start, uint64_t start_sequence)
{
    struct nr_broadcast_slot *slot;
    void *mapped;
    int fd = nr_os_memfd("naru");
    int result;

    if (fd < 0)
        return fd;
    result = nr_os_allocate(fd, sizeof *slot);
    if (result == 0)
        result = nr_os_map(NULL, sizeof *slot, fd, 0, &mapped);
    if (result == 0) {
        slot = mapped;
        memcpy(slot->magic, slot_magic, sizeof slot_magic);
        slot->version = NR_BROADCAST_VERSION;
        slot->byte_order = BYTE_ORDER_MARK;
        slot->policy = policy;
        slot->start = start;
        slot->start_sequence = start_sequence;
        atomic_store(&slot->cursor, start);
        nr_os_unmap(mapped, sizeof *slot);
        result = nr_os_add_seals(fd, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL);
    }
    if (result < 0) {
        nr_os_close(fd);
        return result;
    }
    return fd;
}

int nr_broadcast_slot_map(int fd, struct nr_broadcast_slot **slot)
{
    struct nr_broadcast_slot *made;
    void *mapped;
    int result = 0;

    if (!is_sealed(fd) || nr_os_file_size(fd) != sizeof *made)
        return -EPROTO;
    result = nr_os_map(NULL, sizeof *made, fd, 0, &mapped);
    if (result < 0)
        return result == -EPERM || result == -EACCES ? -EPROTO : result;
    made = mapped;
    if (memcmp(made->magic, slot_magic, sizeof slot_magic) != 0)
        result = -EPROTO;
    else if (made->version != NR_BROADCAST_VERSION || made->byte_order != BYTE_ORDER_MARK)
        result = -EPROTONOSUPPORT;
    if (result < 0)
        nr_os_unmap(mapped, sizeof *made);
    else
        *slot = made;
    return result;
}

void nr_broadcast_slot_unmap(struct nr_broadcast_slot *slot)
{
    if (slot)
        nr_os_unmap(slot, sizeof *slot);
}

/* ---- bytes that may be read while they are overwritten ----
 * A torn copy is thrown away after a look at the floor. TSan knows neither that nor fences: for it,
 * the words are atomic. */

#if defined(__SANITIZE_THREAD__)
static void copy_words(uint8_t *to, const uint8_t *from, uint64_t size)
{
    for (uint64_t i = 0; i < size; i += 8) {
        uint64_t word = atomic_load_explicit((const _Atomic uint64_t *)(from + i),
                                             memory_order_relaxed);

        atomic_store_explicit((_Atomic uint64_t *)(to + i), word, memory_order_relaxed);
    }
}

void nr_broadcast_fill(uint8_t *place, const void *data, uint64_t size)
{
    uint64_t word;

    for (uint64_t i = 0; i < size; i += 8) {
        word = 0;
        memcpy(&word, (const uint8_t *)data + i, size - i < 8 ? size - i : 8);
        atomic_store_explicit((_Atomic uint64_t *)(place + i), word, memory_order_relaxed);
    }
}
#define FENCE(order) atomic_signal_fence(memory_order_seq_cst)
#else
#define copy_words memcpy
#define FENCE(order) atomic_thread_fence(order)

void nr_broadcast_fill(uint8_t *place, const void *data, uint64_t size)
{
    memcpy(place, data, size);
}
#endif

static inline void hand_over(bool fences)
{
    if (fences)
        FENCE(memory_order_seq_cst);
    atomic_signal_fence(memory_order_seq_cst);
}

/* ---- the writer ---- */

void nr_broadcast_writer_start(struct nr_broadcast_writer *writer, const struct nr_segment *segment)
{
    memset(writer, 0, sizeof *writer);
    writer->control = nr_broadcast_control_of(segment);
    writer->data = segment->data[0];
    writer->capacity = segment->capacity[0];
    writer->newest = writer->floor = writer->published = segment->first_position;
    writer->offset = writer->floor_offset = segment->first_position % segment->capacity[0];
    atomic_store_explicit(&writer->position, segment->first_position, memory_order_relaxed);
}

static inline uint64_t step(uint64_t offset, uint64_t bytes, uint64_t capacity)
{
    offset += bytes;
    return offset >= capacity ? offset - capacity : offset;
}

/* Gives up the oldest records until `need` bytes are free. Their headers are the writer's own, and
 * their lines are those which it is about to write to. */
static void raise_floor(struct nr_broadcast_writer *writer, uint64_t need)
{
    uint64_t position = nr_broadcast_position(writer);

    while (position + need - writer->floor > writer->capacity) {
        uint32_t length;
        uint64_t bytes;

        memcpy(&length, writer->data + writer->floor_offset, sizeof length);
        bytes = nr_broadcast_need(length);
        writer->floor += bytes;
        writer->floor_offset = step(writer->floor_offset, bytes, writer->capacity);
    }
    /* Release: whoever sees this floor sees a tail that is not behind it. The fence: before the first
     * byte over the old ones. pairs with: copy_run */
    atomic_store_explicit(&writer->control->floor, writer->floor, memory_order_release);
    FENCE(memory_order_release);
}

uint8_t *nr_broadcast_reserve(struct nr_broadcast_writer *writer, uint64_t size)
{
    uint64_t need = nr_broadcast_need(size);

    if (nr_broadcast_position(writer) - writer->published > writer->capacity / 4)
        nr_broadcast_publish(writer); /* or a long batch would push the floor past the tail */
    if (nr_broadcast_position(writer) + need - writer->floor > writer->capacity)
        raise_floor(writer, need);
    return writer->data + writer->offset + NR_BROADCAST_RECORD;
}

void nr_broadcast_commit(struct nr_broadcast_writer *writer, uint64_t size)
{
    struct nr_broadcast_record record = {(uint32_t)size, 0, writer->sequence++};
    uint64_t position = nr_broadcast_position(writer);

    nr_broadcast_fill(writer->data + writer->offset, &record, sizeof record);
    writer->newest = position;
    writer->offset = step(writer->offset, nr_broadcast_need(size), writer->capacity);
    atomic_store_explicit(&writer->position, position + nr_broadcast_need(size),
                          memory_order_relaxed);
}

void nr_broadcast_publish(struct nr_broadcast_writer *writer)
{
    writer->published = nr_broadcast_position(writer);
    /* pairs with: look_at_tail */
    atomic_store_explicit(&writer->control->tail, writer->published, memory_order_release);
    /* After the tail: whoever sees it may read the whole record. pairs with: go_to_newest */
    atomic_store_explicit(&writer->control->newest, writer->newest, memory_order_release);
    hand_over(writer->fences);
}

void nr_broadcast_join(const struct nr_broadcast_writer *writer, uint64_t *start,
                       uint64_t *sequence)
{
    bool any = writer->sequence > 0;

    *start = any ? writer->newest : nr_broadcast_position(writer);
    *sequence = any ? writer->sequence - 1 : 0;
}

int nr_broadcast_cursor(const struct nr_broadcast_writer *writer,
                        const struct nr_broadcast_slot *slot, uint64_t before, uint64_t *cursor)
{
    /* pairs with: nr_broadcast_release */
    uint64_t at = atomic_load_explicit(&slot->cursor, memory_order_acquire);

    if (at & 7u || at - before > nr_broadcast_position(writer) - before)
        return -EBADMSG;
    *cursor = at;
    return 0;
}

void nr_broadcast_writer_announces(struct nr_broadcast_slot *slot, uint64_t cursor)
{
    atomic_store_explicit(&slot->writer_wants, cursor, memory_order_seq_cst);
}

void nr_broadcast_barrier(bool fences)
{
    FENCE(memory_order_seq_cst);
    if (!fences)
        (void)nr_os_barrier(); /* registered when the process started: it cannot fail */
}

/* ---- a reader ---- */

int nr_broadcast_reader_start(struct nr_broadcast_reader *reader, const struct nr_segment *segment,
                              struct nr_broadcast_slot *slot, bool fences)
{
    uint32_t policy = slot->policy;
    uint64_t start = slot->start;

    if (policy > NR_POLICY_LATEST || start & 7u)
        return -EBADMSG;
    memset(reader, 0, sizeof *reader);
    if (policy != NR_POLICY_BLOCK) {
        /* Never all of it is touched unless messages are that large. */
        reader->arena.size = segment->capacity[0] / 2 + NR_BROADCAST_RUN;
        reader->arena.bytes = malloc(reader->arena.size);
        if (!reader->arena.bytes)
            return -ENOMEM;
    }
    reader->control = nr_broadcast_control_of(segment);
    reader->data = segment->data[0];
    reader->capacity = segment->capacity[0];
    reader->slot = slot;
    reader->policy = policy;
    reader->fences = fences;
    reader->sequence = slot->start_sequence;
    reader->limit = reader->released = start;
    reader->offset = start % reader->capacity;
    atomic_store_explicit(&reader->position, start, memory_order_relaxed);
    return 0;
}

void nr_broadcast_reader_stop(struct nr_broadcast_reader *reader)
{
    nr_broadcast_slot_unmap(reader->slot);
    reader->slot = NULL;
}

void nr_broadcast_reader_free(struct nr_broadcast_reader *reader)
{
    free(reader->arena.bytes);
    reader->arena.bytes = NULL;
}

static inline uint64_t position_of(const struct nr_broadcast_reader *reader)
{
    return atomic_load_explicit(&reader->position, memory_order_relaxed);
}

static inline void move_to(struct nr_broadcast_reader *reader, uint64_t position)
{
    atomic_store_explicit(&reader->position, position, memory_order_relaxed);
}

/* Is `a` at or behind `b`? Positions may wrap around 2^64. */
static inline bool is_ahead(uint64_t a, uint64_t b) { return (int64_t)(a - b) > 0; }

static inline uint64_t look_at_tail(const struct nr_broadcast_reader *reader)
{
    return atomic_load_explicit(&reader->control->tail, memory_order_acquire);
}

static inline uint64_t look_at_floor(const struct nr_broadcast_reader *reader)
{
    return atomic_load_explicit(&reader->control->floor, memory_order_acquire);
}

/* The size of a record with header and padding; 0 when its header is nonsense. */
static uint64_t check_record(const struct nr_broadcast_reader *reader,
                             const struct nr_broadcast_record *record)
{
    if (record->flags != 0 || record->length > nr_broadcast_max_message(reader->capacity))
        return 0;
    return nr_broadcast_need(record->length);
}

static int next_in_place(struct nr_broadcast_reader *reader, const uint8_t **payload,
                         uint64_t *size)
{
    uint64_t cursor = position_of(reader), available = reader->limit - cursor, need;
    struct nr_broadcast_record record;
    const uint8_t *place;

    if (available == 0) {
        reader->limit = look_at_tail(reader);
        available = reader->limit - cursor;
        if (available == 0)
            return -EAGAIN;
        if (reader->limit - reader->released > reader->capacity ||
            available > reader->capacity || available & 7u) {
            reader->limit = cursor;
            return -EBADMSG;
        }
    }
    /* from the first unreleased byte on, so that a batch is one contiguous run of addresses */
    place = reader->data + reader->offset + (cursor - reader->released);
    /* Words, so that the compiler may not fetch them again after the checks: the writer may lie. */
    for (int i = 0; i < 2; i++)
        ((uint64_t *)&record)[i] =
            atomic_load_explicit((const _Atomic uint64_t *)place + i, memory_order_relaxed);
    need = check_record(reader, &record);
    if (need == 0 || need > available || record.sequence != reader->sequence)
        return -EBADMSG;
    reader->sequence++;
    reader->out = true;
    move_to(reader, cursor + need);
    *payload = place + NR_BROADCAST_RECORD;
    *size = record.length;
    return 1;
}

/* The next whole record of the private copy: 1, 0 when there is none (and the rest is dropped), or
 * -EBADMSG. `*need` is what a record that was cut off would take. */
static int next_in_arena(struct nr_broadcast_reader *reader, const uint8_t **payload,
                         uint64_t *size, uint64_t *need)
{
    uint64_t rest = reader->arena.end - reader->arena.next, bytes;
    const uint8_t *place = reader->arena.bytes + reader->arena.next;
    struct nr_broadcast_record record;

    if (rest < sizeof record) {
        reader->arena.end = reader->arena.next;
        return 0;
    }
    memcpy(&record, place, sizeof record);
    bytes = check_record(reader, &record);
    if (bytes == 0)
        return -EBADMSG;
    if (bytes > rest) {
        reader->arena.end = reader->arena.next;
        *need = bytes;
        return 0;
    }
    if (record.sequence - reader->sequence > INT64_MAX)
        return -EBADMSG; /* numbers only grow */
    reader->lost += record.sequence - reader->sequence;
    reader->sequence = record.sequence + 1;
    reader->arena.next += bytes;
    move_to(reader, position_of(reader) + bytes);
    *payload = place + NR_BROADCAST_RECORD;
    *size = record.length;
    return 1;
}

/* Copies records from the cursor on, at least `need` bytes: 1; 0 when the writer overtook, look
 * again; -EAGAIN, -ENOBUFS, -EBADMSG. */
static int copy_run(struct nr_broadcast_reader *reader, uint64_t need)
{
    uint64_t cursor = position_of(reader), floor = look_at_floor(reader);
    uint64_t tail = look_at_tail(reader), run, passed;

    if (tail == cursor)
        return -EAGAIN;
    if (tail & 7u || floor & 7u || is_ahead(cursor, tail) || is_ahead(floor, tail))
        return -EBADMSG; /* in this order of the looks, a floor is never ahead of the tail */
    if (is_ahead(floor, cursor)) {
        cursor = floor;
        move_to(reader, cursor);
        need = 0;
    }
    run = tail - cursor;
    if (run < NR_BROADCAST_RECORD || need > run)
        return run == 0 ? -EAGAIN : -EBADMSG;
    if (run > NR_BROADCAST_RUN)
        run = need > NR_BROADCAST_RUN ? need : NR_BROADCAST_RUN;
    if (run > reader->capacity)
        run = reader->capacity;
    if (reader->arena.size - reader->arena.end < run) {
        if (reader->out)
            return -ENOBUFS;
        reader->arena.next = reader->arena.end = 0;
    }
    copy_words(reader->arena.bytes + reader->arena.end, reader->data + cursor % reader->capacity,
               run);
    /* Whatever was read above was not overwritten as long as the floor has not come to it.
     * pairs with: raise_floor */
    FENCE(memory_order_acquire);
    floor = look_at_floor(reader);
    passed = is_ahead(floor, cursor) ? floor - cursor : 0;
    if (tail - cursor > reader->capacity + passed)
        return -EBADMSG; /* that tail needed a floor that is higher by now */
    if (passed >= run) {
        move_to(reader, floor);
        return 0;
    }
    if (passed && reader->out)
        return -ENOBUFS; /* the batch that is out would not be contiguous */
    move_to(reader, cursor + passed);
    reader->arena.next = reader->arena.end + passed;
    reader->arena.end += run;
    return 1;
}

/* `latest`: whatever lies before the newest record is not wanted. True when that was something. */
static bool go_to_newest(struct nr_broadcast_reader *reader)
{
    uint64_t newest = atomic_load_explicit(&reader->control->newest, memory_order_acquire);

    if (!is_ahead(newest, position_of(reader)))
        return false;
    move_to(reader, newest);
    reader->arena.next = reader->arena.end;
    return true;
}

static int next_copied(struct nr_broadcast_reader *reader, const uint8_t **payload, uint64_t *size)
{
    const bool latest = reader->policy == NR_POLICY_LATEST;
    uint64_t need = 0;
    int result, found = 0;

    if (latest && reader->out)
        return nr_broadcast_has_record(reader) ? -ENOBUFS : -EAGAIN; /* the newest is a whole batch */
    for (int tries = 0; tries < TRIES; tries++) {
        if (latest && go_to_newest(reader))
            need = 0;
        do { /* latest: the last one of the copy */
            result = next_in_arena(reader, payload, size, &need);
            reader->lost += result == 1 && found; /* the one before is passed over */
            found |= result == 1;
        } while (result == 1 && latest);
        if (result < 0)
            return result;
        if (found) {
            reader->out = true;
            return 1;
        }
        if (latest && !nr_broadcast_has_record(reader))
            return -EAGAIN;
        result = copy_run(reader, need);
        if (result < 0)
            return result;
    }
    return -EAGAIN; /* the writer is faster than a copy: the caller may look at something else */
}

int nr_broadcast_next(struct nr_broadcast_reader *reader, const uint8_t **payload, uint64_t *size)
{
    return reader->policy == NR_POLICY_BLOCK ? next_in_place(reader, payload, size)
                                             : next_copied(reader, payload, size);
}

bool nr_broadcast_release(struct nr_broadcast_reader *reader)
{
    uint64_t position = position_of(reader), wants;

    reader->out = false;
    if (reader->policy == NR_POLICY_BLOCK)
        reader->offset = step(reader->offset, position - reader->released, reader->capacity);
    reader->released = position;
    if (reader->arena.next == reader->arena.end)
        reader->arena.next = reader->arena.end = 0;
    /* pairs with: nr_broadcast_cursor */
    atomic_store_explicit(&reader->slot->cursor, position, memory_order_release);
    if (reader->policy != NR_POLICY_BLOCK) {
        atomic_store_explicit(&reader->slot->lost, reader->lost, memory_order_relaxed);
        return false;
    }
    hand_over(reader->fences);
    /* pairs with: nr_broadcast_writer_announces */
    wants = atomic_load_explicit(&reader->slot->writer_wants, memory_order_relaxed);
    if (__builtin_expect(wants == 0, 1) || is_ahead(wants, position))
        return false;
    atomic_store_explicit(&reader->slot->writer_wants, 0, memory_order_relaxed);
    return true;
}

bool nr_broadcast_has_record(const struct nr_broadcast_reader *reader)
{
    uint64_t position = position_of(reader);

    if (reader->policy == NR_POLICY_LATEST) {
        /* Between its tail and its newest, a writer has published nothing yet. */
        uint64_t newest = atomic_load_explicit(&reader->control->newest, memory_order_acquire);

        return !is_ahead(position, newest) && look_at_tail(reader) != position;
    }
    return look_at_tail(reader) != position;
}

bool nr_broadcast_reader_falls_asleep(struct nr_broadcast_reader *reader)
{
    atomic_store_explicit(&reader->slot->reader_sleeps, 1, memory_order_seq_cst);
    nr_broadcast_barrier(reader->fences);
    if (!nr_broadcast_has_record(reader))
        return false;
    nr_broadcast_reader_wakes(reader);
    return true;
}

void nr_broadcast_reader_wakes(struct nr_broadcast_reader *reader)
{
    atomic_store_explicit(&reader->slot->reader_sleeps, 0, memory_order_relaxed);
}

uint64_t nr_broadcast_depth_bytes(const struct nr_broadcast_reader *reader)
{
    uint64_t depth = look_at_tail(reader) - position_of(reader);

    return depth > reader->capacity ? reader->capacity : depth;
}
