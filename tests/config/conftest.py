from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import yaml

from rage_net import config
from rage_net.config import InvalidConfigError
from rage_net.config.reader import Problem


@pytest.fixture(params=["libyaml", "pure Python"])
def parser(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Both bodies of PyYAML: their words and their nodes differ a little, ours must not."""
    if request.param == "pure Python":
        monkeypatch.setattr(yaml, "CSafeLoader", yaml.SafeLoader)
    else:
        assert yaml.__with_libyaml__
    return str(request.param)


@pytest.fixture
def load(tmp_path: Path) -> Callable[..., config.Config]:
    """A network.yaml from text, loaded from a home of its own."""

    def load(text: str, environ: Mapping[str, str] | None = None, **more: object) -> config.Config:
        file = tmp_path / "config" / "network.yaml"
        file.parent.mkdir(exist_ok=True)
        file.write_text(text)
        return config.load(tmp_path, environ=environ or {}, **more)  # type: ignore[arg-type]

    return load


@pytest.fixture
def problems(load: Callable[..., config.Config]) -> Callable[..., tuple[Problem, ...]]:
    """The problems of a network.yaml that must not load."""

    def problems(text: str, environ: Mapping[str, str] | None = None) -> tuple[Problem, ...]:
        with pytest.raises(InvalidConfigError) as caught:
            load(text, environ)
        assert caught.value.exit_code == 10
        return caught.value.problems

    return problems
