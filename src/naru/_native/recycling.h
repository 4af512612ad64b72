/* A bytes object for a message: a used one again, when nobody but us can see it any more.
 *
 * `for message in channel` drops each message before it takes the next but one. Instead of freeing
 * 1 KB and allocating it anew (40 ns: glibc keeps no quick list above 1032 bytes), the last two
 * objects are kept, and one whose only reference is ours is filled again. It is then as unobservable
 * as a new one: no name, container, view or buffer refers to it (each holds a reference), and its
 * cached hash is reset. Rejected: one object; the loop variable still holds it when the next is taken.
 */
#ifndef NARU_RECYCLING_H
#define NARU_RECYCLING_H

#include <Python.h>
#include <string.h>

#define NR_RECYCLE_FROM 256   /* below, allocating is as quick */
#define NR_RECYCLE_TO 65536   /* above, copying hides it, and keeping costs memory */

struct nr_recycled {
    PyObject *kept[2];
    unsigned turn;
};

static inline PyObject *nr_recycle_bytes(struct nr_recycled *r, const void *data, Py_ssize_t size)
{
#if !defined(Py_GIL_DISABLED)
    if (size >= NR_RECYCLE_FROM && size <= NR_RECYCLE_TO) {
        PyObject **slot = &r->kept[r->turn ^= 1], *made = *slot;

        if (made && Py_REFCNT(made) == 1 && PyBytes_GET_SIZE(made) == size) {
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wdeprecated-declarations"
            ((PyBytesObject *)made)->ob_shash = -1;
#pragma GCC diagnostic pop
            memcpy(PyBytes_AS_STRING(made), data, (size_t)size);
            Py_INCREF(made);
            return made;
        }
        made = PyBytes_FromStringAndSize((const char *)data, size);
        if (made) {
            Py_INCREF(made);
            Py_XSETREF(*slot, made);
        }
        return made;
    }
#endif
    return PyBytes_FromStringAndSize((const char *)data, size);
}

static inline void nr_recycle_clear(struct nr_recycled *r)
{
    Py_CLEAR(r->kept[0]);
    Py_CLEAR(r->kept[1]);
}

#endif
