"""Settings: their sources, and what may not be served."""

from pathlib import Path

import pytest

from twotower.errors import ServerError
from twotower.serve.settings import ServerSettings, read_settings


def test_later_sources_replace_earlier_ones(tmp_path: Path) -> None:
    file = tmp_path / "server.toml"
    file.write_text('port = 1111\nmax_batch = 8\nmodels = ["small"]\nfetch_urls = true\n')
    environment = {"TWOTOWER_SERVE_PORT": "2222", "TWOTOWER_SERVE_ALLOWED_HOSTS": "a.org, b.org"}
    settings = read_settings({"port": 3333, "host": None}, file, environment)
    assert settings.port == 3333 and settings.max_batch == 8 and settings.fetch_urls
    assert settings.models == ("small",) and settings.allowed_hosts == ("a.org", "b.org")
    assert read_settings({}, file, environment).port == 2222
    assert read_settings({}, file, {}).port == 1111
    assert read_settings({}, None, {}) == ServerSettings()


@pytest.mark.parametrize("host", ["0.0.0.0", "192.168.1.5", "::", "example.org"])
def test_other_hosts_need_a_key(host: str) -> None:
    with pytest.raises(ServerError, match="--api-key"):
        read_settings({"host": host}, None, {})
    assert read_settings({"host": host, "api_key": "secret"}, None, {}).host == host
    assert read_settings({"host": host, "no_auth": True}, None, {}).host == host


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("colour = 1", "colour: no such setting"),
        ('port = "many"', "port: a value of the wrong type"),
        ("port = true", "port: a value of the wrong type"),
        ("max_batch = 0", "max_batch=0: not positive"),
        ("api_key = 12345678", "api_key: a value of the wrong type"),
        ("port = 70000", "port=70000: no port"),
        ("port = = 1", "no TOML"),
    ],
)
def test_a_wrong_setting_is_named(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "server.toml"
    file.write_text(text)
    with pytest.raises(ServerError) as caught:
        read_settings({}, file, {})
    assert message in str(caught.value)
    assert "12345678" not in str(caught.value)


def test_no_secret_in_the_error_of_a_variable() -> None:
    with pytest.raises(ServerError) as caught:
        read_settings({}, None, {"TWOTOWER_SERVE_NO_AUTH": "hunter2"})
    assert "hunter2" not in str(caught.value)


def test_the_guide_has_every_setting_with_its_default() -> None:
    guide = (Path(__file__).parents[2] / "docs" / "server.md").read_text(encoding="utf-8")
    for name, field in ServerSettings.__dataclass_fields__.items():
        default = field.default
        shown = str(default).lower() if isinstance(default, bool) else str(default)
        cell = "" if default in (None, ()) else f"`{shown}`"
        assert f"| `{name}` | {cell} |" in guide, name


@pytest.mark.parametrize(
    ("options", "writes"),
    [
        ({}, True),
        ({"allow_writes": False}, False),
        ({"host": "0.0.0.0", "api_key": "secret"}, False),
        ({"host": "0.0.0.0", "api_key": "secret", "allow_writes": True}, True),
    ],
)
def test_the_page_writes_on_loopback_or_where_it_may(
    options: dict[str, object], writes: bool
) -> None:
    assert read_settings(options, None, {}).page_writes is writes
