"""`siglip-server eval` beside a plain NumPy computation on the vectors that `embed` gives."""

import csv
import json
import os
import shutil
import subprocess

import numpy as np
import pytest
from server_fixtures import IMAGES, ROOT

BINARY = ROOT / os.environ.get("SIGLIP_E2E_BINARY", "target/release/siglip-server")
# exp(logit_scale) and logit_bias of the demo checkpoint come from /info of the running server.
CAPTIONS = {
    "apple-alpha.png": "an apple",
    "car.png": "a red car",
    "cat.png": "a cat",
    "dog.jpg": "a dog",
    "guitar-grey.png": "a guitar",
    "pizza.webp": "a pizza",
    "sunflower.jpg": "a sunflower",
}


def run(*arguments, code=0):
    # The server takes its variables for options, and this test has one of its own.
    env = {"PATH": os.environ["PATH"]}
    done = subprocess.run([BINARY, *arguments], capture_output=True, text=True, timeout=120, check=False, env=env)
    assert done.returncode == code, done.stderr
    return done.stdout


def vectors(paths, texts):
    arguments = [str(path) for path in paths]
    for text in texts:
        arguments += ["--text", text]
    lines = [json.loads(line) for line in run("embed", *arguments).splitlines()]
    rows = np.array([line["embedding"] for line in lines], np.float64)
    return rows[: len(paths)], rows[len(paths) :]


@pytest.fixture(scope="module")
def scale_and_bias(server):
    import httpx

    scoring = httpx.get(server.http + "/info").json()["models"][0]["scoring"]
    return np.exp(np.float64(np.float32(scoring["logit_scale"]))), scoring["logit_bias"]


def log_sigmoid(x):
    return -np.logaddexp(0, -x)


def recalls(scores, positives):
    best = np.where(positives, scores, -np.inf).max(1, keepdims=True)
    before = (scores > best).sum(1)
    return {f"r{k}": np.mean(before < k) for k in (1, 5, 10)}


def expected(images, texts, pairs, scale_and_bias):
    scale, bias = scale_and_bias
    cosines = images @ texts.T
    positives = np.zeros(cosines.shape, bool)
    positives[pairs[:, 0], pairs[:, 1]] = True
    # One row of the data after the other, as in training.
    logits = scale * cosines[np.ix_(pairs[:, 0], pairs[:, 1])]
    n = len(pairs)
    signs = 2 * np.eye(n) - 1
    right = np.diag(logits)
    softmax = (np.log(np.exp(logits).sum(1)) - right).mean() + (np.log(np.exp(logits).sum(0)) - right).mean()
    probabilities = 1 / (1 + np.exp(-(scale * cosines + bias)))
    ece = 0
    for low in range(10):
        inside = np.minimum((probabilities * 10).astype(int), 9) == low
        if inside.any():
            ece += abs(probabilities[inside].mean() - positives[inside].mean()) * inside.mean()
    return {
        "sigmoid": -log_sigmoid(signs * (logits + bias)).sum() / n,
        "softmax": softmax / 2,
        "image_to_text": recalls(cosines, positives),
        "text_to_image": recalls(cosines.T, positives.T),
        "ece": ece,
        "probabilities": probabilities,
        "positives": positives,
    }


def assert_thresholds(found, wanted):
    for row in found:
        chosen = wanted["probabilities"] >= row["probability"]
        hits = (chosen & wanted["positives"]).sum()
        recall = hits / wanted["positives"].sum()
        assert row["recall"] == pytest.approx(recall, abs=1e-6)
        if chosen.any():
            assert row["precision"] == pytest.approx(hits / chosen.sum(), abs=1e-6)
            assert row["f1"] == pytest.approx(2 * hits / (chosen.sum() + wanted["positives"].sum()), abs=1e-6)
        else:
            assert row["precision"] is None and row["f1"] == 0


def assert_same(found, wanted):
    assert found["loss"]["sigmoid"] == pytest.approx(wanted["sigmoid"], abs=1e-6)
    assert found["loss"]["softmax"] == pytest.approx(wanted["softmax"], abs=1e-6)
    for way in ("image_to_text", "text_to_image"):
        assert found["retrieval"][way] == pytest.approx(wanted[way], abs=1e-6)
    assert found["calibration"]["ece"] == pytest.approx(wanted["ece"], abs=1e-6)
    assert_thresholds(found["thresholds"], wanted)


def test_captions(scale_and_bias, tmp_path):
    with open(tmp_path / "captions.csv", "w", newline="") as out:
        rows = csv.writer(out)
        rows.writerow(["caption", "image"])
        for name, caption in CAPTIONS.items():
            rows.writerow([caption, name])
            shutil.copy(IMAGES / name, tmp_path / name)
        # A second caption of one image, and a caption that two images have.
        rows.writerow(["a car, on a road", "car.png"])
        rows.writerow(["a cat", "dog.jpg"])
    report = tmp_path / "report.html"
    found = json.loads(run("eval", tmp_path / "captions.csv", "--json", "--report", report, "--precision", "0.5"))
    texts = [*CAPTIONS.values(), "a car, on a road"]
    names = list(CAPTIONS)
    images, vectors_of_texts = vectors([IMAGES / name for name in names], texts)
    pairs = [[index, index] for index in range(len(names))]
    pairs += [[names.index("car.png"), len(names)], [names.index("dog.jpg"), texts.index("a cat")]]
    wanted = expected(images, vectors_of_texts, np.array(pairs), scale_and_bias)
    assert (found["n"], found["images"], found["texts"], found["zero_shot"]) == (9, 7, 8, None)
    assert_same(found, wanted)
    threshold = found["wanted"]["threshold"]
    assert threshold["precision"] >= 0.5
    page = report.read_text()
    assert page.count("<svg") >= 2 and "http" not in page.replace("http-equiv", "")


def test_classes(scale_and_bias, tmp_path):
    classes = {"cat": ["cat.png"], "sports_car": ["car.png"], "dog": ["dog.jpg", "cat.png"]}
    for label, names in classes.items():
        (tmp_path / label).mkdir()
        for name in names:
            shutil.copy(IMAGES / name, tmp_path / label / name)
    (tmp_path / "cat" / "broken.png").write_bytes(b"no image")
    prompts = ["a photo of a {label}", "a drawing of a {label}"]
    options = [part for prompt in prompts for part in ("--prompt", prompt)]
    found = json.loads(run("eval", tmp_path, *options, "--json", code=3))
    labels = sorted(classes)
    images, written = vectors(
        [tmp_path / label / name for label in labels for name in sorted(classes[label])],
        [prompt.replace("{label}", label.replace("_", " ")) for label in labels for prompt in prompts],
    )
    texts = written.reshape(len(labels), len(prompts), -1).mean(1)
    texts /= np.linalg.norm(texts, axis=1, keepdims=True)
    owners = [index for index, label in enumerate(labels) for _ in classes[label]]
    pairs = np.array([[image, label] for image, label in enumerate(owners)])
    wanted = expected(images, texts, pairs, scale_and_bias)
    assert (found["n"], found["skipped"]) == (4, 1)
    assert_same(found, wanted)
    right = (images @ texts.T).argmax(1) == owners
    assert found["zero_shot"] == {"top1": pytest.approx(right.mean()), "top5": 1.0}
    assert "Zero-shot accuracy" in run("eval", tmp_path, code=3)


def test_what_cannot_be_evaluated_is_said(tmp_path):
    (tmp_path / "list.txt").write_text("x")
    for wrong, code in ((tmp_path / "nothing", 1), (tmp_path / "list.txt", 1), (tmp_path, 1)):
        run("eval", wrong, code=code)


def test_bench(server, tmp_path):
    """The load generator beside the server's own count of what it answered."""
    import httpx

    def answered():
        lines = httpx.get(server.http + "/metrics").text.splitlines()
        name = 'siglip_requests_total{code="ok",route="/v1/embeddings"}'
        return float(next(line for line in lines if line.startswith(name)).split()[-1])

    before, drawing = answered(), tmp_path / "times.svg"
    options = ["--rate", "20,40", "--seconds", "1", "--image", str(IMAGES / "cat.png"), "--json", "--svg", str(drawing)]
    found = json.loads(run("bench", server.http, *options))
    assert [round["requests"] for round in found["rounds"]] == [20, 40]
    assert all(round["codes"] == {"200": round["requests"]} for round in found["rounds"])
    assert answered() - before == 60
    for round in found["rounds"]:
        time = round["time"]
        assert 0 < time["p50"] <= time["p90"] <= time["p99"] <= time["max"]
    assert drawing.read_text().count("<polyline") == 3
    # Texts that are refused are no success.
    assert "413" in run("bench", server.http, "--text", "x" * 100_000, "--rate", "2", "--seconds", "1", code=1)


def test_classify():
    found = run("classify", str(IMAGES / "cat.png"), "--label", "cat", "--label", "car", "--json", "--top-k", "1")
    labels = json.loads(found)["labels"]
    assert [label["label"] for label in labels] == ["cat"]
    table = run("classify", str(IMAGES / "cat.png"), "/nowhere.png", "--label", "cat", "--label", "car", code=3)
    assert "%  cat" in table and '"code":"invalid_request"' in table
