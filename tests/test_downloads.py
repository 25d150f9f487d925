"""datasets/downloads.py, against a server on this machine: checksums, resuming, escapes, room."""

import hashlib
import io
import json
import tarfile
import threading
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from typer.testing import CliRunner

import gscam_lib as gs
from gscam_lib.cli import app
from gscam_lib.datasets import downloads
from gscam_lib.datasets.downloads import Archive, Source, download, find


class Shelf(BaseHTTPRequestHandler):
    """Serves bytes by path, from any byte on; may hang up after some, or know no ranges."""

    def do_GET(self):
        server = self.server
        content = server.files.get(self.path)
        asked = self.headers.get("Range")
        server.asked.append(asked)
        if content is None:
            return self.send_error(404)
        start = int(asked[6:-1]) if asked and server.ranges else 0
        if start >= len(content):
            return self.send_error(416)
        self.send_response(206 if asked and server.ranges else 200)
        self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        self.wfile.write(content[start : start + server.hang_up_after])

    def log_message(self, *args):
        pass


@pytest.fixture
def server():
    shelf = ThreadingHTTPServer(("127.0.0.1", 0), Shelf)
    shelf.files, shelf.asked, shelf.ranges, shelf.hang_up_after = {}, [], True, 10**9
    thread = threading.Thread(target=shelf.serve_forever, daemon=True)
    thread.start()
    yield shelf
    shelf.shutdown()
    shelf.server_close()


def zipped(**members):
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w") as archive:
        for name, content in members.items():
            archive.writestr(name.replace("__", "/").replace("UP", ".."), content)
    return made.getvalue()


def tarred(*members):
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w:gz") as archive:
        for name, content, link in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            if link:
                info.type, info.linkname = tarfile.SYMTYPE, link
            archive.addfile(info, io.BytesIO(content))
    return made.getvalue()


PHOTOS = zipped(images__a=b"photo" * 5000, images__b=b"other")


@pytest.fixture
def offer(server, monkeypatch):
    """Put a file on the shelf, and make the data set "toy" of it."""

    def offered(content, name="toy.zip", *, sha256="right", form="coco", more=(), **about):
        server.files[f"/{name}"] = content
        right = hashlib.sha256(content).hexdigest()
        archive = Archive(
            f"http://127.0.0.1:{server.server_port}/{name}", len(content),
            right if sha256 == "right" else sha256, 2 * len(content), **about,
        )  # fmt: skip
        source = Source(form, "images", "images/a", "free", (archive, *more))
        monkeypatch.setitem(downloads.SOURCES, "toy", source)
        return archive

    return offered


def test_fetched_proved_unpacked_once(offer, server, tmp_path):
    offer(PHOTOS)
    folder = download("toy", tmp_path, progress=False)
    assert folder == tmp_path / "toy"
    assert (folder / "images" / "a").read_bytes() == b"photo" * 5000
    assert find("toy", tmp_path) == ("coco", folder / "images", folder / "images" / "a")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["checksums.json", "toy"]  # no leftovers
    download("toy", tmp_path, progress=False)
    assert len(server.asked) == 1


def test_a_wrong_checksum_is_refused_and_nothing_is_left(offer, tmp_path):
    offer(PHOTOS, sha256="0" * 64)
    with pytest.raises(ValueError, match="does not match the known hash"):
        download("toy", tmp_path, progress=False)
    assert not (tmp_path / "toy").exists()
    offer(PHOTOS)
    assert download("toy", tmp_path, progress=False).is_dir()


def test_interrupted_and_resumed(offer, server, tmp_path, capfd):
    offer(PHOTOS)
    server.hang_up_after = 400
    with pytest.raises(ConnectionError, match=rf"400 of {len(PHOTOS):,} bytes.*goes on"):
        download("toy", tmp_path, progress=False)
    server.hang_up_after = 10**9
    folder = download("toy", tmp_path, progress=True)
    assert server.asked == [None, "bytes=400-"]
    assert (folder / "images" / "b").read_bytes() == b"other"
    assert "toy.zip" in capfd.readouterr().err  # the bar


@pytest.mark.parametrize("have", [300, len(PHOTOS)])
def test_a_server_without_ranges_and_a_part_that_is_whole(offer, server, tmp_path, have):
    offer(PHOTOS)
    (tmp_path / ".toy").mkdir()
    (tmp_path / ".toy" / "toy.zip.part").write_bytes(PHOTOS[:have])
    server.ranges = have == len(PHOTOS)
    download("toy", tmp_path, progress=False)
    assert server.asked == [f"bytes={have}-"]


def test_a_part_that_is_damaged_is_fetched_anew(offer, server, tmp_path):
    offer(PHOTOS)
    (tmp_path / ".toy").mkdir()
    (tmp_path / ".toy" / "toy.zip.part").write_bytes(b"x" * 100)
    with pytest.raises(ValueError, match="does not match"):
        download("toy", tmp_path, progress=False)
    assert download("toy", tmp_path, progress=False).is_dir()
    assert server.asked == ["bytes=100-", None]


def test_not_there_and_nobody_answers(offer, server, tmp_path):
    archive = offer(PHOTOS)
    server.files.clear()
    with pytest.raises(ConnectionError, match="answers 404"):
        download("toy", tmp_path, progress=False)
    server.shutdown()
    server.server_close()
    with pytest.raises(OSError, match="refused"):
        download("toy", tmp_path, progress=False)
    assert archive.name == "toy.zip"


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("toy.zip", zipped(images__a=b"fine", UP__escaped=b"bad")),
        ("toy.zip", zipped(__escaped=b"bad")),
        ("toy.tar.gz", tarred(("images/a", b"fine", ""), ("../escaped", b"bad", ""))),
        ("toy.tar.gz", tarred(("link", b"", "../.."), ("link/escaped", b"bad", ""))),
    ],
)
def test_archives_that_would_write_elsewhere_are_refused(offer, tmp_path, name, content):
    offer(content, name)
    with pytest.raises(ValueError, match="outside its folder"):
        download("toy", tmp_path / "in", progress=False)
    assert not list(tmp_path.rglob("escaped*"))
    assert not (tmp_path / "in" / "toy").exists()


def test_tar_archives_and_plain_files(offer, server, tmp_path):
    table = Archive(f"http://127.0.0.1:{server.server_port}/boxes.txt", 5, into="metadata")
    server.files["/boxes.txt"] = b"a,1,2"
    offer(tarred(("images/a", b"photo", "")), "toy.tar.gz", more=(table,))
    folder = download("toy", tmp_path, progress=False)
    assert (folder / "images" / "a").read_bytes() == b"photo"
    assert (folder / "metadata" / "boxes.txt").read_bytes() == b"a,1,2"


def test_only_the_members_that_are_wanted(offer, tmp_path):
    offer(PHOTOS, members=("images/a",))
    folder = download("toy", tmp_path, progress=False)
    assert [p.name for p in folder.rglob("*") if p.is_file()] == ["a"]


def test_a_checksum_nobody_published_is_kept_and_must_stay(offer, tmp_path):
    archive = offer(PHOTOS, sha256=None)
    folder = download("toy", tmp_path, progress=False)
    kept = json.loads((tmp_path / "checksums.json").read_text())
    assert kept == {archive.url: hashlib.sha256(PHOTOS).hexdigest()}
    folder.rename(tmp_path / "gone")
    offer(zipped(images__a=b"something else"), sha256=None)
    with pytest.raises(ValueError, match="does not match the known hash"):
        download("toy", tmp_path, progress=False)


def test_a_damaged_archive_without_checksum(offer, tmp_path):
    offer(b"this is no archive", sha256=None)
    with pytest.raises(ValueError, match="damaged"):
        download("toy", tmp_path, progress=False)
    assert not list(tmp_path.rglob("toy.zip"))


def test_too_small_a_disk_is_noticed_before_the_download(offer, server, tmp_path, monkeypatch):
    offer(PHOTOS)
    usage = type("Usage", (), {"free": 3 * len(PHOTOS) - 1})
    monkeypatch.setattr(downloads.shutil, "disk_usage", lambda place: usage)
    with pytest.raises(ValueError, match=r"needs 0\.\d GB, and the disk"):
        download("toy", tmp_path / "new", progress=False)
    assert server.asked == []
    usage.free += 1
    monkeypatch.setattr(downloads, "_unzip", lambda *a: (_ for _ in ()).throw(OSError(28, "full")))
    with pytest.raises(OSError, match="full"):
        download("toy", tmp_path / "new", progress=False)
    assert not (tmp_path / "new" / "toy").exists()


def test_what_needs_a_licence_says_so_and_where_it_goes(tmp_path):
    for name, words in {
        "imagenet-val": "accept the terms",
        "partimagenet": "TACJu/PartImageNet",
        "rta-100": "label=dog_text=cat",
    }.items():
        with pytest.raises(ValueError, match=words) as caught:
            download(name, tmp_path)
        assert str(tmp_path / name) in str(caught.value)
        with pytest.raises(FileNotFoundError, match=words):
            find(name, tmp_path)
    with pytest.raises(FileNotFoundError, match="gscam download coco-val2017"):
        find("coco-val2017", tmp_path)
    with pytest.raises(ValueError, match="There are: coco-val2017"):
        download("cocoa", tmp_path)


def test_the_catalogue_is_sound():
    for source in downloads.SOURCES.values():
        assert source.form in gs.datasets.FORMS
        assert bool(source.archives) != bool(source.by_hand)
        for archive in source.archives:
            assert archive.sha256 is None or len(archive.sha256) == 64
            assert archive.url.startswith(("https://", "http://images.cocodataset.org/"))


def test_imagenet_v2_is_evaluated_by_its_name(tmp_path, monkeypatch):
    """As its archives lie when unpacked: photos by label, ids that begin with val2, no names."""
    from PIL import Image

    place = tmp_path / "imagenet-v2" / "imagenetv2-threshold0.7-format-val" / "1"
    place.mkdir(parents=True)
    Image.new("RGB", (60, 40), "orange").save(place / "c600.jpeg")
    metadata = tmp_path / "imagenet-v2" / "metadata"
    metadata.mkdir()
    (metadata / "class_labels.txt").write_text("val2/1/c600.jpeg,1\n")
    (metadata / "localization.txt").write_text("val2/1/c600.jpeg,10,10,49,29\n")
    monkeypatch.setattr(downloads, "FOLDER", tmp_path)
    options = ["--dataset", "imagenet-v2", "--methods", "center", "--out", str(tmp_path / "run")]
    result = CliRunner().invoke(app, ["evaluate", *options])
    assert result.exit_code == 0, result.output
    (row,) = gs.merge(tmp_path / "run").itertuples()
    assert (row.category, row.error) == ("goldfish", None)
    assert row.iou == gs.iou((row.x0, row.y0, row.x1, row.y1), (10, 10, 50, 30))


def test_the_command_and_what_it_fetched_is_evaluated_by_name(offer, tmp_path, monkeypatch):
    from PIL import Image

    photo = io.BytesIO()
    Image.new("RGB", (40, 30), "grey").save(photo, "PNG")
    table = "file,prompt,x0,y0,x1,y1\nphoto.png,tabby cat,5,5,20,20\n"
    offer(zipped(**{"images__photo.png": photo.getvalue(), "images__a": table}), form="csv")
    monkeypatch.setattr(downloads, "FOLDER", tmp_path)
    fetched = CliRunner().invoke(app, ["download", "toy", "--to", str(tmp_path)])
    assert fetched.exit_code == 0, fetched.output
    assert "gscam evaluate --dataset toy" in fetched.stdout
    assert "free" in fetched.stdout
    evaluated = CliRunner().invoke(app, ["evaluate", "--dataset", "toy", "--methods", "center"])
    assert evaluated.exit_code == 0, evaluated.output
    assert "1 of 1 (image, class) pairs" in evaluated.stdout
    by_hand = CliRunner().invoke(app, ["download", "imagenet-val", "--to", str(tmp_path)])
    assert by_hand.exit_code == 1
    assert "image-net.org" in by_hand.stderr
