"""byzdist.cli.doctor.checks: each check finds its fault, and only if it is there."""

import resource
import socket
from pathlib import Path

import pytest
import torch

from byzdist.cli import main as cli
from byzdist.cli.doctor import checks as doctor
from byzdist.cli.doctor.checks import Finding
from byzdist.transport.sockets import address_towards


def test_a_healthy_host_has_no_error(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "MASTER_ADDR", "MASTER_PORT", "GLOO_SOCKET_IFNAME"):
        monkeypatch.delenv(name, raising=False)
    assert cli.main(["doctor"]) == 0
    lines = capsys.readouterr().out.splitlines()
    subjects = [line[9:23].strip() for line in lines if not line.startswith(" ")]
    assert len(subjects) == len(doctor.CHECKS) == len(set(subjects))
    assert not [line for line in lines if line.startswith("error")]


def test_the_exit_code_tells_of_errors(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "no-such-if")
    assert cli.main(["doctor"]) == 1
    out = capsys.readouterr().out
    assert "error    interface" in out and "no-such-if" in out and "lo" in out.split("no such interface")[1]


def test_two_ends_meet_on_the_loopback_interface() -> None:
    found = doctor.check_interface({"GLOO_SOCKET_IFNAME": "lo"})
    assert found.level == "ok" and "met at lo" in found.found


def test_two_ends_that_cannot_meet_are_an_error() -> None:
    # An address of nobody's (TEST-NET-1, RFC 5737): gloo cannot listen there.
    with pytest.raises(RuntimeError):
        doctor._meet({"hostname": "192.0.2.123"})


def test_the_own_address_is_the_one_on_the_way_to_the_server() -> None:
    assert address_towards("127.0.0.1") == "127.0.0.1"
    assert address_towards("localhost") in ("127.0.0.1", "::1")
    assert address_towards("no.such.host.invalid") is None
    assert "met at 127.0.0.1" in doctor.check_interface({"MASTER_ADDR": "127.0.0.1"}).found


@pytest.mark.parametrize(
    ("address", "level"), [("10.1.2.3", "ok"), ("127.0.1.1", "warning"), ("::1", "warning"), (None, "warning")]
)
def test_host_names(address: str | None, level: str) -> None:
    def look_up(*_: object, **__: object) -> list[tuple[int, int, int, str, tuple[str, int]]]:
        if address is None:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return [(socket.AF_INET, socket.SOCK_STREAM, 0, "", (address, 0))]

    found = doctor.check_host_name({}, look_up)
    assert found.level == level
    assert bool(found.remedy) == (level != "ok")


def test_the_meeting_point() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = str(server.getsockname()[1])
        rank = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "RANK": "3"}
        assert doctor.check_meeting_point(rank).level == "ok"
        taken = doctor.check_meeting_point({**rank, "RANK": "0"})
        assert taken.level == "error" and port in taken.found
    assert doctor.check_meeting_point({**rank, "RANK": "0"}).level == "ok"
    alone = doctor.check_meeting_point(rank)
    assert alone.level == "warning" and "start the server first" in alone.remedy
    assert doctor.check_meeting_point({**rank, "MASTER_ADDR": "no.such.host.invalid"}).level == "error"
    wrong = doctor.check_meeting_point({**rank, "MASTER_PORT": "many"})
    assert wrong.level == "error" and wrong.found == "MASTER_PORT=many is not a number"
    assert doctor.check_meeting_point({}).level == "ok"


@pytest.mark.parametrize(("text", "level"), [("32768\t60999\n", "ok"), ("50000 50100\n", "warning"), ("", "ok")])
def test_ports(tmp_path: Path, text: str, level: str) -> None:
    (tmp_path / "range").write_text(text)
    assert doctor.check_ports({}, tmp_path / "range").level == level


def test_open_files() -> None:
    for soft, level in ((256, "warning"), (65536, "ok"), (resource.RLIM_INFINITY, "ok")):
        assert doctor.check_open_files({}, (soft, 65536)).level == level
    assert f"at most {resource.getrlimit(resource.RLIMIT_NOFILE)[0]}" == doctor.check_open_files({}).found


def test_secrets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BYZDIST_CACHE", str(tmp_path))
    assert doctor.check_secret({}).level == "ok"
    assert doctor.check_secret({"RANK": "0", "BYZDIST_SECRET": "x" * 32}).level == "ok"
    assert doctor.check_secret({"RANK": "1", "BYZDIST_KEY": "0" * 64}).level == "ok"
    too_much = doctor.check_secret({"RANK": "1", "BYZDIST_SECRET": "x" * 32})
    assert too_much.level == "warning" and "pose as any other" in too_much.found
    short = doctor.check_secret({"RANK": "1", "BYZDIST_SECRET": "x"})
    assert short.level == "error" and "openssl" in short.remedy
    missing = doctor.check_secret({"RANK": "1", "WORLD_SIZE": "3", "LOCAL_WORLD_SIZE": "1"})
    assert missing.level == "error"


def test_a_torch_that_lacks_what_is_used_of_it() -> None:
    assert doctor.check_torch({}).level == "ok"
    found = doctor.check_torch({}, lambda: ["Work.wait"])
    assert found.level == "error" and found.found.endswith("lacks Work.wait")


def test_gpus_that_torch_cannot_use(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert doctor.check_gpu({}, tmp_path).level == "ok"
    (tmp_path / "nvidia0").touch()
    assert "CPU build" in doctor.check_gpu({}, tmp_path, None).found
    assert "CUDA_VISIBLE_DEVICES=''" in doctor.check_gpu({"CUDA_VISIBLE_DEVICES": ""}, tmp_path, "13.0").remedy


def test_memory_is_what_the_container_may_use(tmp_path: Path) -> None:
    (tmp_path / "memory.max").write_text("1073741824\n")
    assert "1.0 GiB" in doctor.check_memory({}, tmp_path).found
    (tmp_path / "memory.max").write_text("max\n")
    assert "1.0 GiB" not in doctor.check_memory({}, tmp_path).found


def test_a_cache_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("BYZDIST_CACHE", str(tmp_path / "file" / "cache"))
    assert doctor.check_cache({}).level == "warning"  # a temporary folder serves, or memory
    monkeypatch.setenv("BYZDIST_CACHE", str(tmp_path / "cache"))
    assert doctor.check_cache({}).level == "ok"


def test_shared_memory(tmp_path: Path) -> None:
    assert doctor.check_shared_memory({}, tmp_path).level == "ok"
    assert doctor.check_shared_memory({}, tmp_path / "none").level == "warning"


def test_a_finding_shows_its_remedy_on_a_line_of_its_own() -> None:
    assert str(Finding("ok", "torch", "there")) == "ok       torch          there"
    assert str(Finding("error", "port", "taken", "free it.")).splitlines()[1].strip() == "-> free it."
