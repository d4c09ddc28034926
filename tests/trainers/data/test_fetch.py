"""Published data: fetched over a real connection, whole and as published or not at all."""

from __future__ import annotations

import hashlib
import http.server
import io
import tarfile
import threading
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from trainers.data.fetch import fetch
from trainers.data.images import load_images
from trainers.data.sources import SOURCES, Download, Source, folder_of, is_present
from trainers.data.text import load_corpus
from trainers.errors import DataError

TEXTS = {f"{split}.txt": f"a {split} text\n".encode() * 50 for split in ("train", "valid", "test")}


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("CLIPSWEEP_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def serve() -> Iterator[Callable[[dict[str, bytes]], str]]:
    """Serves files under their names on the loopback, and gives the address; b"" breaks off half-way."""
    servers = []

    def start(files: dict[str, bytes], *, cut: bool = False) -> str:
        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                content = files.get(self.path.lstrip("/"))
                self.send_response(404 if content is None else 200)
                self.send_header("Content-Length", str(len(content or b"")))
                self.end_headers()
                self.wfile.write((content or b"")[: len(content or b"") // 2 if cut else None])

            def log_message(self, *arguments: object) -> None:
                pass

        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        servers.append(server)
        return f"http://127.0.0.1:{server.server_address[1]}"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def source_of(files: dict[str, bytes], names: tuple[str, ...] = tuple(TEXTS)) -> Source:
    downloads = tuple(
        Download(
            url=f"http://publisher.invalid/{name}",
            num_bytes=len(content),
            hashes={"md5": hashlib.md5(content).hexdigest(), "sha256": hashlib.sha256(content).hexdigest()},
        )
        for name, content in files.items()
    )
    return Source(name="tiny", kind="corpus", about="three texts", downloads=downloads, layouts=(names,))


def left_behind(cache: Path) -> list[Path]:
    return [path for path in (cache / "data").rglob("*")] if cache.exists() else []


def zip_of(members: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def tar_of(members: dict[str, bytes | str]) -> bytes:
    """Text stands for the target of a link."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            if isinstance(content, str):
                info.type, info.linkname = tarfile.SYMTYPE, content
                archive.addfile(info)
            else:
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def test_files_are_fetched_checked_and_put_in_place(serve, cache: Path) -> None:
    source = source_of(TEXTS)
    assert not is_present(source)
    folder = fetch(source, origin=serve(TEXTS))
    assert folder == cache / "data" / "tiny" == folder_of(source)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == TEXTS
    assert [path.name for path in folder.parent.iterdir()] == ["tiny"]
    assert fetch(source, origin="http://127.0.0.1:1") == folder, "what is there is not fetched again"


def test_a_progress_bar_is_told_of_every_byte(serve) -> None:
    class Bar:
        total = 0
        seen = 0
        closed = False

        def update(self, n: int) -> None:
            self.seen += n

        def reset(self) -> None:
            self.seen = 0

        def close(self) -> None:
            self.closed = True

    bars = {download.file_name: Bar() for download in source_of(TEXTS).downloads}
    fetch(source_of(TEXTS), origin=serve(TEXTS), progress=lambda download: bars[download.file_name])
    assert {name: bar.seen for name, bar in bars.items()} == {name: len(content) for name, content in TEXTS.items()}
    assert all(bar.closed for bar in bars.values())


def test_a_tampered_file_is_refused_and_leaves_nothing(serve, cache: Path) -> None:
    tampered = TEXTS | {"test.txt": TEXTS["test.txt"].replace(b"a", b"b")}
    with pytest.raises(DataError, match=r"test\.txt: \d+ bytes whose md5 is \w+, but what is published at .* not kept"):
        fetch(source_of(TEXTS), origin=serve(tampered))
    assert left_behind(cache) == []


def test_a_download_that_breaks_off_leaves_nothing(serve, cache: Path) -> None:
    with pytest.raises(DataError, match=r"train\.txt"):
        fetch(source_of(TEXTS), origin=serve(TEXTS, cut=True))
    assert left_behind(cache) == []


def test_offline_the_message_says_what_goes_where(cache: Path) -> None:
    with pytest.raises(
        DataError, match=r"cannot be fetched(.|\n)*data fetch tiny(.|\n)*train\.txt, valid\.txt and test"
    ):
        fetch(source_of(TEXTS), origin="http://127.0.0.1:1")
    assert left_behind(cache) == []


@pytest.mark.parametrize(("name", "make"), [("tiny.zip", zip_of), ("tiny.tar.gz", tar_of)])
def test_archives_give_their_wanted_files_and_no_others(serve, name: str, make: Callable[..., bytes]) -> None:
    archive = make({f"top/{file}": content for file, content in TEXTS.items()} | {"top/readme": b"no"})
    folder = fetch(source_of({name: archive}, tuple(TEXTS)), origin=serve({name: archive}))
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == TEXTS


@pytest.mark.parametrize(
    ("name", "archive", "reason"),
    [
        ("bad.zip", zip_of({"../train.txt": b"x"}), "points out of the folder"),
        ("bad.zip", zip_of({"/train.txt": b"x"}), "points out of the folder"),
        ("bad.zip", zip_of({"a/train.txt": b"x", "b/train.txt": b"y"}), "two files named train.txt"),
        ("bad.zip", b"PK not a zip", "a damaged archive"),
        ("bad.zip", zip_of({"a/train.txt": b"x"}), "lacks valid.txt, test.txt"),
        ("bad.tar.gz", tar_of({"a/../../train.txt": b"x"}), "points out of the folder"),
        ("bad.tar.gz", tar_of({"train.txt": "/etc/passwd"}), r"neither a file nor a folder \(a link, perhaps\)"),
        ("bad.tar.gz", b"not a tar", "a damaged archive"),
    ],
)
def test_archives_that_reach_out_or_are_damaged_are_refused(
    serve, cache: Path, name: str, archive: bytes, reason: str
) -> None:
    with pytest.raises(DataError, match=reason):
        fetch(source_of({name: archive}, tuple(TEXTS)), origin=serve({name: archive}))
    assert left_behind(cache) == []


def test_the_real_penn_treebank_is_what_its_hashes_say_and_is_read_by_name(real_data: Path) -> None:
    fetch(SOURCES["ptb"], origin=str(real_data / "ptb"))
    corpus = load_corpus("ptb")
    assert len(corpus.vocabulary) == 10_000
    assert corpus.fingerprint == load_corpus(str(real_data / "ptb")).fingerprint


def test_another_text_under_the_name_of_the_penn_treebank_is_refused() -> None:
    folder = folder_of(SOURCES["ptb"])
    folder.mkdir(parents=True)
    for split in ("train", "valid", "test"):
        (folder / f"ptb.{split}.txt").write_text("a b\n")
    with pytest.raises(DataError, match=r"not 'ptb' as it is known: .*\(3, 3, 3, 3\), but should be \(929589, 73760"):
        load_corpus("ptb")


def test_missing_data_says_how_to_get_it() -> None:
    with pytest.raises(DataError, match=r"corpus 'wikitext2' is not on this machine: .*data fetch wikitext2"):
        load_corpus("wikitext2")
    with pytest.raises(DataError, match=r"data fetch cifar10.*data_batch_1\.bin.*data_batch_1, "):
        load_images("cifar10")
