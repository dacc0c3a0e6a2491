"""Private names of other packages: what is missing or changed is named, with the versions."""

from __future__ import annotations

import pytest

from sftcore.core.errors import SftError
from sftcore.runtime import private_api
from sftcore.runtime.private_api import PrivateNames, check_private_names


class Owner:
    """Stands for a class of another package."""

    def __init__(self) -> None:
        self._state = self._hook(1)

    def _hook(self, value, more=None):
        return value

    def _unused(self, value):
        return lambda: self._nested()

    def _nested(self):
        return self._other

    @property
    def device(self):
        self._devices = 1
        return self._devices


FITTING = PrivateNames(
    Owner,
    calls={"_unused": ("value",)},
    overrides={"_hook": ("value",), "_nested": ()},
    attributes=("_state", "_devices"),
)


def test_private_names_that_fit_pass():
    check_private_names("transformers", FITTING)


@pytest.mark.parametrize(
    ("names", "problem"),
    [
        (PrivateNames(Owner, calls={"_renamed": ()}), "Owner: _renamed does not exist"),
        (PrivateNames(Owner, calls={"_hook": ("other",)}), "Owner: _hook takes (value, more), not (other, ...)"),
        (PrivateNames(Owner, calls={"_hook": ("more", "value")}), "_hook takes (value, more), not (more, value, ...)"),
        (PrivateNames(Owner, overrides={"_unused": ()}), "Owner: _unused is not called any more"),
        (PrivateNames(Owner, attributes=("_other",)), "Owner: _other does not exist"),  # read, but never assigned
    ],
)
def test_each_changed_private_name_is_reported_with_installed_and_tested_versions(monkeypatch, names, problem):
    import transformers

    monkeypatch.setattr(private_api, "requires", lambda name: ["torch>=2.6", "transformers<6,>=5.20; extra == 'x'"])
    with pytest.raises(SftError) as error:
        check_private_names("transformers", FITTING, names)
    assert problem in str(error.value)
    assert f"transformers {transformers.__version__} " in str(error.value)
    assert "is tested with transformers<6,>=5.20: " in str(error.value)
