"""What goes wrong around a server: it is killed, offered versions that are not sound, and asked by broken clients."""

import json
import shutil
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from torch import Tensor

from loradar.adapters import init_adapter, save
from loradar.core.errors import LoradarError
from loradar.core.names import SIGNATURE
from loradar.core.signing import make_keys
from loradar.jobs.signing import sign_folder
from loradar.models import new_base
from loradar.serve import Client
from loradar.serve.config import ServeConfig
from loradar.serve.models import Served
from loradar.serve.service import Service, open_service
from tests.serve.processes import KEY, Server, Starter


def probabilities(served: Served, images: Tensor) -> list[float]:
    """The largest one of each picture alone."""
    return [float(served.answer(image[None])[0].probabilities.max()) for image in images]


@dataclass
class Asking:
    """Clients that ask until they are stopped, and count what they get."""

    port: int
    pictures: list[bytes]
    right: list[float]
    answers: int = 0
    wrong: list[str] = field(default_factory=list)
    stop: threading.Event = field(default_factory=threading.Event)

    def ask(self, number: int) -> None:
        client = Client(f"http://127.0.0.1:{self.port}", key=KEY, retries=20)
        while not self.stop.is_set():
            number = (number + 1) % len(self.pictures)
            try:
                (found,) = client.predict("adapter", self.pictures[number])["predictions"]
            except LoradarError as error:
                self.wrong.append(str(error))
                return
            if found["probability"] != self.right[number]:
                self.wrong.append(f"picture {number}: {found['probability']}, not {self.right[number]}")
            self.answers += 1

    def wait_for_more(self, count: int) -> None:
        ends, before = time.monotonic() + 60, self.answers
        while self.answers < before + count and not self.wrong:
            assert time.monotonic() < ends, "the clients get no answers"
            time.sleep(0.02)


def test_a_server_that_is_killed_and_started_again_costs_its_clients_only_time(
    starter: Starter, places: dict[str, Path], served: dict[str, Served], pictures: list[Path], images: Tensor
) -> None:
    def start(port: int) -> Server:
        options = ("--base", places["base"], "--device", "cpu", "--batch-size", 1)
        return starter.start(f"adapter={places['adapter']}", *options, "--port", port)

    server = start(0)
    bodies = [path.read_bytes() for path in pictures]
    asking = Asking(server.port, bodies, probabilities(served["adapter"], images))
    threads = [threading.Thread(target=asking.ask, args=(4 * number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(2):
            asking.wait_for_more(10)
            server.kill()
            server = start(server.port)
        asking.wait_for_more(10)
    finally:
        asking.stop.set()
        for thread in threads:
            thread.join()
        server.kill()
    assert asking.wrong == []
    assert "Traceback" not in server.said


def without_signature(folder: Path) -> None:
    (folder / SIGNATURE).unlink()


def with_other_bits(folder: Path) -> None:
    weights = folder / "adapter_model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-3] ^= 1
    weights.write_bytes(data)


def with_half_the_weights(folder: Path) -> None:
    weights = folder / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[: weights.stat().st_size // 2])


def of_a_record_that_was_edited(folder: Path) -> None:
    record = folder / "loradar.json"
    record.write_text(json.dumps(json.loads(record.read_text()) | {"created": "1970-01-01"}))


UNSOUND: dict[str, Callable[[Path], object]] = {
    "not signed": without_signature,
    "a bit flipped": with_other_bits,
    "half written": with_half_the_weights,
    "edited": of_a_record_that_was_edited,
    "without weights": lambda folder: (folder / "adapter_model.safetensors").unlink(),
}


@pytest.fixture(scope="module")
def signed(places: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Service, Path, Path]]:
    """A service that takes signed adapters alone, its repository, and the private key."""
    work = tmp_path_factory.mktemp("signed")
    private, public = make_keys(work / "key")
    for name in ("adapter", "other"):
        shutil.copytree(places[name], work / "repository" / name)
        sign_folder(work / "repository" / name, private)
    service = open_service(
        ServeConfig(
            models=[f"m={work / 'repository' / 'adapter'}"],
            base=str(places["base"]),
            key=public,
            repository=work / "repository",
            device="cpu",
        )
    )
    yield service, work / "repository", private
    service.close()


def refused(service: Service, folder: str, image: Tensor) -> None:
    """Offers a folder, and sees that it is refused and the version that answered goes on answering."""
    before = service.registry.choose("m")
    expected = before.answer(image[None])[0].probabilities
    version, future = service.load("m", folder)
    with pytest.raises(LoradarError):
        future.result(60)
    model = service.registry.model("m")
    assert (model.active, model.versions[version].state) == ("v1", "failed")
    with pytest.raises(LoradarError):
        service.registry.activate("m", version)
    after = service.registry.choose("m")
    assert after is before
    assert after.answer(image[None])[0].probabilities.equal(expected)


@pytest.mark.parametrize("case", UNSOUND)
def test_a_version_that_is_not_sound_is_refused_and_the_old_one_goes_on(
    case: str, signed: tuple[Service, Path, Path], images: Tensor
) -> None:
    service, repository, _ = signed
    folder = repository / case.replace(" ", "-")
    shutil.copytree(repository / "other", folder)
    UNSOUND[case](folder)
    refused(service, folder.name, images[0])


def test_an_adapter_of_another_base_is_refused_whoever_signed_it(
    signed: tuple[Service, Path, Path], images: Tensor
) -> None:
    service, repository, private = signed
    base = new_base("timm:test_resnet", num_classes=10, input_size=(3, 32, 32), seed=2)
    sign_folder(save(init_adapter(base.model, rank=2, name="x"), repository / "of-another"), private)
    refused(service, "of-another", images[0])


def test_a_sound_version_is_taken_after_all_of_these(signed: tuple[Service, Path, Path]) -> None:
    version, future = signed[0].load("m", "other")
    assert future.result(60).version == version


def test_clients_that_leave_are_neither_waited_for_nor_an_error(
    starter: Starter, places: dict[str, Path], pictures: list[Path]
) -> None:
    """They leave within the head, within the body, and before the answer; some reset the connection."""
    server = starter.start(f"adapter={places['adapter']}", "--base", places["base"], "--device", "cpu", "--port", 0)
    picture = pictures[0].read_bytes()
    kinds = ("Content-Type: image/png\r\n", "Content-Type: multipart/form-data; boundary=x\r\n")
    try:
        for turn in range(24):
            head = (
                f"POST /v1/models/adapter/predict HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {KEY}\r\n"
                f"{kinds[turn % 2]}Content-Length: {len(picture)}\r\n\r\n"
            ).encode()
            whole = head + picture
            with server.connect() as connection:
                if turn % 4 == 3:  # ends with a reset
                    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
                connection.sendall(whole[: (len(head) // 2, len(head) + 9, len(whole))[turn % 3]])
        for _ in range(3):
            assert server.ask(picture).status_code == 200
        page = server.page()
    finally:
        server.kill()
    assert "Traceback" not in server.said
    assert 'status="499"' in page
    assert 'status="500"' not in page
    assert "loradar_waiting_images 0.0" in page
