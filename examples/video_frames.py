"""Video between two processes: a camera computes frames in shared memory, a viewer reads them there.

    python examples/video_frames.py              # 300 frames of 1920 x 1080
    python examples/video_frames.py 2000         # so many

Needs numpy (`naru-ipc[arrays]`). `reserve_array` lends the camera an array in the ring, `lease_array`
lends the viewer the same one: shape, dtype and order come with it, and no pixel is copied between the
two. At the end the camera sends an ordinary object on the same channel.
"""

from __future__ import annotations

import multiprocessing
import sys
import time

import naru

SHAPE = (1080, 1920, 3)
FRAMES_IN_RING = 4
FRAME_BYTES = 1080 * 1920 * 3


def camera(viewer: naru.Channel, frames: int) -> None:
    with viewer:
        viewer.receive()  # the viewer is ready
        started_s = time.process_time()
        for number in range(frames):
            with viewer.reserve_array(SHAPE, "u1") as frame:
                frame[:] = number % 256  # drawn straight into the ring
                frame[number % SHAPE[0]] = 255  # a line that moves
        viewer.send_object({"frames": frames, "cpu_s": time.process_time() - started_s})


def watch(camera_end: naru.Channel, frames: int) -> None:
    camera_end.send(b"ready")
    cpu_s, started_s, light = time.process_time(), time.perf_counter(), 0.0
    for _ in range(frames):
        with camera_end.lease_array(timeout_s=10) as frame:
            light += float(frame[::8, ::8].mean())
    took_s, cpu_s = time.perf_counter() - started_s, time.process_time() - cpu_s
    done = camera_end.receive_object(dict, timeout_s=10)
    print(
        f"{done['frames']} frames of {SHAPE[1]} x {SHAPE[0]}, mean brightness {light / frames:.1f}"
    )
    print(f"{frames / took_s:.0f} frames/s, {frames * FRAME_BYTES / took_s / 1e9:.2f} GB/s")
    print(f"CPU seconds: camera {done['cpu_s']:.3f}, viewer {cpu_s:.3f}")


def main() -> int:
    frames = int(sys.argv[1]) if len(sys.argv) > 1 else 300
    near, far = naru.pair(f"shm:?capacity_bytes={FRAMES_IN_RING * (FRAME_BYTES + 4096)}")
    process = multiprocessing.get_context("spawn").Process(target=camera, args=(far, frames))
    process.start()
    far.close()  # the camera has it now
    with near:
        watch(near, frames)
    process.join()
    return process.exitcode or 0


if __name__ == "__main__":
    sys.exit(main())
