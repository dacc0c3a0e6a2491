"""What is redacted, what only looks like a secret, and that a run leaves no secret anywhere."""

from __future__ import annotations

import base64
import json
import logging
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from sftcore.runtime import redaction
from sftcore.runtime.redaction import (
    REDACTED,
    is_secret,
    redact,
    redact_argv,
    redact_text,
    register_argv_secrets,
    register_secrets,
)

HEX = "0123456789abcdef" * 3


@pytest.fixture(autouse=True)
def forget(monkeypatch):
    """Let a test register secrets for itself alone."""
    monkeypatch.setattr(redaction, "_known", set())
    monkeypatch.setattr(redaction, "_environment", None)
    redaction._known_forms.cache_clear()
    yield
    redaction._known_forms.cache_clear()


NAMES = (
    "hub_token api-key apiKey AWS_SECRET_ACCESS_KEY AWS_ACCESS_KEY_ID accessToken db_pwd secrets GITHUB_PAT password"
)
NO_NAMES = (
    "PWD pad_token image_token max_new_tokens num_key_value_heads tokenizer monkey keys path use_cls_tokens pattern"
)


@pytest.mark.parametrize(
    "name", [*NAMES.split(), "SLACK_WEBHOOK_URL", "SENTRY_DSN", "--hf-token", "trackers.0.api_key"]
)
def test_a_key_that_names_a_secret(name):
    assert is_secret(name)


@pytest.mark.parametrize("name", [*NO_NAMES.split(), "author", "target_modules", "TOKENIZERS_PARALLELISM", "eos_token"])
def test_a_key_that_names_no_secret(name):
    assert not is_secret(name)


@pytest.mark.parametrize(
    ("text", "hidden"),
    [
        (f"hf_{HEX[:34]}", REDACTED),
        (f"sk-proj-{HEX}", REDACTED),
        (f"see ghp_{HEX[:36]}.", f"see {REDACTED}."),
        (f"github_pat_{HEX}", REDACTED),
        (f"glpat-{HEX[:20]}", REDACTED),
        ("AKIAIOSFODNN7EXAMPLE", REDACTED),
        (f"xoxb-{HEX}", REDACTED),
        (f"eyJ{HEX}.eyJ{HEX}.{HEX}", REDACTED),
        (f"Authorization: Bearer {HEX}", f"Authorization: Bearer {REDACTED}"),
        ("-----BEGIN RSA PRIVATE KEY-----\nMIIE\n-----END RSA PRIVATE KEY-----\nx", f"{REDACTED}\nx"),
        ("https://h/x?a=1&token=abc&b=2", f"https://h/x?a=1&token={REDACTED}&b=2"),
        ("https://h/x?X-Amz-Signature=abc'", f"https://h/x?X-Amz-Signature={REDACTED}'"),
        ("https://h/x#access_token=abc", f"https://h/x#access_token={REDACTED}"),
        ("http://user:pass@h/x", f"http://{REDACTED}@h/x"),
        ("hub_token=hunter2x failed", f"hub_token={REDACTED} failed"),
    ],
)
def test_redaction_by_shape_or_place(text, hidden):
    assert redact_text(text) == hidden
    assert redact_text(hidden) == hidden


@pytest.mark.parametrize(
    "text",
    [
        f"commit {HEX[:40]}",
        "Basic instructions for the model",
        "the bearer of good news",
        "sorted(x, key=len), token=token, pad_token=<|eot_1|>",
        "lr=2e-4 epoch=3 keys=12345678",
        "https://h/x?page=2&sort=up",
        "sha256:" + HEX,
        "data/train.jsonl:3: 'content' is missing",
        "sk-learn and hf_hub",
        "mail@host",
    ],
)
def test_redaction_keeps_what_is_not_secret(text):
    assert redact_text(text) == text


def test_redaction_of_a_registered_value_wherever_it_appears():
    register_secrets({"model": {"hub_token": "hunter2-hunter2"}, "a": [{"api_key": ["Xy12 3/4"]}], "x": "not-2-secret"})
    assert (
        redact_text("it said 'hunter2-hunter2', Xy12%203%2F4, not-2-secret")
        == f"it said '{REDACTED}', {REDACTED}, not-2-secret"
    )
    register_secrets({"mirror": "https://me:pa%24s9word@host/"})
    assert redact_text("no pa$s9word and no pa%24s9word") == f"no {REDACTED} and no {REDACTED}"
    register_argv_secrets(["run", "--hub-token", "Hunter3x", "a.token=hunter4x", "b=hunter5x"])
    assert redact_text("Hunter3x hunter4x hunter5x") == f"{REDACTED} {REDACTED} hunter5x"


@pytest.mark.parametrize(
    "encoded",
    [
        base64.b64encode(b"Pelican7/Quay+1").decode(),
        base64.b64encode(b"user:Pelican7/Quay+1").decode(),
        base64.urlsafe_b64encode(b"a:Pelican7/Quay+1:b").decode(),
        b"Pelican7/Quay+1".hex(),
        "Pelican7%2FQuay%2B1",
        json.dumps({"x": ["Pelican7/Quay+1"]}),
        repr(b"Pelican7/Quay+1"),
    ],
)
def test_redaction_of_an_encoded_value(encoded):
    register_secrets({"api_key": "Pelican7/Quay+1"})
    assert REDACTED in redact_text(encoded)
    assert not any(part in redact_text(encoded) for part in (base64.b64encode(b"Pelican7/Q").decode()[:8], "Quay"))


@pytest.mark.parametrize(
    "text",
    ["{'api_key': 'hunter9x'}", '{"apiKey":"hunter9x"}', '"db-password" : "hunt er9x"', "api_key='hunter9x'"],
)
def test_redaction_of_an_item_of_a_mapping(text):
    assert REDACTED in redact_text(text)
    assert "er9x" not in redact_text(text)


def test_redaction_of_tokens_that_libraries_keep_in_files(monkeypatch, tmp_path):
    (tmp_path / ".netrc").write_text("machine api.wandb.ai\n  login user\n  password " + HEX[:40] + "\n")
    (tmp_path / "token").write_text("Pelican7Quay\n")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    assert redact_text(f"{HEX[:40]} Pelican7Quay machine") == f"{REDACTED} {REDACTED} machine"


def test_redaction_of_a_value_of_the_environment(monkeypatch):
    monkeypatch.setenv("SOME_API_KEY", "hunter6x")
    monkeypatch.setenv("SECRET_KEY_BASE", "hunter7x")
    monkeypatch.setenv("MY_TOKEN_PATH", "/some/path/of/a/token1")
    assert redact_text("hunter6x hunter7x /some/path/of/a/token1") == f"{REDACTED} {REDACTED} /some/path/of/a/token1"


def test_redaction_ignores_short_values_and_words(tmp_path):
    register_secrets(
        {"a_token": "a", "b_token": "true", "c_token": 1, "d_token": True, "e_key": "instruction", "f_key": "12345"}
    )
    register_secrets({"key": str(tmp_path), "columns": {"key": "input1", "token": "output1"}})
    text = f"a true 1 instruction 12345 {tmp_path} input1 output1"
    assert redact_text(text) == text
    assert redact({"columns": {"key": "input1"}}) == {"columns": {"key": "input1"}}


def test_redaction_of_a_command_line():
    words = ["run", "--hub-token", "x", "--config", "a.yaml", "a.b_token=[x]", "lr=1"]
    assert redact_argv(words) == [
        "run",
        "--hub-token",
        REDACTED,
        "--config",
        "a.yaml",
        f"a.b_token={REDACTED}",
        "lr=1",
    ]
    assert redact_argv([]) == []


def canary(number: int) -> str:
    """A secret that nothing recognizes by its shape."""
    return f"Canary{number}x{number * 7919 % 1000:03}q"


ENVIRONMENT = {
    "HF_TOKEN": "hf_" + "Canary1" * 5,
    "OPENAI_API_KEY": canary(2),
    "AWS_SECRET_ACCESS_KEY": canary(3) + "/+abc",
    "AWS_ACCESS_KEY_ID": "AKIACANARY4CANARY4AB",
    "GITHUB_TOKEN": "ghp_" + "Canary5" * 6,
    "DB_PASSWORD": canary(6),
    "SECRET_KEY_BASE": canary(7),
    "https_proxy": f"http://proxy:{canary(8)}@127.0.0.1:9",
    "WANDB_API_KEY": "ca9a" * 10,
    "SWANLAB_API_KEY": canary(10),
    "SLACK_WEBHOOK_URL": f"https://hooks.slack.com/{canary(11)}",
    "PGPASSWORD": canary(28),
    "STORAGE": f"AccountName=me;AccountKey={canary(29)}==;EndpointSuffix=x",
    "OF_NO_NAME": canary(30),  # the default of an option that names a secret
}
YAML = {
    "training_args": {"hub_token": canary(12)},
    "trackers": [{"name": "leaky", "api_key": canary(13), "endpoint": f"https://me:{canary(14)}@host/x"}],
    "data": {"columns": {"no_such": "other"}},
}
WORDS = [
    f"trackers.0.password={canary(15)}",
    f"trackers.0.upload=https://host/x?X-Amz-Signature={canary(16)}&sig={canary(17)}",
    f"trackers.0.headers={{Authorization: Bearer {canary(18)}, cookie: {canary(19)}}}",
]
FAILURES = {
    f"model.name_or_path=https://me:{canary(20)}@host/model": "model.name_or_path",
    f"data.train=https://me:{canary(21)}@host/rows.jsonl?token={canary(22)}": "data.train",
    f"training_args.hub_token=[{canary(23)}]": "training_args.hub_token",
    "training_args.hub_token=[ab]": "training_args.hub_token: should be text, got (redacted)",
    "trackers.0.doing=shout": "(redacted)",
    f"--hub-token={canary(24)}": "unrecognized arguments",
    f"--api-key {canary(27)}": "unrecognized arguments: --api-key (redacted)",
    f"trackers.0.api_key={{{canary(25)}": "not valid YAML",
    f"trackers.0.api_key:{canary(36)}": "expected KEY=VALUE",
    f"trackers.0.api_key {canary(37)}": "expected KEY=VALUE",
    f"method={{name:leaky,api_key:{canary(38)}": "not valid YAML",
    f"method={{name:,api_key:[{canary(39)}]}}": "which method?",
    f"method=[{{api_key:{canary(40)}}}]": "must be the name of a method",
}
BROKEN_YAML = {
    f"method:\n  api_key: *{canary(41)}\n": "found undefined alias '(redacted)'",
    "method:\n  api_key: *correcthorse\n": "found undefined alias '(redacted)'",
    f"method:\n  api_key: !!int {canary(42)}\n": "(redacted)",
    f"a: {{r: 1, api_key: !!int {canary(43)}}}\n": "(redacted)",
    f"api_key:\n  {canary(44)}: 1\n  {canary(44)}: 2\n": "the key '(redacted)' appears twice",
    f"tokens:\n- api_key:\n  - !!float {canary(45)}\n": "(redacted)",
    f"api_key: &{canary(46)} 1\nb: &{canary(46)} 2\n": "second occurrence",
    f'"api_key": %{canary(47)}\n': "cannot start any token",
}
CANARIES = re.compile(r"canary\d|ca9aca9a|Q2FuYXJ5|NhbmFye|DYW5hcn", re.IGNORECASE)  # the last ones in base64

LEAKY = '''
"""Components that say all they know."""

import base64, json, logging, os, threading, warnings
from dataclasses import dataclass, field
from sftcore import Format, Method, RowError, SftError, Tracker, hookimpl


@hookimpl
def register_trackers():
    return {"leaky": "leaky:Leaky"}


@hookimpl
def register_methods():
    return {"leaky": "leaky:LeakyMethod"}


@hookimpl
def register_formats():
    return {"leaky": "leaky:LeakyFormat", "leaky-too": "leaky_broken:Format"}


@dataclass
class LeakyFormat(Format):
    needs = frozenset({"leak"})
    api_key: str = ""

    def parse(self, row):
        raise (RowError if row["leak"] else RuntimeError)(f"cannot be decrypted with {self.api_key}")


def fail(*secrets):
    raise RuntimeError(f"no login with {secrets}")


def chained(key):
    try:
        raise KeyError(key)
    except KeyError as error:
        raise ValueError("cannot", [key], key.encode()) from error


def noted(key):
    error = RuntimeError("noted")
    error.add_note(f"with {key}")
    raise error


def grouped(key):
    raise ExceptionGroup("several", [ValueError(key), OSError(2, "no such file", f"/mnt/{key}/x")])


def exits(key):
    raise SystemExit(f"fatal: {key}")


def explained(key):
    raise SftError(f"the service refuses {key}, {base64.b64encode(f'me:{key}'.encode()).decode()}")


def in_c(key):
    int(key)


@dataclass
class LeakyMethod(Method):
    api_key: str = ""
    login: dict = field(default_factory=dict)
    licence_key: str = os.environ.get("OF_NO_NAME", "")
    crash: str = ""

    def __del__(self):
        if os.environ.get("DYING"):
            fail("in __del__", self.api_key)

    def prepare(self, model, args):
        secrets = self.api_key, self.login, self.licence_key
        thread = threading.Thread(target=fail, args=("in a thread", *secrets))
        thread.start()
        thread.join()
        try:
            fail("in a log", *secrets)
        except RuntimeError:
            logging.getLogger("leaky").exception("failed with %s", self.api_key)
        warnings.warn(f"no login with a warning of {secrets}")
        LeakyMethod(self.api_key)
        if self.crash in globals():
            globals()[self.crash](self.api_key)
        if self.crash == "forward":
            model.forward = lambda *args, **kwargs: grouped(self.api_key)
        return model.requires_grad_(True)


@dataclass
class Leaky(Tracker):
    api_key: str = ""
    endpoint: str = ""
    password: str = ""
    upload: str = ""
    headers: dict = field(default_factory=dict)
    doing: str = ""

    def __post_init__(self):
        if self.doing == "shout":
            raise SftError(f"cannot reach {self.endpoint} with {self.password}, {dict(os.environ)}")
        if self.doing == "break":
            raise ZeroDivisionError(f"cannot reach {self.endpoint} with {self.password}, {dict(os.environ)}")

    def start(self, run):
        with open(os.path.join(run["output_dir"], "leaky.json"), "w") as file:
            json.dump(run, file)
        print(self, self.__dict__, dict(os.environ))
        if self.doing == "exit":
            thread = threading.Thread(target=fail, args=(self.api_key, self.password))
            thread.start()
            thread.join()
            os._exit(3)
        if self.doing == "abort":
            os.abort()

    def log(self, metrics, step):
        raise ConnectionError(f"{self} {self.__dict__} {dict(os.environ)}")
'''


@pytest.fixture(scope="module")
def careless(make_sft, tmp_path_factory):
    """A configuration full of secrets, in a git repository whose address has one, and a plugin that tells them."""
    sft = make_sft(tmp_path_factory.mktemp("careless"))
    plugin = sft.folder / "plugin"
    (plugin / "leaky-1.dist-info").mkdir(parents=True)
    (plugin / "leaky.py").write_text(LEAKY)
    (plugin / "leaky_broken.py").write_text("import os\nraise RuntimeError(os.environ['OPENAI_API_KEY'])\n")
    (plugin / "leaky-1.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: leaky\nVersion: 1\n")
    (plugin / "leaky-1.dist-info" / "entry_points.txt").write_text("[sftcore]\nleaky = leaky\nb = leaky_broken\n")
    remote = f"https://{canary(26)}:x-oauth-basic@127.0.0.1/x.git"
    for command in (["init", "-q"], ["remote", "add", "origin", remote]):
        subprocess.run(["git", *command], cwd=sft.folder, check=True)
    sft.config["training_args"] |= {**YAML["training_args"], "save_strategy": "steps", "save_steps": 2}
    sft.config["trackers"] = [
        *YAML["trackers"],
        {"name": "wandb", "mode": "offline"},
        {"name": "swanlab", "mode": "offline"},
        "tensorboard",
    ]
    rows = Path(sft.config["data"]["train"]).read_text() + '\n{"messages": 1}\n'
    (sft.folder / "rows.jsonl").write_text(rows)
    (sft.folder / "leak.jsonl").write_text('{"leak": 1}\n')
    leaky_rows = {"path": str(sft.folder / "leak.jsonl"), "format": {"name": "leaky", "api_key": canary(31)}}
    sft.config["data"] |= {"train": [str(sft.folder / "rows.jsonl"), leaky_rows], "max_bad_rows": 2}
    sft.config["method"] = {"name": "leaky", "api_key": canary(32), "login": {"password": canary(33)}}
    sft.plugin = plugin
    path = os.pathsep.join(filter(None, [str(plugin), os.environ.get("PYTHONPATH")]))
    sft.env = {**ENVIRONMENT, "PYTHONPATH": path, "SFTCORE_CACHE": str(sft.folder / "cache")}
    shutil.copytree(os.environ["SFTCORE_CACHE"], sft.folder / "cache", symlinks=True, dirs_exist_ok=True)
    return sft


def leaks(text):
    return [line for line in text.splitlines() if CANARIES.search(line)]


@pytest.fixture
def sft_here(careless, monkeypatch, capfd):
    """Run ``sft`` in this process, with the secrets in its environment; return its exit code and all it said."""
    from sftcore.cli.main import main

    def run(*words):
        try:
            code = main([words[0], "--config", str(careless.write()), *WORDS, *words[1:]])
        except SystemExit as error:
            code = error.code
        except ZeroDivisionError as error:
            code = 1
            sys.excepthook(type(error), error, error.__traceback__)
        return code, "".join(capfd.readouterr())

    for name, value in careless.env.items():
        monkeypatch.setenv(name, value)
    monkeypatch.syspath_prepend(careless.plugin)
    monkeypatch.chdir(careless.folder)
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)
    yield run
    logging.disable(logging.NOTSET)


def test_redaction_leaves_no_secret_in_the_output_and_files_of_a_run(careless, nursery):
    code, said = careless.run_forked(nursery, *WORDS, **careless.env, DYING="1")
    assert code == 0, said
    assert leaks(said) == []
    assert "the tracker leaky failed in log and is disabled: ConnectionError: Leaky(" in said
    for place in ("in a thread", "in a log", "in __del__", "a warning"):
        assert f"no login with {place}" in said.replace("('", ""), place
    assert f"cannot be decrypted with {REDACTED}" in (careless.out / "quarantine.jsonl").read_text()
    state = json.loads((careless.out / "checkpoint-2" / "run_state.json").read_text())
    assert "LeakyMethod" in state["method"]
    assert REDACTED in state["method"]
    assert len(list(careless.out.glob("wandb/offline-run-*"))) == len(list(careless.out.glob("swanlab/run-*"))) == 1
    assert secrets_below(careless.out, careless.folder / "cache") == []
    assert len(list(careless.out.rglob("*"))) > 30
    record = careless.record()
    assert record["training_args"]["hub_token"] == record["config"]["trackers"][0]["password"] == REDACTED
    assert record["config"]["trackers"][0]["endpoint"] == f"https://{REDACTED}@host/x"
    assert record["config"]["trackers"][0]["doing"] == ""
    assert json.loads((careless.out / "leaky.json").read_text())["config"] == record["config"]


CRASHES = {
    "method.crash=chained": 1,
    "method.crash=noted": 1,
    "method.crash=grouped": 1,
    "method.crash=exits": 1,
    "method.crash=explained": 2,
    "method.crash=in_c": 1,
    "method.crash=forward training_args.dataloader_num_workers=2": 1,
    "method.crash=noted backend={name:\xa0torchrun,nproc_per_node:\xa02}": 1,
    "trackers.0.doing=exit": 0,
    "trackers.0.doing=abort": 0,
    "data.train.1.path=crash.jsonl data.streaming=true data.workers=2": 0,
}
"""Overrides, and how the run ends."""


def secrets_below(*folders: Path) -> list[Path]:
    """The files that have a secret."""
    files = [path for folder in folders for path in folder.rglob("*") if path.is_file() and "gguf" not in path.parts]
    assert len(files) > 5
    return [path for path in files if CANARIES.search(path.read_bytes().decode("latin-1"))]


@pytest.mark.slow
@pytest.mark.parametrize(("words", "code"), CRASHES.items())
def test_redaction_leaves_no_secret_when_something_crashes(careless, words, code):
    (careless.folder / "crash.jsonl").write_text('{"leak": 0}\n')
    shutil.rmtree(careless.out, ignore_errors=True)
    words = [word.replace("\xa0", " ") for word in words.split(" ")]
    done = careless.run(*WORDS, *words, launcher=("-m", "sftcore"), CUDA_VISIBLE_DEVICES="", **careless.env)
    assert leaks(done.said) == []
    assert REDACTED in done.said
    assert done.code == code, done.said
    assert secrets_below(careless.out, careless.folder / "cache") == []


def test_redaction_leaves_no_secret_in_the_output_of_other_commands(careless, sft_here):
    page = careless.folder / "page.html"
    for words in (["prepare"], ["stats"], ["preview"], ["preview", "--html", str(page)]):
        code, said = sft_here(*words)
        assert code == 0, said
        assert leaks(said) == []
    assert leaks(page.read_text()) == []


@pytest.mark.parametrize(("word", "message"), FAILURES.items())
def test_redaction_leaves_no_secret_in_an_error_message(sft_here, word, message):
    code, said = sft_here("run", *word.split())
    assert code == 2, said
    assert message in said
    assert leaks(said) == []


@pytest.mark.parametrize(("text", "message"), BROKEN_YAML.items())
def test_redaction_leaves_no_secret_in_a_message_about_broken_yaml(sft_here, tmp_path, text, message):
    (tmp_path / "broken.yaml").write_text(text)
    code, said = sft_here("run", "--config", str(tmp_path / "broken.yaml"))
    assert code == 2, said
    assert message in said
    assert leaks(said.replace("correcthorse", "canary0")) == []


@pytest.mark.parametrize("flags", [(), ("--json",), ("--verbose",), ("--verbose", "--json")], ids=" ".join)
def test_redaction_leaves_no_secret_in_the_list_of_plugins(careless, sft_here, capfd, flags):
    from sftcore.cli.main import main

    assert main(["list-plugins", *flags]) == 0
    said = "".join(capfd.readouterr())
    assert "leaky-too" in said
    assert f"RuntimeError: {REDACTED}" in said
    assert leaks(said) == []


def test_redaction_leaves_no_secret_in_a_traceback(sft_here):
    code, said = sft_here("stats", "trackers.0.doing=break")
    assert code == 1
    assert "ZeroDivisionError: cannot reach" in said
    assert leaks(said) == []
