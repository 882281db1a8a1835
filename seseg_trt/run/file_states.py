"""What the operating system says of a file that can't be an input, in a reason code and words."""

from __future__ import annotations

import errno
import stat

from ..errors import ReasonCode


def describe_os_error(error: OSError) -> tuple[ReasonCode, str]:
    """Return the reason code and the sentence for an input that the operating system did not give."""
    if error.errno == errno.ENOENT:
        return "missing", "the file is not there, or is a link that leads nowhere"
    if error.errno == errno.ELOOP:
        return "link_loop", "symbolic links lead in a circle"
    if error.errno == errno.EISDIR:
        return "not_a_file", "it is a folder, not a file"
    return "unreadable", f"it can't be read: {error.strerror or error}"


def file_type(mode: int) -> str:
    """Return what a file is that is no regular one, by its mode."""
    kinds = {
        stat.S_IFDIR: "a folder",
        stat.S_IFIFO: "a pipe",
        stat.S_IFSOCK: "a socket",
        stat.S_IFCHR: "a device",
        stat.S_IFBLK: "a device",
    }
    return kinds.get(stat.S_IFMT(mode), "something else")
