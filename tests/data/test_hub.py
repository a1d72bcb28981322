"""The data hub downloads, verifies, keeps and unpacks files, and refuses dangerous ones (4.10.1)."""

import gzip
import hashlib
import io
import logging
import os
import re
import subprocess
import sys
import tarfile
import tempfile
import threading
import time
import zipfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from unittest import mock

import pooch
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

import d2l_lightning.data
from d2l_lightning.data import hub
from d2l_lightning.data.hub import DATA_HUB, download, download_all, download_extract
from d2l_lightning.data.scratch import scratch_folder
from d2l_lightning.errors import InputError

BODY = b"Id,SalePrice\n1,208500\n" * 500
TOY = {"toy/a.txt": b"alpha" * 2000, "toy/sub/b.txt": b"beta"}


class Server(ThreadingHTTPServer):
    """Serves ``files``, drops the first ``drops`` connections in mid-body, and records ``requests``."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.files: dict[str, bytes] = {}
        self.requests: list[str] = []
        self.drops = 0
        self.meeting: threading.Barrier | None = None

    def offer(self, path: str, body: bytes, name: str = "toy", sha1: str | None = None) -> str:
        self.files[path] = body
        url = f"http://127.0.0.1:{self.server_port}{path}"
        DATA_HUB[name] = (url, sha1 or digest(body))
        return url


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        self.server.requests.append(self.path)
        if self.server.meeting:
            self.server.meeting.wait(timeout=30)
        body = self.server.files.get(self.path)
        if body is None:
            self.send_error(404)
            return
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.server.drops:
            self.server.drops -= 1
            body = body[: len(body) // 2]
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 (the name in the base class)
        pass


@pytest.fixture(autouse=True)
def pauses(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[float]]:
    """Give each test its own hub and direct connections; record pauses between attempts and skip them."""
    pauses: list[float] = []
    monkeypatch.setattr("pooch.core.time.sleep", pauses.append)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with mock.patch.dict(DATA_HUB):
        yield pauses


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def digest(body: bytes) -> str:
    return hashlib.sha1(body).hexdigest()


def files_in(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def pack(kind: str, members: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    if kind == "zip":
        with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, body in members.items():
                archive.writestr(name, body)
        return buffer.getvalue()
    return pack_tar(kind, [(tarfile.REGTYPE, name, body) for name, body in members.items()])


def pack_tar(kind: str, members: list[tuple[bytes, str, bytes | str]]) -> bytes:
    """Return a tar file of members: type, name, and content or target of a link."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz" if kind.endswith("gz") else "w") as archive:
        for type_, name, content in members:
            info = tarfile.TarInfo(name)
            info.type = type_
            if isinstance(content, str):
                info.linkname, content = content, b""
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def cached(cache: Path, filename: str, body: bytes) -> Path:
    """Add a file to the hub as "toy" and put it into the cache, so that no server is needed."""
    DATA_HUB["toy"] = (f"http://127.0.0.1:9/{filename}", digest(body))
    path = cache / digest(body) / filename
    path.parent.mkdir(parents=True)
    path.write_bytes(body)
    return path


# Downloading


def test_the_entries_of_the_house_prices_are_the_bundled_files() -> None:
    files = Path(d2l_lightning.data.__path__[0], "files")
    for part in ("train", "test"):
        url, sha1 = DATA_HUB[f"kaggle_house_{part}"]
        assert url == f"http://d2l-data.s3-accelerate.amazonaws.com/kaggle_house_pred_{part}.csv"
        with gzip.open(files / f"kaggle_house_pred_{part}.csv.gz") as file:
            assert digest(file.read()) == sha1


def test_the_house_prices_need_no_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pooch, "create", mock.Mock(side_effect=AssertionError("a download")))
    paths = download_all(tmp_path)
    assert [path.name for path in paths] == ["kaggle_house_pred_train.csv", "kaggle_house_pred_test.csv"]
    for path, (_, sha1) in zip(paths, DATA_HUB.values(), strict=True):
        assert digest(path.read_bytes()) == sha1
        assert path.parent == tmp_path / sha1
    assert len(files_in(tmp_path)) == 2
    assert download("kaggle_house_train", tmp_path) == paths[0]


def test_another_file_with_the_name_of_a_bundled_one_is_downloaded(server: Server, tmp_path: Path) -> None:
    server.offer("/kaggle_house_pred_train.csv", BODY, name="kaggle_house_train")
    assert download("kaggle_house_train", tmp_path).read_bytes() == BODY


@pytest.mark.parametrize("form", ["file:// URL", "path", "relative path"])
def test_a_file_of_this_machine_is_copied(form: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own = tmp_path / "my data" / "own.csv"
    own.parent.mkdir()
    own.write_bytes(BODY)
    monkeypatch.chdir(own.parent)
    url = {"file:// URL": own.as_uri(), "path": str(own), "relative path": "own.csv"}[form]
    DATA_HUB["mine"] = (url, digest(BODY).upper())
    copy = download("mine", tmp_path / "cache")
    assert copy == tmp_path / "cache" / digest(BODY) / "own.csv"
    assert copy.read_bytes() == BODY
    own.unlink()
    assert download("mine", tmp_path / "cache") == copy


def test_an_archive_of_this_machine_is_unpacked(tmp_path: Path) -> None:
    (tmp_path / "toy.zip").write_bytes(pack("zip", TOY))
    DATA_HUB["mine"] = ((tmp_path / "toy.zip").as_uri(), digest(pack("zip", TOY)))
    assert files_in(download_extract("mine", cache_dir=tmp_path / "cache").parent) == TOY


def test_a_file_of_this_machine_that_is_missing_or_another_is_an_error(tmp_path: Path) -> None:
    own, cache = tmp_path / "own.csv", tmp_path / "cache"
    DATA_HUB["mine"] = (str(own), digest(BODY))
    with pytest.raises(
        InputError, match=rf"^cannot read {own}, the file of 'mine' in DATA_HUB: No such file"
    ):
        download("mine", cache)
    own.write_bytes(b"other")
    message = rf"^cannot use {own} as 'mine' \(its SHA-1 is {digest(b'other')}, and DATA_HUB says "
    with pytest.raises(
        InputError, match=rf"{message}{digest(BODY)}\); correct the entry if the file is right$"
    ):
        download("mine", cache)
    assert files_in(cache) == {}


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ("http://a.b/c.csv", "DATA_HUB['mine'] must be a URL and a SHA-1, two texts, not 'http"),
        (("http://a.b/c.csv",), "DATA_HUB['mine'] must be a URL and a SHA-1, two texts, not ('http"),
        (("http://a.b/c.csv", None), "two texts, not ('http://a.b/c.csv', None)"),
        (("http://a.b/c.csv", "abc"), "must be 40 hexadecimal digits, not 'abc'; sha1sum FILE prints them"),
        (("http://a.b/c.csv", "../" + 37 * "0"), "must be 40 hexadecimal digits, not '../000"),
        (("http://a.b/", 40 * "0"), "must end in the name of a file: http://a.b/"),
        (("http://[a/c.csv", 40 * "0"), "the URL of 'mine' in DATA_HUB is wrong: Invalid IPv6 URL"),
        (
            ("htp://a.b/c.csv", 40 * "0"),
            "must begin with one of http://, https://, ftp://, sftp://, file://: htp",
        ),
    ],
)
def test_an_entry_that_is_no_url_with_a_sha1_is_an_error(entry: Any, message: str, tmp_path: Path) -> None:
    DATA_HUB["mine"] = entry
    with pytest.raises(InputError) as caught:
        download("mine", tmp_path)
    assert message in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_importing_the_hub_loads_no_slow_library() -> None:
    slow = "pooch", "requests", "torch", "lightning", "pandas"
    code = f"import sys, d2l_lightning.data.hub; print([name for name in {slow} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_second_download_uses_the_cache_without_a_request(server: Server, tmp_path: Path) -> None:
    server.offer("/data/toy.csv", BODY)
    first = download("toy", tmp_path)
    assert first.name == "toy.csv"
    assert first.is_absolute()
    assert first.read_bytes() == BODY
    assert download("toy", str(tmp_path)) == first
    assert server.requests == ["/data/toy.csv"]
    assert list(files_in(tmp_path).values()) == [BODY]


def test_the_file_name_does_not_contain_the_query(server: Server, tmp_path: Path) -> None:
    server.offer("/data/toy.csv?version=2", BODY)
    assert download("toy", tmp_path).name == "toy.csv"


def test_a_corrupt_file_in_the_cache_is_downloaded_again(server: Server, tmp_path: Path) -> None:
    server.offer("/toy.csv", BODY)
    path = download("toy", tmp_path)
    path.write_bytes(BODY[:-1])
    assert download("toy", tmp_path).read_bytes() == BODY
    assert len(server.requests) == 2


def test_entries_with_the_same_file_name_do_not_collide(server: Server, tmp_path: Path) -> None:
    server.offer("/one/toy.csv", b"one", name="one")
    server.offer("/two/toy.csv", b"two", name="two")
    one, two = download("one", tmp_path), download("two", tmp_path)
    assert (one.read_bytes(), two.read_bytes()) == (b"one", b"two")
    assert download("one", tmp_path) == one
    assert len(server.requests) == 2


def test_download_all_returns_the_paths_of_all_entries_in_the_hubs_order(
    server: Server, tmp_path: Path
) -> None:
    DATA_HUB.clear()
    server.offer("/b.csv", b"b", name="b")
    server.offer("/a.csv", b"a", name="a")
    paths = download_all(tmp_path)
    assert paths == [tmp_path / digest(b"b") / "b.csv", tmp_path / digest(b"a") / "a.csv"]
    assert [path.read_bytes() for path in paths] == [b"b", b"a"]
    assert paths == [download("b", tmp_path), download("a", tmp_path)]
    assert server.requests == ["/b.csv", "/a.csv"]


@pytest.mark.parametrize("function", [download, download_extract])
def test_the_error_for_an_unknown_name_lists_the_known_ones(
    function: Callable[..., object], tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=r"^unknown file 'hous'.*kaggle_house_test, kaggle_house_train$"):
        function("hous", cache_dir=tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_dropped_connection_is_tried_again(server: Server, tmp_path: Path, pauses: list[float]) -> None:
    server.offer("/toy.csv", BODY)
    server.drops = 2
    assert download("toy", tmp_path).read_bytes() == BODY
    assert len(server.requests) == 3
    assert pauses == [1, 2]
    assert list(files_in(tmp_path).values()) == [BODY]


def one_line_with(url: str, path: Path) -> str:
    return rf"\Acannot fetch 'toy' from {re.escape(url)} [^\n]*try again[^\n]*{re.escape(str(path))}\Z"


def test_connections_that_are_always_dropped_raise_an_error_and_leave_no_file(
    server: Server, tmp_path: Path
) -> None:
    url = server.offer("/toy.csv", BODY)
    server.drops = 99
    with pytest.raises(ConnectionError, match=one_line_with(url, tmp_path / digest(BODY) / "toy.csv")):
        download("toy", tmp_path)
    assert len(server.requests) == 3
    assert files_in(tmp_path) == {}


def test_a_file_that_the_server_does_not_have_raises_an_error(server: Server, tmp_path: Path) -> None:
    url = server.offer("/toy.csv", BODY)
    server.files.clear()
    with pytest.raises(ConnectionError, match="404") as caught:
        download("toy", tmp_path)
    assert url in str(caught.value)
    assert files_in(tmp_path) == {}


def test_a_server_that_does_not_answer_raises_an_error(tmp_path: Path) -> None:
    with Server() as closed:
        url = closed.offer("/toy.csv", BODY)
    with pytest.raises(ConnectionError, match=one_line_with(url, tmp_path / digest(BODY) / "toy.csv")) as e:
        download("toy", tmp_path)
    assert "(no connection to 127.0.0.1); try again later, or save" in str(e.value)


def test_wrong_bytes_raise_an_error_and_leave_no_file(server: Server, tmp_path: Path) -> None:
    url = server.offer("/toy.csv", b"other bytes", sha1=digest(BODY))
    with pytest.raises(ValueError, match=one_line_with(url, tmp_path / digest(BODY) / "toy.csv")) as caught:
        download("toy", tmp_path)
    found = f"(its SHA-1 is {digest(b'other bytes')}, and DATA_HUB says {digest(BODY)})"
    assert f"{found}; correct the entry if the file is right, or try again" in str(caught.value)
    assert files_in(tmp_path) == {}


def test_a_corrupt_file_in_the_cache_is_removed_after_a_failed_download(
    server: Server, tmp_path: Path
) -> None:
    server.offer("/toy.csv", BODY)
    download("toy", tmp_path).write_bytes(b"corrupt")
    server.drops = 99
    with pytest.raises(ConnectionError, match="toy"):
        download("toy", tmp_path)
    assert files_in(tmp_path) == {}


def test_a_file_that_another_process_downloaded_meanwhile_stays(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.offer("/toy.csv", BODY)
    server.drops = 99
    path = tmp_path / digest(BODY) / "toy.csv"
    monkeypatch.setattr("pooch.core.time.sleep", lambda seconds: path.write_bytes(BODY))
    assert download("toy", tmp_path) == path
    assert path.read_bytes() == BODY


def test_a_download_logs_one_message_and_shows_a_progress_bar(
    server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str], request: pytest.FixtureRequest
) -> None:
    messages: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: messages.append(record.getMessage())  # type: ignore[method-assign]
    pooch.get_logger().addHandler(handler)
    request.addfinalizer(lambda: pooch.get_logger().removeHandler(handler))
    url = server.offer("/toy.csv", BODY)
    download("toy", tmp_path)
    assert len(messages) == 1
    assert url in messages[0]
    assert "100%" in capsys.readouterr().err
    download("toy", tmp_path)
    assert len(messages) == 1
    assert capsys.readouterr().err == ""


def test_the_cache_folder_is_the_argument_the_variable_or_the_systems(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.offer("/toy.csv", BODY)
    monkeypatch.setattr(pooch, "os_cache", lambda project: tmp_path / "system" / project)
    for value, cache_dir, expected in [
        (None, None, "system/d2l_lightning"),
        ("", None, "system/d2l_lightning"),
        (str(tmp_path / "env"), None, "env"),
        (str(tmp_path / "env"), tmp_path / "argument", "argument"),
    ]:
        if value is None:
            monkeypatch.delenv("D2L_LIGHTNING_CACHE", raising=False)
        else:
            monkeypatch.setenv("D2L_LIGHTNING_CACHE", value)
        assert download("toy", cache_dir).is_relative_to(tmp_path / expected)


def test_the_cache_folder_may_be_in_the_home_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    monkeypatch.setenv("D2L_LIGHTNING_CACHE", "~/cache")
    assert hub.cache_folder() == tmp_path / "cache"


def test_another_process_may_create_the_cache_folder_first(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.offer("/toy.csv", BODY)
    # What pooch's own creation of the folder raises then.
    monkeypatch.setattr(os, "makedirs", mock.Mock(side_effect=FileExistsError))
    assert download("toy", tmp_path).read_bytes() == BODY


@pytest.mark.parametrize(
    ("filename", "body", "call"),
    [("toy.csv", BODY, "download"), ("toy.tar.gz", pack("tar.gz", TOY), "download_extract")],
)
def test_two_processes_at_once_both_get_the_file(
    server: Server, tmp_path: Path, filename: str, body: bytes, call: str
) -> None:
    url = server.offer(f"/{filename}", body)
    # The server answers when both have asked, so that neither finds the other's file.
    server.meeting = threading.Barrier(2)
    code = (
        "import sys; from d2l_lightning.data import hub; url, sha1, cache = sys.argv[1:]; "
        f"hub.DATA_HUB['toy'] = url, sha1; print(hub.{call}('toy', cache_dir=cache))"
    )
    command = [sys.executable, "-c", code, url, digest(body), str(tmp_path)]
    processes = [
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in "ab"
    ]
    (out, err), (other_out, other_err) = [process.communicate(timeout=60) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], err + other_err
    assert len(server.requests) == 2
    assert out == other_out
    got = Path(out.strip())
    if call == "download":
        assert got.read_bytes() == body
        assert len(files_in(tmp_path)) == 1
    else:
        assert files_in(got.parent) == TOY
        assert len(files_in(tmp_path)) == 1 + len(TOY)


@pytest.mark.parametrize("function", [download, download_extract])
def test_a_full_disk_names_the_cache_folder(
    function: Callable[..., object], server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.offer("/toy.zip", pack("zip", TOY))
    full = mock.Mock(side_effect=OSError(28, "No space left on device"))
    monkeypatch.setattr("pooch.core.shutil.move", full)
    with pytest.raises(
        InputError, match=rf"^cannot use the cache folder {tmp_path}: No space left on device; "
    ):
        function("toy", cache_dir=tmp_path)
    assert files_in(tmp_path) == {}


def test_a_cache_folder_that_is_a_file_or_gone_is_an_error(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.offer("/toy.csv", BODY)
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=rf"^cannot use the cache folder {tmp_path}/file: Not a directory; "):
        download("toy", tmp_path / "file")
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    with pytest.raises(InputError, match=r"^cannot use the cache folder here: No such file or directory; "):
        download("toy", "here")


def test_control_characters_of_the_server_are_escaped(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.offer("/toy.csv", BODY)
    server.files.clear()
    monkeypatch.setitem(Handler.responses, 404, ("\x1b[2J", ""))
    with pytest.raises(ConnectionError) as caught:
        download("toy", tmp_path)
    assert "\\x1b[2J" in str(caught.value)
    assert str(caught.value).isprintable()


@pytest.mark.skipif(sys.platform == "win32", reason="Windows cannot lock a folder")
def test_what_a_killed_download_left_is_removed_unless_a_download_runs(
    server: Server, tmp_path: Path
) -> None:
    server.offer("/toy.csv", BODY)
    server.meeting = threading.Barrier(2)  # the server answers nobody before the second request
    code = (
        "import sys; from d2l_lightning.data import hub; url, sha1, cache = sys.argv[1:]; "
        "hub.DATA_HUB['toy'] = url, sha1; hub.download('toy', cache)"
    )
    with subprocess.Popen([sys.executable, "-c", code, *DATA_HUB["toy"], str(tmp_path)]) as process:
        while not server.requests:
            time.sleep(0.01)
        folder = tmp_path / digest(BODY)
        (scratch,) = folder.iterdir()
        with scratch_folder(folder):
            assert scratch.exists()  # its process lives
        process.kill()
    assert list(folder.iterdir()) == [scratch]
    server.meeting.abort()
    server.meeting = None
    assert download("toy", tmp_path).read_bytes() == BODY
    assert [path.name for path in folder.iterdir()] == ["toy.csv"]


# Unpacking

KINDS = ["zip", "tar", "tar.gz", "tgz"]


@pytest.mark.parametrize("kind", KINDS)
def test_extract_returns_the_archives_own_folder(kind: str, server: Server, tmp_path: Path) -> None:
    server.offer(f"/toy.{kind}", pack(kind, TOY))
    folder = download_extract("toy", cache_dir=tmp_path)
    assert folder.name == "toy"
    assert files_in(folder) == {"a.txt": TOY["toy/a.txt"], "sub/b.txt": TOY["toy/sub/b.txt"]}
    assert len(files_in(tmp_path)) == 1 + len(TOY)
    assert download_extract("toy", "toy/sub", tmp_path) == folder / "sub"
    assert len(server.requests) == 1


@pytest.mark.parametrize("kind", KINDS)
def test_extract_of_an_archive_without_own_folder(kind: str, tmp_path: Path) -> None:
    cached(tmp_path, f"toy.{kind}", pack(kind, {"./a.txt": b"a", "data/b.txt": b"b"}))
    assert files_in(download_extract("toy", cache_dir=tmp_path)) == {"a.txt": b"a", "data/b.txt": b"b"}
    assert files_in(download_extract("toy", "data", tmp_path)) == {"b.txt": b"b"}
    with pytest.raises(ValueError, match="'toy' has no folder 'dta'"):
        download_extract("toy", "dta", tmp_path)


def test_extracted_folder_is_reused_as_it_stands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cached(tmp_path, "toy.zip", pack("zip", TOY))
    folder = download_extract("toy", cache_dir=tmp_path)
    (folder / "mine.txt").write_text("mine")
    monkeypatch.setattr(
        zipfile.ZipFile, "extractall", mock.Mock(side_effect=AssertionError("unpacked again"))
    )
    assert (download_extract("toy", cache_dir=tmp_path) / "mine.txt").is_file()


def test_changed_archive_is_unpacked_anew(tmp_path: Path) -> None:
    cached(tmp_path, "toy.zip", pack("zip", TOY))
    old = download_extract("toy", cache_dir=tmp_path)
    cached(tmp_path, "toy.zip", pack("zip", {"toy/a.txt": b"new"}))
    assert files_in(download_extract("toy", cache_dir=tmp_path)) == {"a.txt": b"new"}
    assert len(files_in(old)) == 2


@pytest.mark.parametrize("filename", ["toy.csv", "toy.csv.gz", "toy.tar.bz2", "toy"])
def test_other_kinds_of_files_are_refused_without_a_download(
    filename: str, server: Server, tmp_path: Path
) -> None:
    url = server.offer(f"/{filename}", BODY)
    with pytest.raises(ValueError, match=rf"^cannot extract 'toy': {re.escape(url)} .*\.zip.*\.tar\.gz"):
        download_extract("toy", cache_dir=tmp_path)
    assert server.requests == []


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_that_is_no_archive_is_refused(kind: str, tmp_path: Path) -> None:
    path = cached(tmp_path, f"toy.{kind}", BODY)
    with pytest.raises(ValueError, match=rf"\Acannot unpack {re.escape(str(path))} [^\n]*damaged[^\n]*\Z"):
        download_extract("toy", cache_dir=tmp_path)
    assert list(path.parent.iterdir()) == [path]


def unpacks_completely(kind: str, body: bytes) -> bool:
    """Unpack an archive, assert that either all or nothing is there, and return whether all is there."""
    with tempfile.TemporaryDirectory() as cache:
        path = cached(Path(cache), f"toy.{kind}", body)
        try:
            folder = download_extract("toy", cache_dir=cache)
        except ValueError:
            assert list(path.parent.iterdir()) == [path]
            return False
        assert files_in(folder.parent) == TOY
        return True


@pytest.mark.parametrize("kind", ["zip", "tar", "tar.gz"])
@settings(deadline=None, max_examples=40)
@given(where=st.floats(0, 1, exclude_max=True))
@example(where=0.5)
def test_a_truncated_archive_is_unpacked_completely_or_not_at_all(kind: str, where: float) -> None:
    body = pack(kind, TOY)
    worked = unpacks_completely(kind, body[: int(where * len(body))])
    # Only a plain tar may miss its end, which is padding of zeros.
    assert not worked or kind == "tar"


def test_a_tar_file_that_is_cut_between_members_is_refused() -> None:
    body = pack("tar", TOY)
    with tarfile.open(fileobj=io.BytesIO(body)) as archive:
        second = archive.getmembers()[1].offset
    assert not unpacks_completely("tar", body[:second])
    assert not unpacks_completely("tar", body[:second] + b"\xff" * 512 + body[second + 512 :])


@settings(deadline=None, max_examples=60)
@given(where=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
@example(where=0.9999, bit=0)
@example(where=0.5, bit=0)
def test_a_damaged_gzip_file_is_unpacked_completely_or_not_at_all(where: float, bit: int) -> None:
    body = bytearray(pack("tar.gz", TOY))
    position = int(where * len(body))
    body[position] ^= 1 << bit
    worked = unpacks_completely("tar.gz", bytes(body))
    # gzip's checksum covers all but the header, whose time and name do not matter.
    assert not worked or position < 20


def test_a_zip_file_with_a_password_raises_an_error(tmp_path: Path) -> None:
    body = bytearray(pack("zip", {"a.txt": b"a"}))
    body[6] |= 1  # the flag in the member's header, and below in the table of contents
    body[body.index(b"PK\1\2") + 8] |= 1
    path = cached(tmp_path, "toy.zip", bytes(body))
    with pytest.raises(ValueError, match=r"^cannot unpack .*password"):
        download_extract("toy", cache_dir=tmp_path)
    assert list(path.parent.iterdir()) == [path]


def test_a_member_that_tarfile_would_ignore_raises_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = cached(tmp_path, "toy.tar", pack("tar", TOY))
    error = tarfile.ExtractError("unable to resolve link")
    monkeypatch.setattr(tarfile.TarFile, "makefile", mock.Mock(side_effect=error))
    with pytest.raises(ValueError, match=r"^cannot unpack .*unable to resolve link"):
        download_extract("toy", cache_dir=tmp_path)
    assert list(path.parent.iterdir()) == [path]


def test_an_archive_is_unpacked_beside_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cached(tmp_path, "toy.zip", pack("zip", TOY))
    # The system's temporary folder may be on another disk, from which files cannot be renamed.
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "no such folder"))
    assert len(files_in(download_extract("toy", cache_dir=tmp_path))) == len(TOY)


def test_a_full_disk_leaves_no_partial_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def extract_some(archive: zipfile.ZipFile, path: Path) -> None:
        archive.extract("toy/a.txt", path)
        raise OSError(28, "No space left on device")

    path = cached(tmp_path, "toy.zip", pack("zip", TOY))
    monkeypatch.setattr(zipfile.ZipFile, "extractall", extract_some)
    message = (
        rf"^cannot use the cache folder {re.escape(str(path.parent))}: No space left on device; .*CACHE$"
    )
    with pytest.raises(InputError, match=message):
        download_extract("toy", cache_dir=tmp_path)
    assert list(path.parent.iterdir()) == [path]


def test_two_threads_that_unpack_at_once_both_succeed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    meeting = threading.Barrier(2)
    extractall = zipfile.ZipFile.extractall

    def extract_and_meet(archive: zipfile.ZipFile, path: Path) -> None:
        extractall(archive, path)
        meeting.wait(timeout=30)

    cached(tmp_path, "toy.zip", pack("zip", TOY))
    monkeypatch.setattr(zipfile.ZipFile, "extractall", extract_and_meet)
    with ThreadPoolExecutor(2) as pool:
        one, two = pool.map(lambda _: download_extract("toy", cache_dir=tmp_path), range(2))
    assert one == two
    assert len(files_in(tmp_path)) == 1 + len(TOY)


def test_other_errors_of_the_rename_are_raised(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = cached(tmp_path, "toy.zip", pack("zip", TOY))
    monkeypatch.setattr(Path, "rename", mock.Mock(side_effect=PermissionError("not yours")))
    with pytest.raises(InputError, match=r"^cannot use the cache folder .*: not yours; "):
        download_extract("toy", cache_dir=tmp_path)
    assert list(path.parent.iterdir()) == [path]


# Archives that take too much


def gigabytes(kind: str) -> bytes:
    """Return a small archive of a file of 5 GB."""
    if kind == "zip":
        body = bytearray(pack("zip", {"a.txt": b"a"}))
        where = body.index(b"PK\1\2") + 24  # the size in the table of contents
        body[where : where + 4] = (4_100_000_000).to_bytes(4, "little")
        return bytes(body)
    info = tarfile.TarInfo("a.txt")
    info.size = 5 * 10**9
    header = info.tobuf(tarfile.GNU_FORMAT)
    return header + bytes(2000) if kind == "tar" else gzip.compress(header + bytes(2000))


@pytest.mark.parametrize("kind", KINDS)
def test_an_archive_that_takes_too_much_is_refused(kind: str, tmp_path: Path) -> None:
    path = cached(tmp_path, f"toy.{kind}", gigabytes(kind))
    message = rf"^refused to unpack {path}: its contents take more than 4 GB; if .*by hand into .*extracted$"
    with pytest.raises(InputError, match=message):
        download_extract("toy", cache_dir=tmp_path)
    assert list(path.parent.iterdir()) == [path]


def test_the_sizes_of_members_are_added(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    total = sum(map(len, TOY.values()))
    for kind in ("zip", "tar.gz"):
        cached(tmp_path / kind, f"toy.{kind}", pack(kind, TOY))
        monkeypatch.setattr(hub, "UNPACKED_LIMIT", total - 1)
        with pytest.raises(InputError, match="take more than"):
            download_extract("toy", cache_dir=tmp_path / kind)
        monkeypatch.setattr(hub, "UNPACKED_LIMIT", total)
        assert download_extract("toy", cache_dir=tmp_path / kind).is_dir()


@pytest.mark.parametrize("what", ["many members", "a large header", "zeros at the end"])
def test_headers_of_a_tar_file_do_not_fill_the_memory(
    what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hub, "HEADER_LIMIT", 2**20)
    info = tarfile.TarInfo("a")
    if what == "many members":
        body = info.tobuf() * 2**12
    elif what == "a large header":
        info.type, info.size = tarfile.GNUTYPE_LONGNAME, 10**9
        body = info.tobuf(tarfile.GNU_FORMAT) + b"a" * 2**22
    else:
        body = info.tobuf() + bytes(2**22)
    path = cached(tmp_path, "toy.tar.gz", gzip.compress(body))
    with pytest.raises(InputError, match=r"^cannot unpack .*\(its headers are too large\)"):
        download_extract("toy", cache_dir=tmp_path)
    assert list(path.parent.iterdir()) == [path]


def test_the_contents_of_a_tar_file_are_no_headers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub, "HEADER_LIMIT", 2**22)
    cached(tmp_path, "toy.tar.gz", pack("tar.gz", {"a": bytes(2**22)}))
    assert (download_extract("toy", cache_dir=tmp_path) / "a").stat().st_size == 2**22


@pytest.mark.parametrize("kind", ["tar", "tar.gz"])
@pytest.mark.usefixtures("with_and_without_filter")
@pytest.mark.parametrize(
    "members",
    [
        [(tarfile.SYMTYPE, "a", "b"), (tarfile.REGTYPE, "b", b"b"), (tarfile.REGTYPE, "a/c", b"c")],
        [(tarfile.REGTYPE, "a", b"a"), (tarfile.REGTYPE, "a/c", b"c")],
        [(tarfile.SYMTYPE, "a", "a"), (tarfile.REGTYPE, "a/c", b"c")],
        [(tarfile.DIRTYPE, "a", b""), (tarfile.REGTYPE, "a", b"c")],
        [(tarfile.REGTYPE, "a" * 300, b"a")],
    ],
)
def test_members_that_cannot_be_unpacked_are_an_error(
    members: list[tuple[bytes, str, bytes | str]], kind: str, tmp_path: Path
) -> None:
    path = cached(tmp_path, f"toy.{kind}", pack_tar(kind, members))
    with pytest.raises(InputError, match=rf"\Acannot unpack {path} [^\n]*\Z"):
        download_extract("toy", cache_dir=tmp_path)
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("names", [["a", "a/c"], ["a/", "a"], ["a" * 300]])
def test_members_of_a_zip_file_that_cannot_be_unpacked_are_an_error(names: list[str], tmp_path: Path) -> None:
    path = cached(
        tmp_path, "toy.zip", pack("zip", {name: b"" if name[-1] == "/" else b"a" for name in names})
    )
    with pytest.raises(InputError, match=rf"\Acannot unpack {path} [^\n]*\Z"):
        download_extract("toy", cache_dir=tmp_path)
    assert list(path.parent.iterdir()) == [path]


# Members outside the folder


# Python 3.11.2 has no such filter; Python 3.12 and later do.
FILTERS = ["data_filter", "none"] if sys.version_info < (3, 12) else ["data_filter"]


@pytest.fixture(params=FILTERS)
def with_and_without_filter(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "none":
        monkeypatch.delattr(tarfile, "data_filter", raising=False)


OUTSIDE = [
    "../evil",
    "toy/../../evil",
    "/tmp/evil",
    "..\\evil",
    "C:\\evil",
    "C:evil",
    "\\\\host\\share\\evil",
]


@pytest.mark.usefixtures("with_and_without_filter")
@pytest.mark.parametrize("target", OUTSIDE)
@pytest.mark.parametrize("how", ["zip", "tar", "symlink", "hardlink"])
def test_a_member_outside_the_folder_is_refused(how: str, target: str, tmp_path: Path) -> None:
    if how in ("zip", "tar"):
        kind, member, body = how, target, pack(how, {"toy/a.txt": b"a", target: b"evil"})
    else:
        type_ = tarfile.SYMTYPE if how == "symlink" else tarfile.LNKTYPE
        kind, member = "tar", "link"
        body = pack_tar("tar", [(tarfile.REGTYPE, "toy/a.txt", b"a"), (type_, member, target)])
    path = cached(tmp_path, f"toy.{kind}", body)
    with pytest.raises(ValueError, match=rf"^refused to unpack .*{re.escape(repr(member))}"):
        download_extract("toy", cache_dir=tmp_path)
    assert [p for p in tmp_path.rglob("*") if p.is_file()] == [path]
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.usefixtures("with_and_without_filter")
def test_links_that_stay_inside_are_unpacked(tmp_path: Path) -> None:
    body = pack_tar(
        "tar",
        [
            (tarfile.REGTYPE, "toy/a.txt", b"a"),
            (tarfile.SYMTYPE, "toy/soft.txt", "a.txt"),
            (tarfile.LNKTYPE, "toy/hard.txt", "toy/a.txt"),
        ],
    )
    cached(tmp_path, "toy.tar", body)
    folder = download_extract("toy", cache_dir=tmp_path)
    assert files_in(folder) == {"a.txt": b"a", "soft.txt": b"a", "hard.txt": b"a"}


def test_a_hard_link_to_a_missing_file_counts_as_damage(tmp_path: Path) -> None:
    path = cached(tmp_path, "toy.tar", pack_tar("tar", [(tarfile.LNKTYPE, "toy/hard.txt", "toy/a.txt")]))
    with pytest.raises(ValueError, match=r"^cannot unpack .*toy\.tar"):
        download_extract("toy", cache_dir=tmp_path)
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.skipif(not hasattr(tarfile, "data_filter"), reason="this Python's tarfile has no filter")
def test_special_files_are_refused(tmp_path: Path) -> None:
    path = cached(tmp_path, "toy.tar", pack_tar("tar", [(tarfile.FIFOTYPE, "toy/pipe", b"")]))
    with pytest.raises(ValueError, match="toy/pipe"):
        download_extract("toy", cache_dir=tmp_path)
    assert list(path.parent.iterdir()) == [path]


SEGMENTS = st.sampled_from(["a", "b", "toy", "..", ".", "...", "a b", ""])
NAMES = st.builds(
    lambda head, parts, separator: head + separator.join(parts),
    st.sampled_from(["", "", "/", "//", "C:", "C:/", "\\"]),
    st.lists(SEGMENTS, min_size=1, max_size=5),
    st.sampled_from("/\\"),
)


@settings(deadline=None, max_examples=100)
@given(kind=st.sampled_from(["zip", "tar", "tar.gz"]), name=NAMES)
def test_every_malicious_name_is_refused(kind: str, name: str) -> None:
    assume(name[:1] in ("/", "\\") or name[1:2] == ":" or ".." in re.split(r"[/\\]", name))
    with tempfile.TemporaryDirectory() as outer:
        path = cached(Path(outer, "cache"), f"toy.{kind}", pack(kind, {"toy/a.txt": b"a", name: b"evil"}))
        with pytest.raises(ValueError, match=rf"^refused to unpack .*{re.escape(repr(name))}"):
            download_extract("toy", cache_dir=Path(outer, "cache"))
        assert [p for p in Path(outer).rglob("*") if not p.is_dir()] == [path]


@settings(deadline=None, max_examples=200)
@given(
    members=st.lists(
        st.tuples(st.sampled_from([tarfile.REGTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE]), NAMES, NAMES),
        min_size=1,
        max_size=5,
    ),
    filter_=st.sampled_from(FILTERS),
)
@example(
    [(tarfile.SYMTYPE, "a", "."), (tarfile.SYMTYPE, "b", "a/.."), (tarfile.REGTYPE, "b/evil", "")], False
)
@example([(tarfile.SYMTYPE, "a", ".."), (tarfile.REGTYPE, "a/evil", "")], FILTERS[-1])
def test_no_chain_of_links_leads_outside(members: list[tuple[bytes, str, str]], filter_: str) -> None:
    packed = pack_tar("tar", [(t, name, b"evil" if t == tarfile.REGTYPE else to) for t, name, to in members])
    with tempfile.TemporaryDirectory() as outer, pytest.MonkeyPatch.context() as monkeypatch:
        if filter_ == "none":
            monkeypatch.delattr(tarfile, "data_filter", raising=False)
        cache = Path(outer, "cache")
        path = cached(cache, "toy.tar", packed)
        root = path.parent / "extracted"
        try:
            download_extract("toy", cache_dir=cache)
        except InputError:
            assert not root.exists()
        assert [p for p in Path(outer).rglob("*") if not (p.is_dir() or p.is_relative_to(root))] == [path]
        for inner in root.rglob("*"):
            assert Path(os.path.realpath(inner)).is_relative_to(os.path.realpath(root))
