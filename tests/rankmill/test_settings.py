"""Settings: profiles are validated, the environment is read once, and a paid teacher needs a key and a budget."""

from pathlib import Path

import pytest

from rankmill.settings import Settings, SettingsError, load_profile


def test_every_shipped_profile_is_valid_and_says_what_it_is() -> None:
    for name in ("offline", "api", "gpu", "gpu-32b"):
        assert load_profile(name).description


def test_an_unknown_profile_names_those_there_are() -> None:
    with pytest.raises(SettingsError, match=r"no profile 'ofline'. Profiles: api, gpu, gpu-32b, offline"):
        load_profile("ofline")


def test_a_misspelt_value_in_a_profile_is_an_error_that_names_it(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("description: mine\nlabels: {list_sise: 8}\n", "utf-8")
    with pytest.raises(
        SettingsError, match=r"  labels\.list_sise: unknown; did you mean 'list_size'\? Valid: .*samples"
    ):
        load_profile(str(path))
    # A field of one of several places where stages may run, and one that is not at its place at all.
    path.write_text("description: mine\nprocesses: {where: slurm, partitoin: a}\nlist_size: 8\n", "utf-8")
    with pytest.raises(SettingsError) as caught:
        load_profile(str(path))
    assert "processes.slurm.partitoin: unknown" in str(caught.value) and "\n  list_size: unknown" in str(caught.value)
    assert "pydantic" not in str(caught.value)
    path.write_text("description: mine\nrecipes: {direct-pont: {objective: {lr: 1.0e-4}}}\n", "utf-8")
    with pytest.raises(
        SettingsError, match=r"recipes: .*there is no recipe 'direct-pont'\. Recipes: direct-point, erank"
    ):
        load_profile(str(path))
    with pytest.raises(SettingsError, match=r"there is no file .*absent\.yaml, which was to be a profile"):
        load_profile(str(tmp_path / "absent.yaml"))
    (tmp_path / "other.yaml").write_text("extends: offlin\ndescription: other\n", "utf-8")
    with pytest.raises(SettingsError, match=r"other\.yaml extends offlin: there is no profile 'offlin'"):
        load_profile(str(tmp_path / "other.yaml"))


def test_a_profile_that_extends_another_keeps_its_values(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("extends: offline\ndescription: mine\nalpha: 0.5\n", "utf-8")
    mine, offline = load_profile(str(path)), load_profile("offline")
    assert mine.alpha == 0.5
    assert mine.labels == offline.labels
    assert mine.recipe == offline.recipe


def test_a_real_teacher_is_refused_without_a_key_and_a_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OPENAI_API_KEY", "RANKMILL_BUDGET_USD", "RANKMILL_BUDGET_TOKENS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("RANKMILL_PROFILE", "api")
    with pytest.raises(SettingsError, match=r"OPENAI_API_KEY.*budget"):
        _ = Settings.load().profile


def test_the_environment_names_endpoint_model_and_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANKMILL_PROFILE", "api")
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret-of-a-test")
    monkeypatch.setenv("OPENAI_BASE_URL", "http://127.0.0.1:9/v1")
    monkeypatch.setenv("RANKMILL_TEACHER_MODEL", "my-model")
    monkeypatch.setenv("RANKMILL_BUDGET_USD", "0.5")
    teacher = Settings.load().profile.teacher
    assert (teacher.base_url, teacher.model, teacher.budget_usd) == ("http://127.0.0.1:9/v1", "my-model", 0.5)
    assert "sk-secret-of-a-test" not in repr(teacher) + str(Settings.load())


def test_a_child_process_gets_the_settings_and_no_secret(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("RANKMILL_HOME", str(tmp_path))
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret-of-a-test")
    handed = Settings.load().environment()
    assert handed["RANKMILL_HOME"] == str(tmp_path)
    assert "sk-secret-of-a-test" not in str(handed)


def test_an_estimate_needs_neither_key_nor_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OPENAI_API_KEY", "RANKMILL_BUDGET_USD", "RANKMILL_BUDGET_TOKENS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("RANKMILL_PROFILE", "api")
    assert Settings.load().profile_that_buys_nothing.teacher.model == "deepseek-reasoner"


def test_a_server_of_our_own_must_say_what_it_serves_and_needs_no_key(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    path = tmp_path / "mine.yaml"
    path.write_text("extends: offline\ndescription: mine\nteacher: {base_url: vllm, model: small}\n", "utf-8")
    with pytest.raises(SettingsError, match=r"`vllm` must say which model to serve"):
        load_profile(str(path))
    path.write_text(
        path.read_text("utf-8").replace("small}", "small, vllm: {model: /models/small, served_name: big}}"), "utf-8"
    )
    with pytest.raises(SettingsError, match=r"model is 'small', and vllm.served_name 'big'"):
        load_profile(str(path))
    path.write_text(path.read_text("utf-8").replace("big", "small"), "utf-8")
    monkeypatch.setenv("RANKMILL_PROFILE", str(path))
    monkeypatch.setenv("OPENAI_BASE_URL", "http://127.0.0.1:9/v1")
    assert Settings.load().profile.teacher.base_url == "vllm"
