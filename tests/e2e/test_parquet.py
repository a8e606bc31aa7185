"""Parquet files that pyarrow writes are read by `embed` and `eval`, and pandas reads what `embed --out` writes."""

import csv
import json
import os
import signal
import subprocess
import time

import numpy as np
import pandas
import pyarrow
import pyarrow.parquet
import pytest
from server_fixtures import IMAGES, ROOT

BINARY = ROOT / os.environ.get("SIGLIP_E2E_BINARY", "target/release/siglip-server")
CAPTIONS = {
    "car.png": "a red car",
    "cat.png": "a cat",
    "dog.jpg": "a dog",
    "pizza.webp": "a pizza",
    "sunflower.jpg": "a sunflower",
}
# The server takes its variables for options, and this test has one of its own.
ENVIRONMENT = {"PATH": os.environ["PATH"]}


def run(*arguments, code=0):
    done = subprocess.run(
        [BINARY, *arguments], capture_output=True, text=True, timeout=120, check=False, env=ENVIRONMENT
    )
    assert done.returncode == code, done.stderr
    return done


def images():
    return [(IMAGES / name).read_bytes() for name in CAPTIONS]


@pytest.fixture(scope="module")
def expected():
    """The embeddings of the files themselves."""
    lines = run("embed", *[str(IMAGES / name) for name in CAPTIONS]).stdout.splitlines()
    return np.array([json.loads(line)["embedding"] for line in lines], np.float32)


def write(path, columns, **options):
    pyarrow.parquet.write_table(pyarrow.table(columns), path, **options)
    return str(path)


FORMS = {
    "snappy": (pyarrow.binary(), {"compression": "snappy"}),
    "zstd": (pyarrow.large_binary(), {"compression": "zstd", "row_group_size": 2}),
    "plain": (pyarrow.binary_view(), {"compression": "none", "use_dictionary": False}),
    "second version of pages": (pyarrow.binary(), {"data_page_version": "2.0", "compression": "zstd"}),
    "with an index": (pyarrow.binary(), {"write_page_index": True, "data_page_size": 1000}),
}


@pytest.mark.parametrize("form", FORMS)
def test_images_are_read_in_every_form_that_pyarrow_writes(form, expected, tmp_path):
    kind, options = FORMS[form]
    ids = pyarrow.array(list(CAPTIONS), pyarrow.string_view() if form == "plain" else pyarrow.string())
    if form == "snappy":
        ids = ids.dictionary_encode()
    columns = {"caption": list(CAPTIONS.values()), "image": pyarrow.array(images(), kind), "id": ids}
    data = write(tmp_path / "data.parquet", columns, **options)
    run("embed", data, "--out", str(tmp_path / "v.parquet"))

    found = pandas.read_parquet(tmp_path / "v.parquet")
    assert list(found["id"]) == list(CAPTIONS) and not found["truncated"].any()
    np.testing.assert_allclose(np.stack(found["embedding"]), expected, atol=1e-6)
    schema = pyarrow.parquet.read_schema(tmp_path / "v.parquet")
    assert schema.field("embedding").type == pyarrow.list_(pyarrow.field("element", pyarrow.float32(), False), 192)
    assert schema.metadata[b"dimensions"] == b"192" and schema.metadata[b"model"] == b"demo"
    assert schema.metadata[b"revision"] and schema.metadata[b"preprocessing_version"] and schema.metadata[b"dtype"]


def test_the_form_of_hugging_face_with_paths_and_nulls(expected, tmp_path):
    names = list(CAPTIONS)
    os.symlink(IMAGES / names[1], tmp_path / "linked.png")
    held = [
        {"bytes": images()[0], "path": "any.png"},
        {"bytes": None, "path": "linked.png"},
        {"bytes": None, "path": None},
        None,
        {"bytes": b"no image", "path": None},
    ]
    columns = {"image": held, "label": [0, 1, 1, 0, 0]}
    data = write(tmp_path / "data.parquet", columns)
    out = tmp_path / "v.parquet"
    done = run("embed", data, "--out", str(out), code=3)
    assert "3 of 5 rows failed" in done.stderr
    found = pandas.read_parquet(out)
    assert list(found["id"]) == [f"{data}:1", f"{data}:2"]
    np.testing.assert_allclose(np.stack(found["embedding"]), expected[:2], atol=1e-6)
    errors = [json.loads(line) for line in (tmp_path / "v.parquet.errors.ndjson").read_text().splitlines()]
    assert [error["id"] for error in errors] == [f"{data}:{number}" for number in (3, 4, 5)]
    assert [error["error"]["code"] for error in errors] == ["invalid_request"] * 2 + ["undecodable_image"]


def test_texts_and_ids_of_columns_and_an_index_of_others(tmp_path):
    columns = {
        "key": pyarrow.array([7, 8, None], pyarrow.uint16()),
        "words": pyarrow.array(["a pizza", None, "a car"], pyarrow.large_string()),
        "when": pyarrow.array([0.5, 1.5, 2.5]),
    }
    data = write(tmp_path / "data.parquet", columns)
    lines = run("embed", data, "--text-column", "words", code=3).stdout.splitlines()
    assert [("embedding" in json.loads(line)) for line in lines] == [True, False, False]
    refused = run("embed", data, "--text-column", "when", code=1).stderr
    assert "has floats, and no texts: its columns are `key` (integers), `words` (text), `when` (floats)" in refused
    refused = run("embed", data, code=1).stderr
    assert "--image-column or --text-column" in refused
    gzip = write(tmp_path / "gzip.parquet", columns, compression="gzip")
    assert "gzip" in run("embed", gzip, "--text-column", "words", code=1).stderr.lower()

    rows = [json.loads(line)["embedding"] for line in run("embed", "--text", "a pizza", "--text", "a car").stdout.splitlines()]
    for kind in (pyarrow.list_(pyarrow.float32()), pyarrow.list_(pyarrow.float64(), 192), pyarrow.large_list(pyarrow.float16())):
        values = [np.array(row, np.float16) if "half" in str(kind) else row for row in rows]
        index = write(tmp_path / "index.parquet", {"id": ["pizza", "car"], "embedding": pyarrow.array(values, kind)})
        first = json.loads(run("search", index, "a car", "--json").stdout.splitlines()[0])
        assert first["id"] == "car" and first["cosine"] > 0.9999


def evaluated(path, *arguments):
    found = json.loads(run("eval", str(path), "--json", *arguments).stdout)
    del found["loss_cost"]
    return found


def test_an_evaluation_is_that_of_the_same_images_in_files(tmp_path):
    rows = [(name, caption) for name, caption in CAPTIONS.items()] + [("cat.png", "a drawing of a cat")]
    with open(tmp_path / "captions.csv", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["image", "caption"])
        writer.writerows([(IMAGES / name, caption) for name, caption in rows])
    image = [(IMAGES / name).read_bytes() for name, _ in rows]
    data = write(tmp_path / "data.parquet", {"image": image, "caption": [it for _, it in rows]}, row_group_size=4)
    assert evaluated(data) == evaluated(tmp_path / "captions.csv")

    # Classes: integers with names as Hugging Face writes them, and names themselves.
    names = ["cat", "hot_dog", "red_car"]
    labels = {"cat.png": 0, "car.png": 2, "pizza.webp": 1}
    for name, label in labels.items():
        folder = tmp_path / "classes" / names[label]
        folder.mkdir(parents=True)
        os.symlink(IMAGES / name, folder / name)
    in_order = sorted(labels, key=lambda name: names[labels[name]])
    columns = {"image": [(IMAGES / name).read_bytes() for name in in_order]}
    note = {"info": {"features": {"label": {"names": names, "_type": "ClassLabel"}}}}
    table = pyarrow.table(columns | {"label": [labels[name] for name in in_order]})
    table = table.replace_schema_metadata({"huggingface": json.dumps(note)})
    pyarrow.parquet.write_table(table, tmp_path / "numbers.parquet")
    write(tmp_path / "names.parquet", columns | {"label": [names[labels[name]] for name in in_order]})
    of_folders = evaluated(tmp_path / "classes", "--prompt", "a {label}")
    assert of_folders["zero_shot"]["top1"] is not None
    assert evaluated(tmp_path / "numbers.parquet", "--prompt", "a {label}") == of_folders
    assert evaluated(tmp_path / "names.parquet", "--prompt", "a {label}") == of_folders


def test_an_interrupted_run_goes_on_with_every_row_once(tmp_path):
    count = 1500
    texts = [f"a text with the number {number}" for number in range(count)]
    data = write(tmp_path / "data.parquet", {"id": list(range(count)), "text": texts}, row_group_size=400)
    out, part = tmp_path / "v.parquet", tmp_path / "v.parquet.part"
    arguments = [BINARY, "embed", data, "--out", str(out)]
    child = subprocess.Popen(arguments, stderr=subprocess.DEVNULL, env=ENVIRONMENT)
    end = time.monotonic() + 100
    while not (part.exists() and part.read_bytes().count(b"\n") > 150):
        assert child.poll() is None and time.monotonic() < end
        time.sleep(0.005)
    child.send_signal(signal.SIGKILL)
    child.wait()
    assert not out.exists()
    done = run(*arguments[1:])
    assert "rows are done already" in done.stderr and not part.exists()
    found = pandas.read_parquet(out)
    assert list(found["id"]) == [str(number) for number in range(count)]
    alone = json.loads(run("embed", "--text", texts[-1]).stdout)["embedding"]
    np.testing.assert_allclose(found["embedding"].iloc[-1], alone, atol=1e-6)
