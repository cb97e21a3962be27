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
from wsibench.embedding import encoder, encoders as weights

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Hub(BaseHTTPRequestHandler):
    """The answers of the Hugging Face hub, as far as fetching a repository asks for them."""

    files = {"config.json": b"{}", "model.safetensors": b"weights" * 1000}  # noqa: RUF012
    # Repositories that hold something else.
    others = {  # noqa: RUF012
        "facebook/dinov2-base": {"README.md": b""},
        "prov-gigapath/prov-gigapath": {"config.json": b"{}", "pytorch_model.bin": b"tile", "slide_encoder.pth": b"s"},
        "owkin/phikon-v2": {"model.safetensors": b"no config"},
        "facebook/dinov2-giant": {
            "config.json": b"{}",
            "model-1.safetensors": b"1",
            "model-2.safetensors": b"2",
            "model.safetensors.index.json": b'{"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}}',
        },
    }

    def do_GET(self):
        repo = "/".join(self.path.removeprefix("/api/models").strip("/").split("/")[:2])
        refusals = {
            "MahmoodLab/UNI": (401, "GatedRepo"),
            "paige-ai/Virchow2": (403, "GatedRepo"),
            "owkin/phikon": (404, "RepoNotFound"),
            "google/medsiglip-448": (403, ""),
            "kaiko-ai/midnight": (429, ""),
        }
        files = self.others.get(repo, self.files)
        if repo in refusals:
            status, code = refusals[repo]
            self.answer(status, b"{}", {"X-Error-Code": code, "X-Error-Message": "no"})
        elif "/tree/" in self.path:
            entry = {"type": "file", "oid": COMMIT}
            tree = [entry | {"path": name, "size": len(content)} for name, content in files.items()]
            self.answer(200, json.dumps(tree).encode(), {})
        elif "/revision/" in self.path and not self.path.endswith(("main", COMMIT)):
            self.answer(404, b"{}", {"X-Error-Code": "RevisionNotFound"})
        elif self.path.startswith(f"/api/models/{repo}"):
            self.answer(200, json.dumps({"id": repo, "sha": COMMIT, "siblings": []}).encode(), {})
        elif (name := self.path.rsplit("/", 1)[1]) in files:
            body = files[name]
            headers = {"ETag": f'"{name}-{len(body)}"', "X-Repo-Commit": COMMIT}
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
from wsibench.embedding.encoders import fetch
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


def test_a_token_without_the_right_and_a_limit_of_requests_are_named(hub, tmp_path):
    said = fetched(tmp_path, hub, "medsiglip", "midnight-12k")
    assert said["medsiglip"].startswith("Hugging Face refuses medsiglip to your token. Enable access to public gated")
    assert said["midnight-12k"].startswith("Hugging Face refuses midnight-12k for now: too many requests. Wait")


def test_files_by_name_shards_and_rewritten_histories_are_fetched(hub, tmp_path):
    said = fetched(tmp_path, hub, "gigapath", "dinov2-giant", "phikon-v2")
    folder = Path(said["gigapath"])  # its pinned revision is none of this hub's
    assert folder.name == COMMIT
    assert [path.name for path in weights.weight_files(encoder("gigapath"), folder)] == ["pytorch_model.bin"]
    assert not (folder / "slide_encoder.pth").exists()
    shards = weights.weight_files(encoder("dinov2-giant"), Path(said["dinov2-giant"]))
    assert [path.name for path in shards] == ["model-1.safetensors", "model-2.safetensors"]
    shards[1].unlink()
    assert not weights.weight_files(encoder("dinov2-giant"), Path(said["dinov2-giant"]))
    assert "holds no config.json of phikon-v2, from which it is built" in said["phikon-v2"]


def test_an_unreachable_hub_is_named_as_the_cause(tmp_path):
    said = fetched(tmp_path, "http://127.0.0.1:9", "dinov2-small")["dinov2-small"]
    assert said.startswith("The weights of dinov2-small are not on this machine, and Hugging Face cannot be reached.")


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """Put files into a Hugging Face cache: ``cache(repo, revision, *names)``."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))

    def put(repo, revision, *names, newest=False):
        root = tmp_path / f"models--{repo.replace('/', '--')}"
        folder = root / "snapshots" / revision
        folder.mkdir(parents=True)
        for name in names:
            (folder / name).write_bytes(b"{}")
        if newest:
            (root / "refs").mkdir()
            (root / "refs" / "main").write_text(revision)
        return folder

    return put


def test_the_cache_of_other_tools_is_found(cache):
    folder = cache("MahmoodLab/uni", COMMIT, "pytorch_model.bin")
    assert weights.find(encoder("uni")) == folder


def test_a_cached_pickle_is_found_though_the_repository_has_safetensors_too(cache):
    folder = cache("facebook/dinov2-small", COMMIT, "config.json", "pytorch_model.bin", newest=True)
    assert weights.find(encoder("dinov2-small")) == folder


def test_of_several_revisions_the_pinned_one_then_the_newest_is_taken(cache):
    record = encoder("phikon")
    cache(record.repo, "a" * 40, "config.json", "model.safetensors")
    newest = cache(record.repo, "b" * 40, "config.json", "model.safetensors", newest=True)
    cache(record.repo, "0" * 40, "config.json")  # of which the weights were never fetched
    assert weights.find(record) == newest
    pinned = cache(record.repo, record.revision, "config.json", "model.safetensors")
    assert weights.find(record) == pinned


def test_another_file_than_the_pinned_one_is_noticed_and_not_refused(data_root, tmp_path):
    (tmp_path / "pytorch_model.bin").write_bytes(b"a")
    record = encoder("uni")
    assert weights.as_pinned(record, weights.find(record, tmp_path)) is False
    pinned = record.model_copy(update={"sha256": file_sha256(tmp_path / "pytorch_model.bin")})
    assert weights.as_pinned(pinned, tmp_path) is True
    assert weights.as_pinned(record.model_copy(update={"sha256": None}), tmp_path) is None


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
    record = encoder("dinov2-small")
    (tmp_path / "pytorch_model.bin").write_bytes(b"a")
    assert [path.name for path in weights.weight_files(record, tmp_path)] == ["pytorch_model.bin"]
    (tmp_path / "model.safetensors").write_bytes(b"b")
    assert [path.name for path in weights.weight_files(record, tmp_path)] == ["model.safetensors"]
    # Unless the record names a file.
    assert [path.name for path in weights.weight_files(encoder("uni"), tmp_path)] == ["pytorch_model.bin"]


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


def test_another_configuration_has_another_hash_where_the_model_is_built_from_it(data_root, tmp_path):
    save_file({"a": torch.zeros(3)}, tmp_path / "model.safetensors")
    hashes = {}
    for eps in ("1e-6", "1e-12"):
        (tmp_path / "config.json").write_text(f'{{"layer_norm_eps": {eps}}}')
        for name in ("phikon", "gigapath", "uni"):
            hashes.setdefault(name, set()).add(weights.weights_hash(encoder(name), tmp_path))
    assert {name: len(found) for name, found in hashes.items()} == {"phikon": 2, "gigapath": 2, "uni": 1}


def test_encoders_without_weights_are_hashed_by_their_construction():
    assert weights.weights_hash(encoder("colour"), None) != weights.weights_hash(encoder("texture"), None)
