"""The C library's allocator, told to keep big blocks.

glibc gives every block above 32 MB back to the kernel at once, and each step of a training asks for several of them
anew: the page faults can halve the speed on a processor. Raising the mmap and trim thresholds keeps the blocks in the
process; the peak stays what it was. Same as MALLOC_MMAP_THRESHOLD_ and MALLOC_TRIM_THRESHOLD_ in the environment.
VIVA_MALLOC=0 switches it off.
"""

import ctypes
import os
import platform

M_TRIM_THRESHOLD = -1
M_MMAP_THRESHOLD = -3
BYTES = 2**31 - 1  # mallopt takes an int


def keep_big_blocks() -> bool:
    """Raise glibc's thresholds; returns whether it was done (Linux with glibc only)."""
    if platform.libc_ver()[0] != "glibc" or os.environ.get("VIVA_MALLOC") == "0":
        return False
    libc = ctypes.CDLL(None)
    return bool(libc.mallopt(M_MMAP_THRESHOLD, BYTES) and libc.mallopt(M_TRIM_THRESHOLD, BYTES))
