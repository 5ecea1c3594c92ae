"""Push, pull and plug over HTTP, against a small server that speaks as the hub does; every pull has a cache of its own."""

import dataclasses
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import timm
import torch
import yaml
from huggingface_hub import constants
from torch import Tensor
from torchvision.transforms.functional import to_pil_image

import loradar
from loradar.adapters import fingerprint, init_adapter, load, read_adapter, save
from loradar.cli import main
from loradar.core.digests import DIGEST
from loradar.core.errors import BadConfigError, BadFileError, WrongBaseError
from loradar.evaluation import AccuracyResult
from loradar.fewshot.pools import base_of, open_pool
from loradar.guard.files import read_parts, save_guard
from loradar.hub import pull, push
from loradar.hub.cards import results_of_guard
from loradar.jobs.bases import open_model
from loradar.models import load_base, new_base, save_base
from loradar.report.guards import Choice, Kept
from loradar.serve.models import Opening, kind_of, open_served
from tests.guard import toys
from tests.hub_server import READER, WRITER, Hub, Repo, serving

X = torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def server() -> Iterator[Hub]:
    with serving() as hub:
        yield hub


@pytest.fixture
def hub(server: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Hub:
    """The server, empty, as the one that the client asks, with a token that may write and an empty cache."""
    server.repos.clear()
    server.requests.clear()
    monkeypatch.setattr(constants, "ENDPOINT", server.address)
    template = f"{server.address}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache" / "hub"))
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no-token"))
    monkeypatch.setenv("HF_TOKEN", WRITER)
    return server


@pytest.fixture
def fresh_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    return lambda name: monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / name))


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = new_base("timm:test_resnet", num_classes=4, input_size=(3, 32, 32), classes=list("abcd"), seed=1)
    return save_base(tmp_path_factory.mktemp("bases") / "base", made)


@pytest.fixture(scope="module")
def adapter(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return _adapter(base, tmp_path_factory.mktemp("adapters") / "mine")


@pytest.fixture(scope="module")
def guard(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    opened, one, folder = load_base(str(base)), toys.state(), tmp_path_factory.mktemp("guards")
    adapters = {name: load(_adapter(base, folder / name, seed=i)) for i, name in enumerate(toys.THREATS)}
    record = dataclasses.replace(one.record, base=str(base), base_fingerprint=fingerprint(opened.model))
    return save_guard(dataclasses.replace(one, record=record, base=opened, adapters=adapters), folder / "guard")


@pytest.fixture(scope="module")
def task(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    fitted = loradar.FewShotClassifier(str(base)).fit(torch.cat([X, 1 - X]), ["dark"] * 3 + ["bright"] * 3)
    return fitted.save(tmp_path_factory.mktemp("tasks") / "task")


def _adapter(base: Path, folder: Path, seed: int = 0) -> Path:
    model = load_base(str(base)).model
    one = init_adapter(model, target_modules="block-conv1", rank=2, name=folder.name, seed=seed)
    for delta in one.deltas.values():
        delta.b.data.normal_(0, 0.1, generator=torch.Generator().manual_seed(seed))
    attacks = [("none", "clean"), ("pgd:eps=8/255", "transfer"), ("pgd:eps=8/255", "adaptive")]
    rows = [
        AccuracyResult.count(model=folder.name, attack=attack, threat=threat, correct=30, total=40, seed=0)  # type: ignore[arg-type]
        for attack, threat in attacks
    ]
    measured = [dataclasses.asdict(row) for row in rows]
    return save(one.with_card(measured=measured, trained_against="pgd", data={"source": "digits"}), folder)


def _logits(model: torch.nn.Module) -> Tensor:
    with torch.no_grad():
        logits: Tensor = model.eval()(X.to(next(model.parameters()).device))
    return logits.cpu()


def _line(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """The one line that the command line ends with, having refused."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(sys, "argv", ["loradar", *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
    assert ended.value.code == 2
    line = capsys.readouterr().err
    assert line.startswith("loradar: ")
    assert line.count("\n") == 1, line
    return line


def _json(capsys: pytest.CaptureFixture[str], *arguments: str) -> Any:
    """What a command prints as JSON."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(sys, "argv", ["loradar", *arguments, "--json"])
        with pytest.raises(SystemExit) as ended:
            main()
    captured = capsys.readouterr()
    assert (ended.value.code or 0, captured.err) == (0, "")
    return json.loads(captured.out)


def test_an_adapter_goes_and_comes_with_the_same_bits(
    hub: Hub, base: Path, adapter: Path, tmp_path: Path, fresh_cache: Callable[[str], None]
) -> None:
    push(base, "me/base")
    sent = push(adapter, "me/mine", base="hub:me/base", license_name="apache-2.0")
    assert sent.url == f"{hub.address}/me/mine/commit/{sent.commit}"
    assert sent.base == f"hub:me/base@{hub.repos['me/base'].branches['main']}"
    fresh_cache("elsewhere")
    pulled, kind = pull("me/mine", tmp_path / "pulled")
    assert kind == "adapter"
    name = "adapter_model.safetensors"
    assert (pulled / name).read_bytes() == (adapter / name).read_bytes()
    assert load(pulled).card.data["base"] == sent.base
    expected = _logits(loradar.plug(str(base), adapter))
    assert torch.equal(_logits(loradar.plug(sent.base, f"hub:me/mine@{sent.commit}")), expected)
    assert "base" not in load(adapter).card.data, "the folder on disk stays as it was"


def test_a_guard_is_opened_elsewhere_with_its_base(
    hub: Hub, base: Path, guard: Path, tmp_path: Path, fresh_cache: Callable[[str], None]
) -> None:
    push(base, "me/base")
    with pytest.raises(BadFileError, match="push the base first"):
        push(guard, "me/guard")
    before = (guard / "guard.json").read_bytes()
    push(guard, "me/guard", base="hub:me/base")
    assert (guard / "guard.json").read_bytes() == before
    assert str(base).encode() not in b"".join(
        hub.repos["me/guard"].commits[hub.repos["me/guard"].branches["main"]].values()
    )
    fresh_cache("elsewhere")
    expected = _logits(loradar.Guard.open(guard))
    assert torch.equal(_logits(loradar.Guard.open("hub:me/guard")), expected)
    pulled, _ = pull("me/guard", tmp_path / "pulled")
    assert torch.equal(_logits(loradar.Guard.open(pulled)), expected)


def test_a_task_is_opened_elsewhere_with_its_base(
    hub: Hub, base: Path, task: Path, fresh_cache: Callable[[str], None]
) -> None:
    with pytest.raises(BadFileError, match="push the base first"):
        push(task, "me/task")
    push(base, "me/base")
    push(task, "me/task", base="hub:me/base")
    assert hub.repos["me/task"].private is False
    fresh_cache("elsewhere")
    opened, own = loradar.FewShotClassifier.load("hub:me/task"), loradar.FewShotClassifier.load(task)
    assert torch.equal(opened.decision_function(X), own.decision_function(X))
    assert opened.classes_.tolist() == ["bright", "dark"]


@pytest.mark.usefixtures("hub")
def test_a_pool_names_its_base_and_loses_what_it_lost(
    base: Path, tmp_path: Path, fresh_cache: Callable[[str], None]
) -> None:
    pool = tmp_path / "pool"
    for name in ("a", "b"):
        _adapter(base, pool / "pool" / name)
    (pool / "run.json").write_text(json.dumps({"base": str(base), "seed": 0}))
    (pool / "work").mkdir()
    for name in ("work/checkpoint.safetensors", ".hidden.json", "notes.md", "pool/a/model.pt"):
        (pool / name).write_text("not to be sent")
    push(base, "me/base")
    sent = push(pool, "me/pool", base="hub:me/base")
    assert {Path(name).name for name in sent.files} == {
        *("run.json", "README.md", "loradar.json", "adapter_config.json", "adapter_model.safetensors")
    }
    (pool / "pool" / "b").rename(tmp_path / "b")
    push(pool, "me/pool", base="hub:me/base")
    fresh_cache("elsewhere")
    assert list(open_pool("hub:me/pool")) == ["a"]
    assert base_of("hub:me/pool") == sent.base
    fitted = loradar.FewShotClassifier(sent.base, "hub:me/pool").fit(torch.cat([X, 1 - X]), [0, 0, 0, 1, 1, 1])
    assert len(fitted.predict(X)) == 3


@pytest.mark.usefixtures("hub")
def test_commands_take_a_name_on_the_hub(
    base: Path, guard: Path, task: Path, adapter: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    push(base, "me/base")
    for name, folder in (("guard", guard), ("task", task), ("adapter", adapter)):
        push(folder, f"me/{name}", base="hub:me/base")
    picture = str(tmp_path / "picture.png")
    to_pil_image(X[0]).save(picture)
    assert open_model("hub:me/task", "cpu").classes == ("bright", "dark")
    by_name = _json(capsys, "predict", picture, "--base", "hub:me/base", "--adapter", "hub:me/adapter")
    assert by_name == _json(capsys, "predict", picture, "--base", str(base), "--adapter", str(adapter))
    assert _json(capsys, "few-shot", "classify", "hub:me/task", picture)[0]["answer"] in ("bright", "dark")
    assert _json(capsys, "guard", "classify", picture, "--guard", "hub:me/guard")[0]["voters"].keys() == {
        *("base", "patch", "noise")
    }
    assert _json(capsys, "adapters", "verify", "hub:me/guard")["verified"]
    assert _json(capsys, "adapters", "show", "hub:me/adapter")["name"] == "mine"
    kinds = [kind_of(f"hub:me/{name}") for name in ("guard", "task", "adapter", "base")]
    assert kinds == ["guard", "task", "adapter", "base"]
    served = open_served("hub:me/task", Opening(device="cpu"), name="task", version="1")
    assert served.fingerprint == read_adapter("hub:me/task")[1]


def test_a_model_of_timm_is_a_base_at_its_revision(hub: Hub) -> None:
    model = timm.create_model("test_resnet", num_classes=4)
    config = {"architecture": "test_resnet", "num_classes": 4, "pretrained_cfg": {"input_size": [3, 32, 32]}}
    weights = safetensors.torch.save(model.state_dict(), {"format": "pt"})
    repo = hub.repos["me/timm"] = Repo()
    sha = repo.commit("main", {"config.json": json.dumps(config).encode(), "model.safetensors": weights})
    repo.commit("main", {})
    opened = load_base(f"hub:me/timm@{sha}")
    own = opened.model.state_dict()
    assert all(torch.equal(own[f"wrapped.{name}"], value) for name, value in model.state_dict().items())
    assert opened.input_size == (3, 32, 32)


def test_a_uri_is_a_place_of_an_adapter_and_of_a_base(
    base: Path, adapter: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))  # copies are kept there
    uri, path = f"file://{adapter}", Path(f"file://{adapter}")  # which has lost two slashes
    assert read_adapter(uri)[1] == read_adapter(path)[1] == read_adapter(adapter)[1]
    assert torch.equal(_logits(loradar.plug(f"file://{base}", uri)), _logits(loradar.plug(str(base), adapter)))


def test_a_dry_run_sends_nothing(hub: Hub, adapter: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = _json(capsys, "push", str(adapter), "me/mine", "--dry-run")["files"]
    assert set(files) == {"adapter_model.safetensors", "adapter_config.json", "loradar.json", "README.md"}
    assert files["adapter_model.safetensors"] == (adapter / "adapter_model.safetensors").stat().st_size
    assert hub.writes == []
    assert hub.repos == {}


@pytest.mark.usefixtures("hub")
def test_a_revision_is_a_branch_or_a_commit(base: Path, adapter: Path, tmp_path: Path) -> None:
    first = push(adapter, "me/mine")
    other = push(_adapter(base, tmp_path / "other", seed=5), "me/mine", revision="next")
    assert first.commit != other.commit
    for revision, folder in (("main", adapter), ("next", tmp_path / "other"), (first.commit, adapter)):
        assert read_adapter(f"hub:me/mine@{revision}")[1] == read_adapter(folder)[1]
    proposed = push(tmp_path / "other", "me/mine", create_pr=True)
    assert proposed.url.endswith("/discussions/1")
    assert read_adapter("hub:me/mine")[1] == read_adapter(adapter)[1]
    with pytest.raises(BadFileError, match="no such revision"):
        load("hub:me/mine@never")
    with pytest.raises(BadConfigError, match="--create-pr or --revision"):
        push(adapter, "me/mine", revision="next", create_pr=True)


def test_the_cache_serves_without_a_network(hub: Hub, base: Path, task: Path, tmp_path: Path) -> None:
    push(base, "me/base")
    push(task, "me/task", base="hub:me/base")
    loradar.FewShotClassifier.load("hub:me/task")
    hub.requests.clear()
    script = """
import sys, torch, loradar
task = loradar.FewShotClassifier.load("hub:me/task")
logits = task.decision_function(torch.load(sys.argv[1], weights_only=True))
torch.save(logits, sys.argv[1])
"""
    torch.save(X, tmp_path / "x.pt")
    offline = {"HF_HUB_OFFLINE": "1", "HF_HUB_CACHE": constants.HF_HUB_CACHE, "HF_ENDPOINT": hub.address}
    offline["OMP_NUM_THREADS"] = str(torch.get_num_threads())  # the bits depend on it
    subprocess.run([sys.executable, "-c", script, tmp_path / "x.pt"], check=True, env={**os.environ, **offline})
    own = loradar.FewShotClassifier.load(task)
    assert torch.equal(torch.load(tmp_path / "x.pt", weights_only=True), own.decision_function(X))
    assert hub.requests == []


@pytest.mark.usefixtures("hub")
def test_what_the_hub_refuses_is_one_line(
    base: Path, adapter: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "no such name" in _line(capsys, "pull", "me/nothing")
    assert "expected hub:owner/name" in _line(capsys, "pull", "nothing")
    assert "network" not in _line(capsys, "pull", "me/--nothing")
    push(adapter, "me/mine")
    assert "no such revision" in _line(capsys, "pull", "me/mine@never")
    assert "is public" in _line(capsys, "push", str(adapter), "me/mine", "--private")
    monkeypatch.setenv("HF_TOKEN", READER)
    assert "no right" in _line(capsys, "push", str(adapter), "me/other")
    monkeypatch.delenv("HF_TOKEN")
    assert "hf auth login" in _line(capsys, "push", str(adapter), "me/other")
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    assert "is there a network" in _line(capsys, "pull", "me/mine@main2")
    assert "nothing that loradar wrote" in _line(capsys, "push", str(base.parent), "me/other")


def test_a_record_names_no_place_of_its_publisher(hub: Hub, base: Path, task: Path, tmp_path: Path) -> None:
    for name in (str(base), f"stages:{base}", "runs/base", "x.safetensors:architecture=resnet18,num_classes=4"):
        with pytest.raises(BadConfigError, match="expected hub:OWNER/NAME"):
            push(task, "me/task", base=name)
    other = save_base(tmp_path / "base", new_base("timm:test_resnet", num_classes=4, input_size=(3, 32, 32), seed=2))
    push(other, "me/other")
    with pytest.raises(WrongBaseError, match="belongs to the base"):
        push(task, "me/task", base="hub:me/other")
    with pytest.raises(BadConfigError, match="leave --base out"):
        push(other, "me/other", base="hub:me/other")
    assert "me/task" not in hub.repos


@pytest.mark.usefixtures("hub")
@pytest.mark.parametrize("kind", ["adapter", "task", "guard", "pool"])
def test_what_is_sent_names_no_folder_of_its_publisher(
    kind: str, base: Path, adapter: Path, task: Path, guard: Path, tmp_path: Path
) -> None:
    sent = push(base, "me/base")
    places = {"base": str(base), "support": f"{tmp_path}/leaves:group=tree"}
    if kind in ("adapter", "task"):
        one = load({"adapter": adapter, "task": task}[kind])
        folder = save(one.with_card(data={**one.card.data, **places}), tmp_path / "one")
        (folder / "README.md").write_text(f"# Mine\n\nOf {places['support']}, on {base}.\n")
    elif kind == "guard":
        parts = read_parts(guard)
        adapters = {name: a.with_card(data={**a.card.data, **places}) for name, a in parts.adapters.items()}
        state = dataclasses.replace(toys.state(), record=parts.record, base=load_base(str(base)), adapters=adapters)
        folder = save_guard(state, tmp_path / "guard")
    else:
        folder = tmp_path / "pool"
        save(load(adapter).with_card(data={**places, "source": places["support"]}), folder / "pool" / "a")
        (folder / "run.json").write_text(json.dumps({"base": str(base), "data": places["support"]}))
    push(folder, "me/it", base="hub:me/base")
    pulled, _ = pull("me/it", tmp_path / "pulled")
    for path in pulled.rglob("*"):
        if path.suffix in (".json", ".md"):
            text = path.read_text()
            assert str(tmp_path) not in text, path
            assert str(base) not in text, path
            if path.name == "loradar.json":
                assert json.loads(text)["card"]["data"]["base"] == f"hub:me/base@{sent.commit}"
    if kind == "guard":
        loradar.Guard.open(pulled)
    assert str(tmp_path) in "".join(path.read_text() for path in folder.rglob("*.json"))  # left as it is


@pytest.mark.usefixtures("hub")
def test_a_signature_holds_for_what_is_sent_or_nothing_is(base: Path, task: Path, tmp_path: Path) -> None:
    from loradar.core.signing import make_keys
    from loradar.jobs.signing import sign_folder, verify_folder

    private, public = make_keys(tmp_path / "key")
    sent = push(base, "me/base")
    push(task, "me/task", base="hub:me/base")
    named, _ = pull("me/task", tmp_path / "named")  # its record names the base on the hub
    sign_folder(named, private)
    push(named, "me/signed")
    assert verify_folder(Path("hub:me/signed"), key=public).digest
    with pytest.raises(BadFileError, match="its signature covers"):
        push(named, "me/signed", base="timm:test_resnet")
    push(named, "me/signed", base=f"hub:me/base@{sent.commit}")
    local = tmp_path / "local"
    save(load(task), local)
    sign_folder(local, private)
    with pytest.raises(BadFileError, match="its signature covers"):
        push(local, "me/local", base="hub:me/base")
    one, own = load(named), tmp_path / "own"
    save(one.with_card(data={**one.card.data, "support": f"{tmp_path}/leaves"}), own)
    sign_folder(own, private)
    with pytest.raises(BadFileError, match=f"signed and names a place of this machine: {tmp_path}/leaves"):
        push(own, "me/own")


@pytest.mark.usefixtures("hub")
def test_the_name_of_what_a_training_divided_is_no_folder(adapter: Path, tmp_path: Path) -> None:
    one = load(adapter)
    said = {"base": "timm:test_resnet", "source": "aircraft/test", "splits": {"reported": {"count": 5}}, "seed": 0}
    push(save(one.with_card(data=said), tmp_path / "one"), "me/divided")
    assert load(pull("me/divided")[0]).card.data == said


@pytest.mark.usefixtures("hub")
def test_a_signed_guard_is_sent_as_it_is(base: Path, guard: Path, tmp_path: Path) -> None:
    from loradar.core.signing import make_keys
    from loradar.jobs.signing import sign_folder, verify_folder

    private, public = make_keys(tmp_path / "key")
    push(base, "me/base")
    push(guard, "me/guard", base="hub:me/base")
    folder, _ = pull("me/guard", tmp_path / "pulled")
    parts = read_parts(folder)
    # a member whose base has another name, which is as public
    adapters = {n: a.with_card(data={**a.card.data, "base": "hub:me/base"}) for n, a in parts.adapters.items()}
    state = dataclasses.replace(toys.state(), record=parts.record, base=load_base(str(base)), adapters=adapters)
    again = save_guard(state, tmp_path / "again")
    sign_folder(again, private)
    push(again, "me/signed")
    assert verify_folder(Path("hub:me/signed"), key=public).digest


@pytest.mark.parametrize("name", ["adapter_model.safetensors", "loradar.json"])
def test_a_file_that_was_changed_on_the_hub_is_refused(hub: Hub, adapter: Path, name: str) -> None:
    sha = push(adapter, "me/mine").commit
    files = hub.repos["me/mine"].commits[sha]
    if name == "loradar.json":
        record = json.loads(files[name])
        record["card"]["trained_against"] = "autoattack"
        assert record[DIGEST]
        files[name] = json.dumps(record).encode()
    else:
        tensors = safetensors.torch.load(files[name])
        files[name] = safetensors.torch.save({key: value + 1 for key, value in tensors.items()}, {"format": "pt"})
    with pytest.raises(BadFileError, match="changed"):
        load("hub:me/mine")
    with pytest.raises(BadFileError, match="changed"):
        pull("me/mine")


def test_a_base_that_was_changed_on_the_hub_is_not_the_guard_s(hub: Hub, base: Path, guard: Path) -> None:
    sent = push(base, "me/base")
    push(guard, "me/guard", base="hub:me/base")
    other = new_base("timm:test_resnet", num_classes=4, input_size=(3, 32, 32), classes=list("abcd"), seed=9)
    files = hub.repos["me/base"].commits[sent.commit]
    folder = save_base(base.parent / "other", other)
    files |= {name: (folder / name).read_bytes() for name in ("config.json", "model.safetensors")}
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(constants, "HF_HUB_CACHE", str(base.parent / "cache"))
        with pytest.raises(WrongBaseError, match="belongs to the base"):
            loradar.Guard.open("hub:me/guard")


def test_a_model_card_tells_figures_with_what_they_need(hub: Hub, base: Path, adapter: Path) -> None:
    push(base, "me/base")
    sent = push(adapter, "me/mine", base="hub:me/base", license_name="apache-2.0")
    page = hub.repos["me/mine"].commits[sent.commit]["README.md"].decode()
    metadata: dict[str, Any] = yaml.safe_load(page.split("---\n")[1])
    assert (metadata["license"], metadata["base_model"], metadata["library_name"]) == ("apache-2.0", "me/base", "peft")
    (results,) = metadata["model-index"][0]["results"]
    assert results["dataset"]["name"] == "digits"
    clean, transfer, adaptive = results["metrics"]
    assert clean["value"] == transfer["value"] == adaptive["value"] == 0.75
    assert adaptive["args"]["norm"] == "linf"
    assert adaptive["args"]["eps"] == pytest.approx(8 / 255)
    assert adaptive["args"]["n"] == 40
    assert adaptive["args"]["low"] < 0.75 < adaptive["args"]["high"]
    assert "adaptive" in adaptive["name"]
    assert "95 % interval" in adaptive["name"]
    assert "transfer" in transfer["name"]
    assert "adaptive" not in transfer["name"]
    assert 'loradar.plug("hub:me/base@' in page


def test_figures_of_a_task_and_of_a_guard_have_n_and_interval(hub: Hub, base: Path, guard: Path, task: Path) -> None:
    push(base, "me/base")
    sent = push(task, "me/task", base="hub:me/base")
    page = hub.repos["me/task"].commits[sent.commit]["README.md"].decode()
    clean, adaptive = yaml.safe_load(page.split("---\n")[1])["model-index"][0]["results"][0]["metrics"]
    assert clean["args"]["n"] == adaptive["args"]["n"] == 6
    assert (clean["args"]["threat"], adaptive["args"]["threat"]) == ("clean", "adaptive")
    again = push(pull("me/task")[0], "me/task")
    assert hub.repos["me/task"].commits[again.commit]["README.md"].decode() == page, "it is written once"

    record = read_parts(guard).record
    kept = {"guard:mean": Kept(right=8, total=10), "patch": Kept(right=9, total=10, bound=True)}
    chosen = Choice(answered_by="", fusion="mean", kept=kept, reason="")
    (result,) = results_of_guard(dataclasses.replace(record, choice=chosen))
    assert result.metric_value == 0.8
    assert "adaptive" in str(result.metric_name)
    assert result.metric_args is not None
    assert (result.metric_args["n"], len(result.metric_args["attacks"])) == (10, 2)
    # a bound is no figure
    assert not results_of_guard(dataclasses.replace(record, choice=dataclasses.replace(chosen, answered_by="patch")))


@pytest.mark.usefixtures("hub")
@pytest.mark.parametrize(
    "odd", [{"measured": [{"x": 1}]}, {"measured": [{"correct": 5, "total": 1}]}, {"data": {"held_out": {"rows": 3}}}]
)
def test_figures_that_are_none_are_not_published(adapter: Path, tmp_path: Path, odd: dict[str, Any]) -> None:
    folder = save(load(adapter).with_card(**odd), tmp_path / "odd")
    with pytest.raises(BadFileError, match="figures are damaged"):
        push(folder, "me/odd")
    save(load(adapter), tmp_path / "mine")
    (tmp_path / "mine" / "README.md").write_text("---\nlicense: [\n---\n")
    with pytest.raises(BadFileError, match=r"metadata of README.md"):
        push(tmp_path / "mine", "me/odd")


def test_a_pull_loses_nothing_that_was_there(hub: Hub, adapter: Path, tmp_path: Path) -> None:
    push(adapter, "me/mine")
    out = tmp_path / "out"
    assert pull("me/mine", out) == pull("me/mine", out) == (out, "adapter")
    (out / "mine.txt").write_text("notes")
    with pytest.raises(BadFileError, match=r"mine.txt is there already"):
        pull("me/mine", out)
    with pytest.raises(BadFileError, match=r"mine.txt is there already"):
        pull("me/mine", out / "mine.txt")
    assert (out / "mine.txt").read_text() == "notes"
    assert [one for one in hub.requests if "resolve" in one and one.startswith("GET")], "files came over HTTP"
