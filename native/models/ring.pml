/* The ring of naru/ring.h and its sleeping, for spin.
 *
 * What it says. A producer and a consumer, each with its own cached copy of the other's position,
 * step by step as in ring.h and ring.c: reserve, write, commit, publish or batch, wake; next, hold,
 * release, wake; announce sleep, look again, poll the doorbell. The producer may be killed before
 * any of its steps. Records are one or two cells, so that they can be torn. Checked in all
 * interleavings:
 *     records come in order and whole              (assertions of the consumer)
 *     what is not released is not overwritten      (held records are compared again at release)
 *     no wake-up is lost                           (no invalid end state: nobody sleeps for ever;
 *                                                   a producer that is done does not hang up, so
 *                                                   that the hang-up cannot hide a lost wake-up)
 *     a dead producer leaves whole records only, and the consumer comes to an end
 *
 * Memory. Stores go through a FIFO store buffer for each side, loads see their own stores first:
 * the model of x86 (TSO). With -DFENCES each hand-over drains its buffer, as when a peer has no
 * membarrier(2); without, the sleeper's membarrier drains both. Entering the kernel to ring or to
 * drain a doorbell drains the buffer (the eventfd is under a lock).
 *
 * What it does not say. Nothing about weaker memories (aarch64): there, loads may pass loads and
 * stores may pass stores, which FIFO buffers never do; that the acquire and release orders of
 * ring.h suffice there is an argument from the C11 memory model and not this one. Nothing about
 * compilers, wrapping positions, or liars: those are the C tests' matter. One producer, one
 * consumer, RECORDS records in a ring of CAPACITY cells.
 *
 * Each -D below plants a bug, which spin must find; check.sh runs them all.
 *     SWAPPED_STORES    the tail is published before the record is written
 *     NO_SECOND_LOOK    the consumer announces its sleep and polls at once
 *     NO_SECOND_LOOK_2  likewise the producer
 *     NO_BARRIER        no membarrier between the announcement and the second look
 *     EARLY_CALL        the producer reads the sleep word before it publishes
 *     NO_CALL           a consumer that sleeps on unreleased records does not wake the producer
 *     EARLY_RELEASE     the consumer releases what it still reads
 *     FULL_BY_ONE       the producer takes one cell more than is free */

#ifndef RECORDS
#define RECORDS 4
#endif
#define CAPACITY 4
#define LARGEST 2       /* cells of a record: a header, or a header and a payload */
#define WISH 3          /* what a sleeping producer waits for; larger than a record, as in ring.c */
#define BUFFER 2        /* stores that a CPU may hold back */

/* Shared memory: the cells, then the control words. */
#define TAIL CAPACITY
#define HEAD (CAPACITY + 1)
#define SLEEPS (CAPACITY + 2)
#define WANTS (CAPACITY + 3)
byte memory[CAPACITY + 4];

#define PRODUCER 0
#define CONSUMER 1
chan stores[2] = [BUFFER] of {byte, byte};
byte own_zeroes[2];     /* buffered: the producer's SLEEPS = 0, the consumer's WANTS = 0 */

bool data_bell, space_bell, killed, hung_up;

#define header(number, cells) ((number) * 4 + (cells))
#define payload(number) (128 + (number))

inline store(side, word, value) { stores[side]!word, value }

inline store_zero(side, word)
{
    atomic {
        stores[side]!word, 0;
        own_zeroes[side]++
    }
}

/* A load of the word that both sides write: the own buffered zero is newer than the memory. */
#define load_own(side, word) (own_zeroes[side] > 0 -> 0 : memory[word])

inline drain(side) { empty(stores[side]) }

/* ring.h: nr_ring_hand_over */
inline hand_over(side)
{
#ifdef FENCES
    drain(side)
#else
    skip
#endif
}

/* ring.c: sleeper_barrier */
inline sleeper_barrier(side)
{
    drain(side);
#if !defined(FENCES) && !defined(NO_BARRIER)
    atomic { empty(stores[PRODUCER]) && empty(stores[CONSUMER]) }
#endif
}

inline ring_bell(side, bell)
{
    atomic {
        drain(side);
        bell = true
    }
}

/* ---- producer ---- */

inline wake_consumer()
{
    if
    :: load_own(PRODUCER, SLEEPS) != 0 ->
        store_zero(PRODUCER, SLEEPS);
        ring_bell(PRODUCER, data_bell)
    :: else
    fi
}

inline publish()
{
#ifdef EARLY_CALL
    wake_consumer();
    store(PRODUCER, TAIL, position)
#else
    store(PRODUCER, TAIL, position);
    hand_over(PRODUCER);
    wake_consumer()
#endif
}

#ifdef FULL_BY_ONE
#define FREE (CAPACITY + 1 - (position - limit))
#else
#define FREE (CAPACITY - (position - limit))
#endif

inline producer_sleeps()
{
    store(PRODUCER, WANTS, WISH);
    sleeper_barrier(PRODUCER);
#ifndef NO_SECOND_LOOK_2
    limit = memory[HEAD];
#endif
    if
    :: FREE >= need
    :: else ->
        space_bell; /* poll */
        store(PRODUCER, WANTS, 0);
        drain(PRODUCER);
        space_bell = false
    fi;
    store(PRODUCER, WANTS, 0)
}

inline write_record()
{
    store(PRODUCER, position % CAPACITY, header(number, need));
    if
    :: need == 2 -> store(PRODUCER, (position + 1) % CAPACITY, payload(number))
    :: else
    fi
}

active proctype producer()
{
    byte number, position, limit, need;

    {
        do
        :: number == RECORDS -> break
        :: number < RECORDS ->
            if
            :: need = 1
            :: need = 2
            fi;
            do
            :: FREE >= need -> break
            :: FREE < need ->
                limit = memory[HEAD];
                assert(position - limit <= CAPACITY);
                if
                :: FREE >= need
                :: else ->
                    publish(); /* a batch, before sleeping on it */
                    producer_sleeps()
                fi
            od;
#ifdef SWAPPED_STORES
            position = position + need;
            publish();
            position = position - need;
#endif
            write_record();
            atomic {
                position = position + need;
                number++
            };
            if
            :: publish()
            :: number < RECORDS -> skip /* later, with the next */
            fi
        od
    } unless {
        killed ->
            drain(PRODUCER); /* what the CPU has retired reaches the memory */
            hung_up = true
    }
}

/* ---- consumer ---- */

inline wake_producer()
{
    wants = load_own(CONSUMER, WANTS);
    if
    :: wants != 0 ->
        tail = memory[TAIL];
        if
        :: tail == position || CAPACITY - (tail - released) >= wants ->
            store_zero(CONSUMER, WANTS);
            ring_bell(CONSUMER, space_bell)
        :: else
        fi
    :: else
    fi;
    wants = 0;
    tail = 0
}

/* Everything from the last release up to `position` is still what it was. */
inline compare_held()
{
    d_step {
        tail = released;
        wants = first_held;
        do
        :: tail < position ->
            assert(memory[tail % CAPACITY] / 4 == wants);
            if
            :: memory[tail % CAPACITY] % 4 == 2 ->
                assert(memory[(tail + 1) % CAPACITY] == payload(wants));
                tail = tail + 2
            :: else -> tail++
            fi;
            wants++
        :: else -> break
        od;
        assert(tail == position && wants == number);
        tail = 0;
        wants = 0
    }
}

inline release()
{
    compare_held();
    atomic {
        released = position;
        first_held = number
    };
    store(CONSUMER, HEAD, released);
    hand_over(CONSUMER);
    wake_producer()
}

inline consumer_sleeps()
{
    store(CONSUMER, SLEEPS, 1);
    sleeper_barrier(CONSUMER);
    if
#ifndef NO_SECOND_LOOK
    :: memory[TAIL] != position -> store(CONSUMER, SLEEPS, 0)
    :: memory[TAIL] == position ->
#else
    :: true ->
#endif
#ifndef NO_CALL
        if
        :: released != position -> wake_producer()
        :: else
        fi;
#endif
        if /* poll */
        :: data_bell
        :: hung_up && !data_bell ->
            if
            :: memory[TAIL] == position -> goto the_end
            :: else
            fi
        fi;
        store(CONSUMER, SLEEPS, 0);
        drain(CONSUMER);
        data_bell = false
    fi
}

active proctype consumer()
{
    byte number, position, limit, released, first_held, wants, tail;

    do
    :: number == RECORDS -> break
    :: number < RECORDS && limit == position ->
        limit = memory[TAIL];
        assert(limit - position <= CAPACITY && limit - released <= CAPACITY);
        if
        :: limit != position
        :: limit == position && position - released > CAPACITY - LARGEST ->
            release() /* who holds so much and waits for more is to blame himself */
        :: else -> consumer_sleeps()
        fi
    :: number < RECORDS && limit != position ->
        atomic {
            assert(memory[position % CAPACITY] == header(number, 1) ||
                   memory[position % CAPACITY] == header(number, 2));
            if
            :: memory[position % CAPACITY] % 4 == 2 ->
                assert(memory[(position + 1) % CAPACITY] == payload(number));
                position = position + 2
            :: else -> position++
            fi;
            number++;
            assert(limit - position <= CAPACITY) /* the record was published whole */
        };
#ifdef EARLY_RELEASE
        store(CONSUMER, HEAD, position);
#endif
        if
        :: release()
        :: number < RECORDS -> skip /* held, and released with a later one */
        fi
    od;
the_end:
    skip
}

/* ---- the machine ---- */

inline retire(side)
{
    atomic {
        stores[side]?word, value ->
        memory[word] = value;
        if
        :: value == 0 && word == SLEEPS && side == PRODUCER -> own_zeroes[PRODUCER]--
        :: value == 0 && word == WANTS && side == CONSUMER -> own_zeroes[CONSUMER]--
        :: else
        fi;
        word = 0;
        value = 0
    }
}

active proctype retirement()
{
    byte word, value;

end:
    do
    :: retire(PRODUCER)
    :: retire(CONSUMER)
    od
}

active proctype killer()
{
    if
    :: killed = true
    :: skip
    fi
}
