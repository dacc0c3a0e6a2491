"""Warnings of libraries: each is reported once, in the form of a run's own."""

from __future__ import annotations

import logging
import warnings

import pytest

from sftcore.runtime.library_warnings import report_library_warnings, report_other_ranks, reported_warnings


@pytest.fixture(autouse=True)
def reporting():
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        handle = logging.Logger.handle
        report_library_warnings()
        yield
        logging.Logger.handle = handle
        logging.disable(logging.NOTSET)


def warned_by(module, *arguments, **options):
    """Warn as a module of this name does."""
    exec("import warnings; warnings.warn(*arguments, **options)", {"__name__": module, **vars(), "options": options})


def test_a_warning_has_the_name_of_its_library(capsys):
    warned_by("peft.tuners.lora", "the merged model\n  is another one")
    warned_by("torch.nn", "of the caller", stacklevel=2)
    logging.getLogger("transformers.trainer").warning("a %s of %d", "warning", 3)
    assert capsys.readouterr().err == (
        "   warning  peft: the merged model is another one\n"
        "   warning  torch: of the caller\n"
        "   warning  transformers: a warning of 3\n"
    )


def test_equal_warnings_are_reported_once(capsys):
    for step in range(3):
        warned_by("accelerate.utils", f"slow in step {step}")
        logging.getLogger("accelerate").warning("another")
        logging.getLogger("accelerate.data_loader").warning("another")
    assert reported_warnings() == ["accelerate: slow in step 0", "accelerate: another"]
    assert capsys.readouterr().err.count("\n") == 2
    report_library_warnings()
    warned_by("accelerate.utils", "slow in step 0")
    assert "slow" in capsys.readouterr().err


def test_a_handler_of_a_library_does_not_repeat_it(capsys):
    logger, handler = logging.getLogger("alibrary"), logging.StreamHandler()
    logger.addHandler(handler)
    logger.warning("once")
    logger.info("never")
    logger.error("as it is")
    logger.removeHandler(handler)
    assert capsys.readouterr().err == "   warning  alibrary: once\nas it is\n"


@pytest.mark.parametrize("category", [FutureWarning, DeprecationWarning, PendingDeprecationWarning, ResourceWarning])
def test_what_programmers_are_told_is_not_shown(capsys, category):
    warned_by("transformers.models", "use another function", category)
    assert capsys.readouterr().err == ""


def test_what_a_run_does_on_purpose_is_not_shown(capsys):
    logging.getLogger("transformers.trainer").warning("The tokenizer has new PAD/BOS/EOS tokens that differ")
    logging.getLogger("DeepSpeed").warning("Setting accelerator to CPU. If you have GPU")
    assert capsys.readouterr().err == ""


def test_a_long_warning_is_cut_and_has_no_style(capsys):
    logging.getLogger("transformers").warning("\x1b[1mbold\x1b[0m " + "x" * 2000)
    said = capsys.readouterr().err
    assert said.startswith("   warning  transformers: bold xxx")
    assert len(said) < 650


def test_only_rank_0_prints_and_it_has_what_others_were_warned_of(capsys, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    warned_by("bitsandbytes.nn", "of this rank alone")
    assert capsys.readouterr().err == ""
    others = reported_warnings()
    monkeypatch.setenv("RANK", "0")
    report_library_warnings()
    warned_by("peft.mapping", "of all ranks")
    capsys.readouterr()
    for _ in range(2):
        report_other_ranks([["peft: of all ranks"], ["peft: of all ranks", *others]])
    assert capsys.readouterr().err == "   warning  rank 1: bitsandbytes: of this rank alone\n"
