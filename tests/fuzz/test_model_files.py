"""Files of language models, and the folder they are kept in."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stars_local.catalog.manifests import FileManifest, manifest_of, write_manifest
from stars_local.core.records import Message, Prompt
from stars_local.llama import template
from stars_local.llama.child import Child
from stars_local.llama.gguf_check import check_gguf, probe_with
from tests.fuzz.contract import cases, refused_cleanly
from tests.fuzz.mutations import every_odd_value, json_or_bytes, spoilt_bytes
from tests.support.tiny_gguf import CHATML, write_tiny
from tests.unit.chat_templates import FAMILIES
from tests.unit.test_gguf_check import header_bytes

PROMPT = Prompt("p", (Message("user", "Hi, who are you?"),))


@pytest.fixture(scope="module", name="child")
def _child() -> Iterator[Child]:
    with closing(Child()) as child:
        yield child


@cases(share=0.5)  # `make fuzz` says how many that is
@given(st.data())
def test_gguf_headers(
    child: Child, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    folder = tmp_path_factory.getbasetemp()
    good = folder / "good.gguf"
    if not good.exists():
        write_tiny(good, "llama")
    path = folder / "spoilt.gguf"
    path.write_bytes(data.draw(spoilt_bytes(good.read_bytes(), 0, header_bytes(good))))

    def read() -> None:
        check_gguf(path)
        probe_with(child, path, 8.0, path.stat().st_size)

    refused_cleanly(read, may_start=True)


@cases()
@given(
    st.sampled_from([*FAMILIES.values(), CHATML]).flatmap(lambda text: spoilt_bytes(text.encode()))
)
def test_chat_templates(data: bytes) -> None:
    text = data.decode("utf-8", "replace")
    refused_cleanly(lambda: template.render(PROMPT, text, bos="<s>", eos="</s>"), may_start=True)


@pytest.mark.parametrize(
    "text",
    [
        "{% for i in range(10**9) %}{% endfor %}",
        "{{ 'x' * 10**10 }}",
        "{% for i in range(10**6) %}{{ 'x' * 1000 }}{% endfor %}",
        "{{ messages.__class__.__mro__ }}{{ cycler.__init__.__globals__.os.system('true') }}",
        "{{ ''.__class__.__base__.__subclasses__() }}",
        "{% include '/etc/passwd' %}",
        "{{ '{0.__class__.__mro__}'.format(messages) }}{{ messages[0].content }}",
        "{% import 'os' as os %}",
        "{{ 10 ** 10 ** 10 }}",
        "{{ lipsum(n=10**7) }}",
        "{{ '%1000000000d' % 1 }}",
        "{{ ('a' * 30 ~ '!') | replace('a', 'a' * 10**7) }}",
        "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
        "{{ " + "(" * 5000 + "1" + ")" * 5000 + " }}",
        "{{ range(10**9) | list }}",
        "{{ (range(99999) | list | join).__len__() }}",
        "{" * 100_000,
        "{% set ns = namespace(x='a') %}{% for i in range(60) %}"
        "{% set ns.x = ns.x ~ ns.x %}{% endfor %}",
    ],
)
def test_hostile_chat_templates(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setattr(template, "RENDER_LIMIT_S", 1.0)
    message = refused_cleanly(
        lambda: template.render(PROMPT, text, bos="<s>", eos="</s>"), may_start=True
    )
    assert message is not None


# -- the models folder ---------------------------------------------------------------------

MANIFEST = {
    "schema": 1,
    "file_name": "m.gguf",
    "source": "import:/m.gguf",
    "size_bytes": 3,
    "sha256": "a" * 64,
    "licence": None,
}


@pytest.fixture(scope="module", name="models")
def _models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    write_manifest(folder, FileManifest("m.gguf", "import:x", 3, "a" * 64))
    assert manifest_of(folder, "m.gguf") is not None
    return folder


def test_every_odd_value_in_a_manifest_of_the_models_folder(models: Path) -> None:
    for data in every_odd_value(MANIFEST):
        look_up(models, data)


@cases()
@given(data=json_or_bytes(MANIFEST))
def test_manifests_of_the_models_folder(models: Path, data: bytes) -> None:
    look_up(models, data)


def look_up(models: Path, data: bytes) -> None:
    (models / "manifests" / "m.gguf.json").write_bytes(data)

    def read() -> None:
        found = manifest_of(models, "m.gguf")
        assert found is not None
        assert (found.source + str(found.licence)).encode()

    refused_cleanly(read)
