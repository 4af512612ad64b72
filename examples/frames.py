"""Frames in place: a camera writes into shared memory, a viewer reads there; nothing is copied.

    python examples/frames.py

Needs numpy (`naru-ipc[arrays]`). `reserve` lends the sender a piece of the ring to write into,
`lease` lends the receiver the same bytes to read. `lease_many` lends many messages, and its
`array(dtype)` is all of them as one array.
"""

from __future__ import annotations

import multiprocessing
import sys
import time

import numpy

import naru

SHAPE = (480, 640, 3)
FRAME_BYTES = 480 * 640 * 3
FRAMES = 200
SAMPLES = 10_000
CHANNELS = 16  # one sample: 16 float64


def camera(viewer: naru.Channel) -> None:
    with viewer:
        for number in range(FRAMES):
            with viewer.reserve(FRAME_BYTES) as view:
                frame = numpy.frombuffer(view, dtype="u1").reshape(SHAPE)
                frame[:] = number % 256  # drawn straight into the ring
                del frame  # an array of it must not outlive the block: here the frame is sent
        sample = numpy.arange(CHANNELS, dtype="f8")
        for first in range(0, SAMPLES, 64):
            last = min(first + 64, SAMPLES)
            viewer.send_many([(sample + number).tobytes() for number in range(first, last)])


def watch_frames(camera_end: naru.Channel) -> None:
    brightness, started = 0.0, 0.0
    for number in range(FRAMES):
        with camera_end.lease(timeout_s=10) as view:
            if number == 0:  # from here on: before, the camera's process was starting
                started = time.perf_counter()
            frame = numpy.frombuffer(view, dtype="u1").reshape(SHAPE)
            brightness += float(frame[::8, ::8].mean())
            del frame
    took_s = time.perf_counter() - started
    print(
        f"{FRAMES} frames of {FRAME_BYTES} bytes, mean brightness {brightness / FRAMES:.1f}, "
        f"{FRAMES * FRAME_BYTES / took_s / 1e9:.1f} GB/s"
    )


def watch_samples(camera_end: naru.Channel) -> None:
    count, total = 0, 0.0
    while count < SAMPLES:
        with camera_end.lease_many(512, timeout_s=10) as batch:
            samples = batch.array("f8")  # shape (messages, 16), read-only, strided over the ring
            count += samples.shape[0]
            total += float(samples[:, 0].sum())
            del samples
    print(f"{count} samples, sum of their first column {total:.0f}")


def main() -> int:
    near, far = naru.pair("shm:?capacity_bytes=8MiB")
    process = multiprocessing.get_context("spawn").Process(target=camera, args=(far,))
    process.start()
    far.close()  # the camera has it now
    with near:
        watch_frames(near)
        watch_samples(near)
    process.join()
    return process.exitcode or 0


if __name__ == "__main__":
    sys.exit(main())
