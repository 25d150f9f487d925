"""A thousand faults, seeded: none stops a run, none loses a row, each is accounted for."""

import io
import json
import subprocess
import sys
import threading
from collections import Counter

import numpy as np
import pandas as pd
import pytest
from conftest import tiny_clip
from PIL import Image

import gscam_lib as gs
from gscam_lib.evaluation import rows as parts

FAULTS = {
    "truncated": 250, "missing": 250, "outside": 200, "no area": 150, "prompt": 50,
    "weights": 50, "full disk": 50,
}  # fmt: skip
SAYS = {
    "truncated": "truncated", "missing": "No photo at", "outside": "no area inside the photo",
    "no area": "no area inside the photo", "prompt": "empty prompt", "weights": "NaN",
}  # fmt: skip
SHOWN = ["x0", "y0", "x1", "y1", "iou", "hit", "pointing", "energy", "logit", "mask"]


@pytest.fixture
def world(tmp_path):
    """900 faulty questions and 100 good ones, in an order drawn at random."""
    rng = np.random.default_rng(6)
    photo = Image.fromarray(rng.integers(0, 255, (48, 64, 3), np.uint8))
    jpeg = io.BytesIO()
    photo.save(jpeg, "JPEG")
    content = jpeg.getvalue()

    def example(kind, i):
        image, boxes, prompt = photo, ((5, 5, 40, 30),), f"{kind} {i}"
        if kind == "truncated":
            image = tmp_path / f"{i}.jpg"
            image.write_bytes(content[: int(len(content) * rng.uniform(0.3, 0.9))])
        elif kind == "missing":
            image = tmp_path / f"none {i}.jpg"
        elif kind == "outside":
            x, y = rng.integers(64, 999), rng.integers(-999, 999)
            boxes = ((x, y, x + 9, y + 9),)
        elif kind == "no area":
            x, y = map(float, rng.uniform(0, 40, 2))
            boxes = ((x, y, x, y + 9), (x, y, x + 9, float("nan")), (x, y, x - 3, y + 3))[i % 3 :]
        elif kind == "prompt":
            prompt = " " * i
        # Questions about one photo share its trace, in tens.
        name = kind if image is not photo else f"photo {i // 10}"
        return gs.Example(image, prompt, boxes, f"{kind} {i}", f"{name} {i % 10}", kind)

    kinds = [k for k in FAULTS if k not in ("weights", "full disk")]
    made = [example(k, i) for k in kinds for i in range(FAULTS[k])]
    made += [example("good", i) for i in range(100)]
    return [made[i] for i in rng.permutation(len(made))]


@pytest.mark.filterwarnings("ignore:.*could not be written")
def test_a_thousand_faults(world, tmp_path, monkeypatch):
    failed, write = Counter(), parts.pq.write_table
    rng, lock = np.random.default_rng(7), threading.Lock()

    def fills_up(*args, **options):
        with lock:
            full = failed["full disk"] < FAULTS["full disk"] and rng.random() < 0.3
            failed["full disk"] += full
        if full:
            raise OSError(28, "No space left on device")
        write(*args, **options)

    monkeypatch.setattr(parts.pq, "write_table", fills_up)
    monkeypatch.setattr(parts, "SECONDS", -1.0)  # a part for every row
    run = tmp_path / "run"
    writers = [  # both on one folder at once; the second does again a half of what the first does
        threading.Thread(
            target=gs.evaluate, args=(tiny_clip("resnet"), world, ["center"]),
            kwargs={"out": run, "shard": shard},
        )
        for shard in ((0, 1), (1, 2))
    ]  # fmt: skip
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    rows = gs.merge(run)
    assert failed == {"full disk": 50}
    assert not list(run.glob("*.partial"))

    assert rows["category"].tolist() == [e.category for e in world]  # each question, once
    found = Counter(row.source for row in rows.itertuples() if row.error is not None)
    found["weights"] = _nan_weights(world)
    assert found + failed == FAULTS
    assert sum(FAULTS.values()) == 1000
    for row in rows[rows["error"].notna()].itertuples():
        assert SAYS[row.source] in row.error
    _the_good_ones_are_untouched(rows, world)


def _nan_weights(world):
    model = tiny_clip("resnet")
    model.network.visual.layer4[0].conv1.weight.data[:] = float("nan")
    some = [e for e in world if e.source == "good"][: FAULTS["weights"]]
    rows = gs.evaluate(model, some, ["gradcam"])
    return int(rows["error"].str.contains(SAYS["weights"]).sum())


def _the_good_ones_are_untouched(rows, world):
    good = [e for e in world if e.source == "good"]
    alone = gs.evaluate(tiny_clip("resnet"), good, ["center"])
    mine = rows[rows["source"] == "good"].reset_index(drop=True)
    pd.testing.assert_frame_equal(mine[SHOWN], alone[SHOWN])


QUOTA = """
import json, resource, sys, warnings
import pyarrow as pa
from gscam_lib.evaluation.questions import SCHEMA
from gscam_lib.evaluation.rows import Rows, read_rows
rows = [dict.fromkeys(SCHEMA.names, str(i)) | {"position": i, "area": 0.0} for i in range(6)]
table = pa.Table.from_pylist(rows, schema=SCHEMA)
for name in ("classes", "image"):
    table = table.append_column(name, pa.array(range(6), pa.int64()))
kept = Rows(sys.argv[1], {"run": "a"}, table)
hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
said = []
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    for i in range(6):
        resource.setrlimit(resource.RLIMIT_FSIZE, (hard if i in (2, 5) else 256, hard))
        kept.add({"example": i, "question": str(i), "method": "m", "measures": "localization"})
        kept.flush()
        said.append(len(caught))
print(json.dumps([said, read_rows(sys.argv[1])["example"].tolist()]))
"""


def test_a_disk_with_a_real_quota(tmp_path):
    """The system refuses files of more than 256 bytes but for two of the six times."""
    if sys.platform == "win32":
        pytest.skip("needs quotas (resource.setrlimit), which Windows does not have")
    done = subprocess.run(
        [sys.executable, "-c", QUOTA, str(tmp_path)], capture_output=True, text=True, check=True
    )
    warned, examples = json.loads(done.stdout)
    assert warned == [1, 2, 2, 3, 4, 4]
    assert examples == [0, 1, 2, 3, 4, 5]
    assert len(list(tmp_path.glob("part-*"))) == 2  # two parts, nothing half-written
