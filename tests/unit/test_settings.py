"""Where settings come from, which wins, and what a bad one is told."""

from pathlib import Path
from typing import Literal

import pytest
from pydantic import Field, SecretStr, ValidationError

from specedge.credentials.nkey import UserKey
from specedge.service.settings import (
    CALLED_AS_VARIABLE,
    ServiceSettings,
    SettingsInvalid,
    load_settings,
    settings_from_command_line,
)


class ExampleSettings(ServiceSettings):
    """Settings of an example."""

    threads: int = Field(default=1, ge=1, description="compute threads")
    api_key: SecretStr | None = Field(default=None, min_length=8, description="key to ask for")
    mood: Literal["good", "bad"] | None = Field(default=None, description="how it is")
    is_quick: bool = Field(default=False, description="skip what can be skipped")


@pytest.fixture(autouse=True)
def bare_environment(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    for name in (*ExampleSettings.model_fields, "config"):
        monkeypatch.delenv(f"SPECEDGE_{name.upper()}", raising=False)
    return monkeypatch


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "settings.yaml"
    path.write_text("threads: 2\nlog_level: debug\nhttp_port: 1234\n")
    return path


def test_flags_win_over_environment_over_file_over_defaults(
    bare_environment: pytest.MonkeyPatch, config: Path
) -> None:
    bare_environment.setenv("SPECEDGE_THREADS", "3")
    bare_environment.setenv("SPECEDGE_LOG_LEVEL", "warning")

    settings = load_settings(ExampleSettings, {"threads": 4, "http_host": None}, config)

    assert settings.threads == 4
    assert settings.log_level == "warning"
    assert settings.http_port == 1234
    assert settings.http_host == "127.0.0.1"


def test_the_environment_may_name_the_file(
    bare_environment: pytest.MonkeyPatch, config: Path
) -> None:
    bare_environment.setenv("SPECEDGE_CONFIG", str(config))

    assert load_settings(ExampleSettings, {}).threads == 2


def test_an_empty_variable_is_none_given(bare_environment: pytest.MonkeyPatch) -> None:
    bare_environment.setenv("SPECEDGE_NATS_CA_FILE", "")
    bare_environment.setenv("SPECEDGE_THREADS", "")

    settings = load_settings(ExampleSettings, {})

    assert settings.nats_ca_file is None
    assert settings.threads == 1


def test_a_settings_object_made_by_hand_reads_no_environment(
    bare_environment: pytest.MonkeyPatch,
) -> None:
    bare_environment.setenv("SPECEDGE_THREADS", "3")

    assert ExampleSettings().threads == 1


def test_every_bad_setting_is_named_with_where_it_came_from(
    bare_environment: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    config = tmp_path / "settings.yaml"
    config.write_text("log_level: loud\ncolour: red\n")
    bare_environment.setenv("SPECEDGE_THREADS", "0")

    with pytest.raises(SettingsInvalid) as refusal:
        load_settings(ExampleSettings, {"http_port": 99999}, config)

    lines = str(refusal.value).splitlines()
    assert len(lines) == 4
    for name, origin, said in (
        ("http_port", "the flag --http-port", "65535, not 99999"),
        ("threads", "SPECEDGE_THREADS", "greater than or equal to 1, not '0'"),
        ("log_level", f"log_level in {config}", "not 'loud'"),
        ("colour", f"colour in {config}", "no such setting"),
    ):
        (line,) = [line for line in lines if line.startswith(f"{name} (from {origin})")]
        assert said in line


def test_a_secret_is_shown_neither_in_errors_nor_in_print(
    bare_environment: pytest.MonkeyPatch,
) -> None:
    bare_environment.setenv("SPECEDGE_API_KEY", "hush")
    with pytest.raises(SettingsInvalid) as refusal:
        load_settings(ExampleSettings, {})
    assert "SPECEDGE_API_KEY" in str(refusal.value)
    assert "hush" not in str(refusal.value)

    settings = load_settings(ExampleSettings, {"api_key": "long enough"})
    assert "long enough" not in repr(settings)
    assert settings.api_key is not None
    assert settings.api_key.get_secret_value() == "long enough"


@pytest.mark.parametrize("text", ["- a\n- b\n", "a: [", "just words", "5: x", "null: x"])
def test_a_file_that_holds_no_settings_is_named(tmp_path: Path, text: str) -> None:
    config = tmp_path / "settings.yaml"
    config.write_text(text)

    with pytest.raises(SettingsInvalid, match=r"settings\.yaml") as refusal:
        load_settings(ExampleSettings, {}, config)

    assert refusal.value.field == "config"


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(SettingsInvalid, match="no such file"):
        load_settings(ExampleSettings, {}, tmp_path / "nowhere.yaml")


def test_each_field_is_a_flag(config: Path) -> None:
    settings = settings_from_command_line(
        ExampleSettings, ["--config", str(config), "--threads", "8", "--is-quick"]
    )

    assert settings.threads == 8
    assert settings.is_quick
    assert settings.log_level == "debug"


def test_a_flag_that_does_not_exist_is_wrong_usage(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ending:
        settings_from_command_line(ExampleSettings, ["--colour", "red"])

    said = capsys.readouterr().err
    assert ending.value.code == 2
    assert "--colour" in said
    assert len(said.splitlines()) == 2


def test_help_describes_every_field(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ending:
        settings_from_command_line(ExampleSettings, ["--help"])

    text = capsys.readouterr().out
    assert ending.value.code == 0
    for name in ExampleSettings.model_fields:
        assert f"--{name.replace('_', '-')}" in text


def test_help_names_choices_and_the_command_that_a_person_typed(
    bare_environment: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    bare_environment.setenv(CALLED_AS_VARIABLE, "specedge example")
    with pytest.raises(SystemExit):
        settings_from_command_line(ExampleSettings, ["--help"], prog="python -m example")

    text = capsys.readouterr().out
    assert text.startswith("usage: specedge example ")
    assert "--log-level {debug,info,warning,error}" in text
    assert "--mood {good,bad}" in text
    assert "--is-quick [{true,false}]" in text
    assert "--threads VALUE" in text


def test_without_a_command_the_program_goes_by_its_own_name(
    bare_environment: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    bare_environment.delenv(CALLED_AS_VARIABLE, raising=False)
    with pytest.raises(SystemExit):
        settings_from_command_line(ExampleSettings, ["--help"], prog="python -m example")

    assert capsys.readouterr().out.startswith("usage: python -m example ")


def test_paths_may_start_at_home() -> None:
    settings = load_settings(ExampleSettings, {"nats_ca_file": "~/ca.pem"})

    assert settings.nats_ca_file == Path.home() / "ca.pem"
    assert settings.cache_dir == Path.home() / ".cache" / "specedge"


@pytest.mark.parametrize(
    "url",
    [
        "nats://127.0.0.1:99999",
        "nats://127.0.0.1:port",
        "nats://[::1",
        "nats://:4222",
        "nats://a:0",
        "nats://ann:hush/hush@a:1:2",
        "ann:hush@a:1",
        "127.0.0.1:4222",
        "http://a:1",
    ],
)
def test_what_is_no_address_is_refused_by_its_setting_and_tells_no_password(url: str) -> None:
    with pytest.raises(SettingsInvalid, match="nats_url") as refusal:
        load_settings(ExampleSettings, {"nats_url": f"nats://good:1,{url}"})

    assert refusal.value.field == "nats_url"
    assert "hush" not in str(refusal.value)
    assert url.rpartition("@")[2] in str(refusal.value)


@pytest.mark.parametrize("url", [",", "wss://a:1,nats://b:2"])
def test_servers_that_do_not_go_together_are_refused_by_their_setting(url: str) -> None:
    with pytest.raises(SettingsInvalid, match="nats_url") as refusal:
        load_settings(ExampleSettings, {"nats_url": url})

    assert refusal.value.field == "nats_url"


def test_settings_do_not_change() -> None:
    settings = ExampleSettings()

    with pytest.raises(ValidationError):
        settings.threads = 2  # type: ignore[misc]


def test_the_link_is_told_all_servers_and_the_key() -> None:
    key = UserKey.create()
    settings = load_settings(ExampleSettings, {"nats_url": "nats://a:1, tls://b:2"})

    options = settings.nats_options(name="edge", inbox_prefix="se.dn.x.inbox", key=key)

    assert options.servers == ("nats://a:1", "tls://b:2")
    assert (options.name, options.inbox_prefix) == ("edge", "se.dn.x.inbox")
    assert options.seed == key.seed
