"""Weights: every way of not having them is one error with its remedy."""

import json
import os
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from wsibench.core import Study, WeightsError, file_sha256
from wsibench.embedding import encoder, weights

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Hub(BaseHTTPRequestHandler):
    """The answers of the Hugging Face hub, as far as fetching a repository asks for them."""

    files = {"config.json": b"{}", "model.safetensors": b"weights" * 1000}  # noqa: RUF012

    def do_GET(self):
        repo = "/".join(self.path.removeprefix("/api/models").strip("/").split("/")[:2])
        refusals = {
            "MahmoodLab/UNI": (401, "GatedRepo"),
            "paige-ai/Virchow2": (403, "GatedRepo"),
            "owkin/phikon": (404, "RepoNotFound"),
        }
        if repo in refusals:
            status, code = refusals[repo]
            self.answer(status, b"{}", {"X-Error-Code": code, "X-Error-Message": "no"})
        elif "/tree/" in self.path:
            names = ["README.md"] if repo == "facebook/dinov2-base" else list(self.files)
            entry = {"type": "file", "oid": COMMIT}
            tree = [entry | {"path": name, "size": len(self.files.get(name, b""))} for name in names]
            self.answer(200, json.dumps(tree).encode(), {})
        elif self.path.startswith(f"/api/models/{repo}"):
            self.answer(200, json.dumps({"id": repo, "sha": COMMIT, "siblings": []}).encode(), {})
        elif (name := self.path.rsplit("/", 1)[1]) in self.files:
            body = self.files[name]
            headers = {"ETag": f'"{len(body)}"', "X-Repo-Commit": COMMIT}
            self.answer(200, body, headers, cut="dinov2-large" in repo)
        else:
            self.answer(404, b"{}", {})

    do_HEAD = do_GET

    def answer(self, status, body, headers, cut=False):
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body[: len(body) // 2] if cut and len(body) > 10 else body)

    def log_message(self, *_):
        """Say nothing."""


FETCH = """
import json, sys
from wsibench.embedding import encoder
from wsibench.core import WeightsError
from wsibench.embedding.weights import fetch
said = {}
for name in sys.argv[1:]:
    try:
        said[name] = str(fetch(encoder(name)))
    except WeightsError as error:
        said[name] = str(error)
print(json.dumps(said))
"""


def fetched(home: Path, endpoint: str, *names: str, **more: str) -> dict[str, str]:
    """What `fetch` returns or says in a fresh process that takes `endpoint` for the hub."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith("HF_")}
    environment |= {"HF_ENDPOINT": endpoint, "HF_HOME": str(home), "HF_HUB_DISABLE_TELEMETRY": "1", **more}
    run = [sys.executable, "-c", FETCH, *names]
    return json.loads(subprocess.run(run, env=environment, capture_output=True, text=True, check=True).stdout)


@pytest.fixture(scope="module")
def hub():
    with ThreadingHTTPServer(("127.0.0.1", 0), Hub) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_every_refusal_of_the_hub_has_its_remedy(hub, tmp_path):
    names = ["uni", "virchow2", "phikon", "dinov2-base", "dinov2-large", "dinov2-small"]
    said = fetched(tmp_path, hub, *names, HF_HUB_DOWNLOAD_TIMEOUT="2")
    assert said["uni"] == (
        "uni is gated on Hugging Face and you are not logged in. "
        "1. request access: https://huggingface.co/MahmoodLab/UNI (licence CC-BY-NC-ND-4.0) "
        "2. hf auth login, or set HF_TOKEN; or give a local folder: weights: {uni: /path/to/dir}"
    )
    assert said["virchow2"].startswith("virchow2 is gated on Hugging Face and your account has not been granted access")
    assert said["phikon"].startswith("There is no owkin/phikon on Hugging Face")
    assert said["dinov2-base"].startswith("facebook/dinov2-base holds no weights of dinov2-base.")
    assert said["dinov2-large"].startswith("The weights of dinov2-large could not be fetched")
    for name in names[:-1]:
        assert f"weights: {{{name}: /path/to/dir}}" in said[name]
    folder = Path(said["dinov2-small"])
    assert (folder / "model.safetensors").read_bytes() == Hub.files["model.safetensors"]

    # What is in the cache needs no network; what is not says so.
    offline = fetched(tmp_path, "http://127.0.0.1:9", "dinov2-small", "medsiglip", HF_HUB_OFFLINE="1")
    assert offline["dinov2-small"] == str(folder)
    assert offline["medsiglip"].startswith("The weights of medsiglip are not on this machine, and Hugging Face cannot")
    assert "https://huggingface.co/google/medsiglip-448" in offline["medsiglip"]


def test_an_unreachable_hub_is_named_as_the_cause(tmp_path):
    said = fetched(tmp_path, "http://127.0.0.1:9", "dinov2-small")["dinov2-small"]
    assert said.startswith("The weights of dinov2-small are not on this machine, and Hugging Face cannot be reached.")


def study(data_root: Path, text: str) -> Study:
    (data_root / "tiny").mkdir()
    (data_root / "tiny" / "study.yaml").write_text("title: T\ncohort: {source: simulate}\n" + text)
    return Study.load("tiny")


def test_the_studys_folder_takes_precedence_over_the_environments(data_root, tmp_path, monkeypatch):
    (tmp_path / "uni").mkdir()
    monkeypatch.setenv("WSIBENCH_WEIGHTS", str(tmp_path))
    assert weights.local_folder("uni") == tmp_path / "uni"
    assert weights.local_folder("phikon") is None
    given = study(data_root, "weights: {uni: own}\n")
    assert weights.local_folder("uni", given) == data_root / "tiny" / "own"
    with pytest.raises(WeightsError, match="own holds no weights of uni"):
        weights.find(encoder("uni"), weights.local_folder("uni", given))


def test_safetensors_are_preferred_to_pickles(tmp_path):
    (tmp_path / "pytorch_model.bin").write_bytes(b"a")
    assert [path.name for path in weights.weight_files(tmp_path)] == ["pytorch_model.bin"]
    (tmp_path / "model.safetensors").write_bytes(b"b")
    assert [path.name for path in weights.weight_files(tmp_path)] == ["model.safetensors"]


def test_other_weights_have_another_hash_and_the_same_file_is_hashed_once(data_root, tmp_path, monkeypatch):
    path = tmp_path / "model.safetensors"
    save_file({"a": torch.zeros(3)}, path)
    first = weights.weights_hash(encoder("uni"), tmp_path)
    assert first == file_sha256(path)
    with monkeypatch.context() as patch:
        patch.setattr(weights, "file_sha256", lambda path: pytest.fail("hashed again"))
        assert weights.weights_hash(encoder("uni"), tmp_path) == first
    save_file({"a": torch.ones(3)}, path)
    assert weights.weights_hash(encoder("uni"), tmp_path) != first
    save_file({"a": torch.ones(3)}, tmp_path / "second.safetensors")
    assert weights.weights_hash(encoder("uni"), tmp_path) not in (first, file_sha256(path))


def test_encoders_without_weights_are_hashed_by_their_construction():
    assert weights.weights_hash(encoder("colour"), None) != weights.weights_hash(encoder("texture"), None)
