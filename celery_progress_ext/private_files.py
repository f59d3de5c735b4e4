"""Files for their owner alone, or for one group as well, whatever the umask is.

Who may enter no folder above a file cannot read it, so a private root folder protects all that is below it.
"""

from __future__ import annotations

import grp
import os
import stat
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from celery_progress_ext.exceptions import InvalidSetting
from celery_progress_ext.log import get_logger

logger = get_logger(__name__)

#: By whether there is a group. New files in a folder with the set-group-ID bit belong to the folder's group.
_FILE_MODES = {False: 0o600, True: 0o660}
_FOLDER_MODES = {False: 0o700, True: 0o2770}


@dataclass(frozen=True)
class PrivateFiles:
    """How files and folders are made. ``gid`` is the group that shares them; None: nobody does."""

    gid: int | None = None

    @classmethod
    def shared_with(cls, group: str | None) -> PrivateFiles:
        """For the owner, and for a group where one is named.

        :raises InvalidSetting: where this machine has no such group.
        """
        if group is None:
            return cls()
        try:
            return cls(grp.getgrnam(group).gr_gid)
        except KeyError:
            raise InvalidSetting(f"progress_files_group: this machine has no group {group!r}") from None

    @property
    def file_mode(self) -> int:
        """Permission bits of a file."""
        return _FILE_MODES[self.gid is not None]

    @property
    def folder_mode(self) -> int:
        """Permission bits of a folder."""
        return _FOLDER_MODES[self.gid is not None]

    def make_file(self, path: Path) -> None:
        """Make an empty file, private from its first moment; one that is there is left as it is.

        :raises OSError: where it cannot be made.
        """
        with suppress(FileExistsError):
            fd = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
            try:
                self._set(fd, self.file_mode)
            finally:
                os.close(fd)

    def make_folder(self, path: Path) -> None:
        """Make a folder, and those above it that are missing; what is there is left as it is.

        :raises OSError: where it cannot be made.
        """
        if path.is_dir():
            return
        self.make_folder(path.parent)
        with suppress(FileExistsError):
            path.mkdir(mode=0o700)
            self._set(path, self.folder_mode)

    def tighten(self, path: Path) -> None:
        """Take from a file, or a folder with all that is in it, what others may do; it need not be there.

        What belongs to somebody else is left, and logged. A folder that was private already is not looked through.
        """
        try:
            found = path.lstat()
        except OSError:
            return
        if stat.S_ISLNK(found.st_mode):
            return
        folder = stat.S_ISDIR(found.st_mode)
        mode = self.folder_mode if folder else self.file_mode
        if stat.S_IMODE(found.st_mode) == mode and self.gid in (None, found.st_gid):
            return
        try:
            self._set(path, mode)
        except PermissionError:
            loose = found.st_mode & 0o007
            if loose:
                logger.warning("file_open_to_others", path=str(path), mode=oct(stat.S_IMODE(found.st_mode)))
            return
        if folder:
            for each in path.iterdir():
                self.tighten(each)

    def _set(self, target: int | Path, mode: int) -> None:
        if self.gid is not None:
            os.chown(target, -1, self.gid)
        os.chmod(target, mode)
