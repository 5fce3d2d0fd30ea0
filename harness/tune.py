"""The C library's allocator, told to keep big blocks, and the kernel, told which pages of a file it may take.

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
MADV_DONTNEED = 4
BYTES = 2**31 - 1  # mallopt takes an int


def keep_big_blocks() -> bool:
    """Raise glibc's thresholds; returns whether it was done (Linux with glibc only)."""
    if platform.libc_ver()[0] != "glibc" or os.environ.get("VIVA_MALLOC") == "0":
        return False
    libc = ctypes.CDLL(None)
    return bool(libc.mallopt(M_MMAP_THRESHOLD, BYTES) and libc.mallopt(M_TRIM_THRESHOLD, BYTES))


def let_go_of_file(address: int, size: int) -> bool:
    """Take whole pages of a mapped file out of this process's memory; who reads them again gets them from the file.

    The pages must be as they are in the file. Returns whether it was done: on Linux, for memory that maps a file (other
    memory would lose what is in it).
    """
    if platform.system() != "Linux":
        return False
    page = os.sysconf("SC_PAGE_SIZE")
    first, stop = -(-address // page) * page, (address + size) // page * page
    if first >= stop or not _maps_file(first, stop):
        return False
    libc = ctypes.CDLL(None)
    libc.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    return bool(libc.madvise(first, stop - first, MADV_DONTNEED) == 0)


def _maps_file(first: int, stop: int) -> bool:
    with open("/proc/self/maps", encoding="utf-8", errors="replace") as lines:
        for line in lines:
            span, _, _, _, inode, *path = line.split(maxsplit=5)
            start, end = (int(side, 16) for side in span.split("-"))
            if start <= first < end:
                return stop <= end and inode != "0" and bool(path) and path[0].startswith("/")
    return False
