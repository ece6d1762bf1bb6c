"""The download path against a hub on this machine: what is asked for, what is kept, and one clear line for each fault."""

import io
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.hub import TOKEN, Hub
from unmask.data.hub import named
from unmask.errors import ConfigError, ModelError

FILES = {"config.json": "{}", "weights/big.bin": bytes(range(256)) * 400, "notes.md": "no"}


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    with Hub() as served:
        served.add("org/name", FILES)
        served.use(monkeypatch, tmp_path / "cache")
        yield served


def fetch(name: str, *patterns: str, kind: str = "model") -> Path:
    place = named(name, kind)  # type: ignore[arg-type]
    assert place is not None
    return place.fetch(patterns or ("*",))


def refused(name: str, *patterns: str) -> str:
    with pytest.raises(ModelError) as caught:
        fetch(name, *patterns)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def another_process(hub: Hub) -> None:
    """Forget what this process has seen of repositories."""
    from unmask.data import hub as module

    module._COMMITS.clear()
    module._FOLDERS.clear()
    hub.requests.clear()


def test_only_what_matches_is_downloaded_and_only_once(hub: Hub) -> None:
    folder = fetch("org/name", "*.json", "*.bin")
    assert {str(path.relative_to(folder)) for path in folder.rglob("*.*")} == {"config.json", "weights/big.bin"}
    assert (folder / "weights/big.bin").read_bytes() == FILES["weights/big.bin"]
    assert sorted(hub.downloads()) == ["config.json", "weights/big.bin"]
    another_process(hub)
    assert fetch("org/name", "*.json", "*.bin") == folder
    assert hub.downloads() == []


def test_a_process_sees_one_commit(hub: Hub) -> None:
    folder = fetch("org/name", "*.json")
    hub.stored["models", "org/name"].revisions = {"main": {"config.json": b"[]"}, "old": dict.fromkeys(FILES, b"{}")}
    hub.requests.clear()
    assert fetch("org/name", "*.json") == folder
    assert hub.requests == []  # nothing to ask
    another_process(hub)
    assert fetch("org/name", "*.json") != folder


def test_a_cut_connection_is_taken_up_where_it_ended(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.DOWNLOAD_CHUNK_SIZE", 1000)
    hub.cuts["weights/big.bin"] = [60_000, 10_000]
    folder = fetch("org/name")
    assert (folder / "weights/big.bin").read_bytes() == FILES["weights/big.bin"]
    assert hub.ranges == ["bytes=60000-", "bytes=70000-"]


def test_a_reset_connection_is_tried_again(hub: Hub) -> None:
    hub.reset, hub.cuts["weights/big.bin"] = True, [60_000, 10_000]
    assert (fetch("org/name") / "weights/big.bin").read_bytes() == FILES["weights/big.bin"]
    assert hub.downloads().count("config.json") == 1


def test_a_download_that_fails_goes_on_with_what_is_missing(hub: Hub) -> None:
    hub.reset, hub.cuts["weights/big.bin"] = True, [60_000] * 9
    said = refused("org/name")
    assert said.startswith("the download of 'org/name' broke off (")
    assert said.endswith("the same command goes on with the files that are missing")
    hub.cuts.clear()
    another_process(hub)
    assert (fetch("org/name") / "weights/big.bin").read_bytes() == FILES["weights/big.bin"]
    assert hub.downloads() == ["weights/big.bin"]


def test_a_revision(hub: Hub) -> None:
    hub.stored["models", "org/name"].revisions["v1"] = {"config.json": b"[1]"}
    assert (fetch("org/name@v1", "*.json") / "config.json").read_text() == "[1]"
    commit = hub.stored["models", "org/name"].commit("v1")
    assert (fetch(f"org/name@{commit}", "*.json") / "config.json").read_text() == "[1]"
    assert (fetch("org/name", "*.json") / "config.json").read_text() == "{}"
    assert refused("org/name@v2") == "'org/name' has no revision 'v2' on the Hugging Face hub; it has main, v1, and commits"


def test_no_such_repository(hub: Hub) -> None:
    said = "no model 'org/nmae' on the Hugging Face hub, nor a folder of that name here: check the spelling; "
    assert refused("org/nmae") == said + "a private one needs `hf auth login` or HF_TOKEN"
    assert refused("org/na--me").startswith("no model 'org/na--me' on the Hugging Face hub")
    with pytest.raises(ConfigError, match="no data set 'org/name' on the Hugging Face hub"):
        fetch("org/name", kind="dataset")


def test_gated_and_private(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    gated = hub.add("org/gated", FILES, access="gated")
    hub.add("org/private", FILES, access="private")
    assert refused("org/gated") == (
        f"'org/gated' is gated: accept its licence at {hub.url}/org/gated, log in with `hf auth login` (or set HF_TOKEN), "
        "and repeat the command"
    )
    assert "no model 'org/private'" in refused("org/private")
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    assert "the account of your token has no access to it: ask for access at" in refused("org/gated")
    assert fetch("org/private", "*.json").is_dir()
    gated.members.add(TOKEN)
    assert fetch("org/gated", "*.json").is_dir()
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    assert refused("org/other").startswith("the hub does not know your token (401, for 'org/other')")


def test_offline_with_and_without_a_cache(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = fetch("org/name", "*.json")
    another_process(hub)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert fetch("org/name", "*.json") == folder
    for said in (refused("org/name", "*.bin"), refused("org/name@main", "*.bin")):
        assert ": offline, as HF_HUB_OFFLINE says, and the cache (" in said
        assert said.endswith(") holds only a part of it; unset it to download")
    assert "offline, as HF_HUB_OFFLINE says, and it is neither a folder here nor in the cache (" in refused("org/other")
    assert hub.requests == []


def test_no_network_at_all(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = fetch("org/name", "*.json")
    another_process(hub)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        nowhere = f"http://127.0.0.1:{taken.getsockname()[1]}"
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", nowhere)
    assert fetch("org/name", "*.json") == folder
    said = refused("org/other")
    assert said.startswith(f"cannot download 'org/other': the hub at {nowhere} does not answer (")
    assert said.endswith("check the connection, or copy the folder from a machine that has it")


def test_a_hub_that_is_down(hub: Hub) -> None:
    hub.down = True
    assert "cannot download 'org/name'" in refused("org/name")


def test_a_full_disk(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("huggingface_hub.file_download.http_get", full)
    assert refused("org/name").startswith("no room to download 'org/name' into ")
    assert refused("org/name").endswith("free some, or name another place in HF_HOME")


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_progress_is_shown_on_a_terminal_alone(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    for screen, shown, pattern in ((Terminal(), True, "*.json"), (io.StringIO(), False, "*.bin")):
        monkeypatch.setattr(sys, "stderr", screen)
        fetch("org/name", pattern)
        assert ("Fetching" in screen.getvalue()) is shown
