"""datasets/downloads.py, against a server on this machine: checksums, resuming, escapes, room."""

import hashlib
import io
import json
import os
import shutil
import subprocess
import sys
import tarfile
import threading
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from PIL import Image
from typer.testing import CliRunner

import gscam_lib as gs
from gscam_lib import paths
from gscam_lib.cli import app
from gscam_lib.datasets import downloads
from gscam_lib.datasets.check import check
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
        ("toy.tar.gz", tarred(("link", b"", "/etc"), ("link/escaped", b"bad", ""))),
    ],
)
def test_archives_that_would_write_elsewhere_are_refused(offer, tmp_path, name, content):
    offer(content, name)
    with pytest.raises(ValueError, match="outside its folder"):
        download("toy", tmp_path / "in", progress=False)
    assert not list(tmp_path.rglob("escaped*"))
    assert not (tmp_path / "in" / "toy").exists()


def test_a_slash_before_a_name_in_a_tar_is_dropped_as_tar_does(offer, tmp_path):
    offer(tarred((f"{tmp_path}/escaped", b"a", "")), "toy.tar.gz")
    home = download("toy", tmp_path / "in", progress=False)
    assert not (tmp_path / "escaped").exists()
    assert [p.read_bytes() for p in home.rglob("escaped")] == [b"a"]


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


# ---------------------------------------------------------------- layouts, as published


HASHES = {
    # mapping.txt of metadata/ILSVRC/val in github.com/clovaai/wsolevaluation, its first lines
    "0/0.jpeg": "0/a31041fd31109279f69ba5827fe508eee00abd75.jpeg",
    "0/1.jpeg": "0/bcf8a5326180b5e9320642f5024096fbc8a5d454.jpeg",
    "1/0.jpeg": "1/c6006866ff066ef85e82e2f62bd8766fbf8ce8ab.jpeg",
    "10/0.jpeg": "10/4def83b1a6822abfb1488dc73a44e0d537a357c5.jpeg",
    "2/0.jpeg": "2/5a2482e2737494a1a2f7cd8eb68e88454cdae0d2.jpeg",
}


@pytest.fixture
def imagenet_v2(tmp_path, monkeypatch):
    """A world of ImageNet-v2's shape: folders 0 to 999, which are labels, photos named by hash.

    Lists are those of github.com/clovaai/wsolevaluation, in the names of 2020 (val2/0/0.jpeg, with
    mapping.txt), or in those of today, as its issue 42 and modestyachts/ImageNetV2's issue 6 tell.
    Every photo is of another width, so that each mistaken one is noticed.
    """
    monkeypatch.setattr(downloads, "FOLDER", tmp_path)
    home = tmp_path / "imagenet-v2"
    metadata = home / "metadata"
    metadata.mkdir(parents=True)
    for i, name in enumerate(HASHES.values()):
        photo = home / "imagenetv2-threshold0.7-format-val" / name
        photo.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (60 + i, 40), "orange").save(photo)

    def write(renamed, mapped=True, sizes_renamed=False):
        names = {old: new if renamed else old for old, new in HASHES.items()}
        sized = [new if sizes_renamed else old for old, new in HASHES.items()]
        lists = {
            "class_labels.txt": [f"val2/{n},{n.split('/')[0]}" for n in names.values()],
            "localization.txt": [
                f"val2/{n},10,10,{49 + i},29" for i, n in enumerate(names.values())
            ],
            "image_sizes.txt": [f"val2/{n},{60 + i},40" for i, n in enumerate(sized)],
            "mapping.txt": [f"{old}, {new}" for old, new in HASHES.items()] if mapped else [],
        }
        for file, lines in lists.items():
            (metadata / file).write_text("".join(f"{line}\n" for line in lines))
        names = [f"class {i}" for i in range(11)]
        form, root, annotations = find("imagenet-v2", tmp_path)
        return gs.datasets.read(form, root, annotations, class_names=names)

    return write


@pytest.mark.parametrize(
    ("renamed", "sizes_renamed"), [(False, False), (True, False), (True, True)]
)
def test_imagenet_v2_as_shipped_then_and_now(imagenet_v2, renamed, sizes_renamed):
    data = imagenet_v2(renamed, sizes_renamed=sizes_renamed)
    assert check(data) == []
    labels = ["class 0", "class 0", "class 1", "class 10", "class 2"]  # not 0, 1, 10, 2 by string
    assert [e.category for e in data] == labels
    for i, (example, name) in enumerate(zip(data, HASHES.values(), strict=True)):
        assert example.file == name
        assert Image.open(example.image).width == 60 + i
        assert example.photo_size == (60 + i, 40)
        assert example.boxes == ((10, 10, 50 + i, 30),)


def test_imagenet_v2_without_its_mapping_says_that_photos_are_missing(imagenet_v2):
    (finding,) = check(imagenet_v2(renamed=False, mapped=False))
    assert (finding.severity, finding.count) == ("left out", 5)
    assert finding.what == "There are photos that are not there"


def test_a_wrong_mapping_is_noticed_by_the_sizes(imagenet_v2, tmp_path):
    imagenet_v2(renamed=False)
    path = tmp_path / "imagenet-v2" / "metadata" / "mapping.txt"
    path.write_text(path.read_text().replace("0/0.jpeg,", "0/9.jpeg,").replace("0/1.j", "0/0.j", 1))
    form, root, annotations = find("imagenet-v2", tmp_path)
    data = gs.datasets.read(form, root, annotations, class_names=["a"] * 11)
    assert "There is truth in other pixels than the photo's" in [f.what for f in check(data)]
    path.write_text("0/0.jpeg, ../../../private.jpeg\n")
    with pytest.raises(ValueError, match=r"mapping\.txt.*outside the root.*line 1"):
        gs.datasets.read(form, root, annotations, class_names=["a"] * 11)


def test_imagenet_v2_is_evaluated_by_its_name(imagenet_v2, tmp_path):
    imagenet_v2(renamed=False)
    options = ["--dataset", "imagenet-v2", "--methods", "center", "--out", str(tmp_path / "run")]
    result = CliRunner().invoke(app, ["evaluate", *options])
    assert result.exit_code == 0, result.output
    rows = gs.merge(tmp_path / "run")
    assert rows["error"].isna().all()
    row = next(rows[rows["category"] == "goldfish"].itertuples())
    assert row.iou == gs.iou((row.x0, row.y0, row.x1, row.y1), (10, 10, 52, 30))


def test_imagenet_as_published(tmp_path):
    """ILSVRC2012_img_val.tar is flat; lists: metadata/ILSVRC/test of clovaai/wsolevaluation."""
    home = tmp_path / "imagenet-val"
    (home / "val").mkdir(parents=True)
    (home / "metadata").mkdir()
    Image.new("RGB", (50, 40)).save(home / "val" / "ILSVRC2012_val_00000293.JPEG")
    (home / "metadata" / "class_labels.txt").write_text("val/ILSVRC2012_val_00000293.JPEG,0\n")
    line = "val/ILSVRC2012_val_00000293.JPEG,1,2,39,30\n"
    (home / "metadata" / "localization.txt").write_text(line)
    (home / "metadata" / "class_names.txt").write_text("tench\n")  # the reader's own list
    form, root, annotations = find("imagenet-val", tmp_path)
    data = gs.datasets.read(form, root, annotations, class_names=["not this"])
    assert check(data) == []
    (example,) = data
    assert (example.prompt, example.boxes) == ("tench", ((1, 2, 40, 31),))
    assert "297" in downloads.SOURCES["imagenet-val"].terms


def published(name, tmp_path, file, image, category="cat"):
    """A data set in COCO's form where its publisher's folders have it; its one Example."""
    content = {
        "images": [{"id": 1, "width": 60, "height": 40} | image],
        "categories": [{"id": 1, "name": category}],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [1, 2, 30, 20]}],
    }
    source = downloads.SOURCES[name]
    home = tmp_path / (source.folder or name)
    (home / source.annotations).parent.mkdir(parents=True, exist_ok=True)
    (home / source.annotations).write_text(json.dumps(content))
    (home / file).parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (60, 40)).save(home / file)
    form, root, annotations = find(name, tmp_path)
    data = gs.datasets.read(form, root, annotations)
    assert check(data) == []
    (example,) = data
    assert example.source == form
    return example


def test_coco_and_lvis_as_published(tmp_path):
    """val2017.zip and annotations_trainval2017.zip; LVIS names COCO's files by their URL only."""
    published(
        "coco-val2017", tmp_path, "val2017/000000000139.jpg", {"file_name": "000000000139.jpg"}
    )
    url = {"coco_url": "http://images.cocodataset.org/train2017/000000000009.jpg"}
    example = published(
        "lvis-val", tmp_path, "train2017/000000000009.jpg", url, "bow_(decorative_ribbons)"
    )
    assert example.prompt == "bow"


@pytest.mark.parametrize(
    ("name", "split"),
    [("partimagenet", "test"), ("partimagenet-val", "val"), ("partimagenet-train", "train")],
)
def test_partimagenet_as_published_and_which_split(tmp_path, name, split):
    """Folders images/SPLIT and annotations/SPLIT/SPLIT.json, as projects that read it use them."""
    image = {"file_name": "n01443537_10014.JPEG"}
    place = f"images/{split}/n01443537_10014.JPEG"
    example = published(name, tmp_path, place, image, "Fish Head")
    assert example.prompt == "fish head"
    assert f"the {split} photos" in downloads.SOURCES[name].terms


def test_rta_100_as_published(tmp_path):
    """rta100.zip of github.com/azuma164/Defense-Prefix; its reader looks in ours/data."""
    place = tmp_path / "rta-100" / "ours" / "data"
    place.mkdir(parents=True)
    Image.new("RGB", (60, 40)).save(place / "label=dog_text=cat.png")
    form, root, _ = find("rta-100", tmp_path)
    data = gs.datasets.read(form, root)
    assert check(data) == []
    assert [(e.prompt, e.word, e.file) for e in data] == [
        ("dog", "cat", "ours/data/label=dog_text=cat.png")
    ]


def test_the_command_and_what_it_fetched_is_evaluated_by_name(offer, tmp_path, monkeypatch):
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


# ---------------------------------------------------------------- where downloads go


def test_an_installed_package_keeps_downloads_out_of_its_folder(tmp_path):
    """As a wheel has it: no folder data beside the package; GSCAM_DATA says where one is."""
    package = tmp_path / "site-packages" / "gscam_lib"
    package.mkdir(parents=True)
    shutil.copy(paths.__file__, package / "paths.py")
    (package / "__init__.py").touch()
    code = "from gscam_lib import paths as p; print(p.CACHE); print(p.missing())"

    def run(**given):
        environment = {k: v for k, v in os.environ.items() if k not in ("GSCAM_DATA", "PYTHONPATH")}
        environment |= {"XDG_CACHE_HOME": str(tmp_path / "home")} | given
        command = [sys.executable, "-c", code]
        done = subprocess.run(
            command, cwd=package.parent, env=environment, capture_output=True, text=True, check=True
        )
        return done.stdout.splitlines()

    cache, how = run()
    assert "site-packages" not in cache
    assert "gscam" in cache
    assert "GSCAM_DATA" in how
    assert "Clone it" in how
    (tmp_path / "clone" / "data" / "models").mkdir(parents=True)
    cache, how = run(GSCAM_DATA=str(tmp_path / "clone" / "data"))
    assert (cache, how) == (str(tmp_path / "clone" / "data" / "cache"), "")
