"""What an entry of the catalogue may say: the typed model behind every YAML file.

One YAML file under ``catalog/`` is one :class:`Entry`. Unknown keys are refused everywhere, so a
typo is an error and never a silently ignored fact. Every figure carries a :class:`Source`, which
says where it is printed and how far somebody checked it; ``unverified`` is a legal answer and the
site shows it as such.

The JSON Schema that editors use is generated from this module (``skipkb check --write-schema``).
"""

from __future__ import annotations

import datetime
import difflib
import re
from collections.abc import Callable, Iterable
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, JsonValue, StringConstraints, model_validator

from skipkb import vocabulary
from skipkb.vocabulary import TABLE_DATA, DataKind, Merge, SkipCount, Span, Table

FOLDERS = (
    "classification",
    "detection",
    "segmentation",
    "reconstruction",
    "generation",
    "theory",
    "precursors",
    "beyond",
)

Kind = Literal["method", "regulariser", "theory", "precursor", "application"]
Theme = Literal["IV.A", "IV.B", "IV.C", "IV.D", "IV.E"]
Explanation = Literal["V.A", "V.B", "V.C", "V.D", "V.E"]
RelationType = Literal["extends", "uses", "explains"]
Compared = Literal["as built", "difference undone", "names and shapes"]
Checked = Literal["paper", "repository", "documentation", "counted", "survey", "unverified"]


def _http_url(value: str) -> str:
    if not re.fullmatch(r"https?://[^\s/<>\"'`\\]+\.[^\s/<>\"'`\\]+(/[^\s<>\"`\\]*)?", value):
        raise ValueError("a link must be an http:// or https:// address")
    return value


def _one_of(words: Iterable[str], noun: str) -> Callable[[str], str]:
    known = list(words)

    def check(value: str) -> str:
        if value not in known:
            near = difflib.get_close_matches(value, known, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise ValueError(f"not a {noun} of skipkb/vocabulary.py{hint}")
        return value

    return check


def _licence(value: str) -> str:
    return value if value.startswith("LicenseRef-") else _one_of(vocabulary.LICENCES, "licence")(value)


Text = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1)]
Line = Annotated[
    str,
    StringConstraints(strip_whitespace=True, min_length=1, max_length=200, pattern=r"^[^\n]*$"),
]
Key = Annotated[str, StringConstraints(pattern=r"^[a-z0-9]+([-_][a-z0-9]+)*$", max_length=60)]
Url = Annotated[str, AfterValidator(_http_url)]
ImportPath = Annotated[str, StringConstraints(pattern=r"^[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*$")]
Task = Annotated[
    str,
    AfterValidator(_one_of(vocabulary.TASKS, "task")),
    Field(json_schema_extra={"enum": [*vocabulary.TASKS]}),
]
Licence = Annotated[str, AfterValidator(_licence)]
Shape = Annotated[list[Annotated[int, Field(ge=1)]], Field(min_length=1, max_length=6)]


Substitution = Annotated[list[str], Field(min_length=2, max_length=2)]


class Model(BaseModel):
    """Base of all catalogue types: immutable, closed to keys it does not know, and strict ("5" is not a number)."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, use_attribute_docstrings=True)


class Source(Model):
    """Where a statement comes from, and how far it was checked."""

    checked: Checked
    """What somebody really looked at: `paper` (its text), `repository` (official code or README),
    `documentation` (of a library or data set), `counted` (by our own code), `survey` (the survey's text), or
    `unverified`: recalled or taken over from elsewhere, and shown as such."""
    where: Line | None = None
    """Place inside the source, such as "Table 2" or "README, results"."""
    url: Url | None = None
    """Address of the source."""
    date: datetime.date | None = None
    """Day of the check; required unless unverified."""

    @model_validator(mode="after")
    def _dated(self) -> Source:
        if (self.checked == "unverified") != (self.date is None):
            raise ValueError("a date goes with every check, and only with a check")
        return self


class Claim(Model):
    """What the survey prints in one cell, beside what we found."""

    survey: Text
    """The cell as the survey gives it."""
    verified: list[Line] | None = None
    """The true value, item by item; left out while nobody has checked."""
    source: Source


class Row(Model):
    """One row of one of the survey's four tables."""

    table: Table
    name: Line
    """The method's name as the table prints it, without the reference number."""
    group: Line | None = None
    """Table IV only: the group ("Mandate") the row stands in."""
    datasets: Claim
    code: Claim


class PageItem(Model):
    """One item of the survey's own project page: its links are the survey's claims, errors included."""

    part: Literal["I", "II", "III"]
    section: Line
    """Heading of the section, with its number."""
    number: Annotated[int, Field(ge=1)]
    name: Line
    """As printed there."""
    paper: Line | None = None
    """The link as it stands there, whether or not it works."""
    code: Line | None = None


class Survey(Model):
    """Where the work stands in the survey."""

    reference: Annotated[int, Field(ge=1, le=202)] | None = None
    """Number in the survey's reference list."""
    repeated: list[Annotated[int, Field(ge=1, le=202)]] = []
    """Further numbers under which the list has the same work again."""
    sections: list[Annotated[str, StringConstraints(pattern=r"^[IVX]+(\.[A-Z0-9])?$")]] = []
    """Sections that discuss the work, such as IV.A."""
    figures: list[Annotated[int, Field(ge=1)]] = []
    rows: list[Row] = []
    page: list[PageItem] = []
    """Where the survey's project page lists it."""


class Erratum(Model):
    """Something untrue in the survey or on its project page; what is true but worth adding to is a :class:`Note`."""

    type: Literal["citation", "dataset", "framework", "category", "link", "statement", "typo"]
    where: Line
    """Place in the survey: "Table III", "IV.A", "project page"."""
    column: Literal["reference", "datasets", "code", "description"] | None = None
    """Column of the table cell that is affected, so that the table can mark it."""
    says: Text
    """What the survey says, in short."""
    truth: Text
    """What is right, in one fair sentence."""
    evidence: Source
    status: Literal["confirmed", "disputed", "unverified"]
    """`unverified` waits for somebody to read what the truth rests on, and is not published."""

    @model_validator(mode="after")
    def _read(self) -> Erratum:
        checked = self.evidence.checked
        if (checked == "unverified") != (self.status == "unverified"):
            raise ValueError("status `unverified` goes with unverified evidence, and only with it")
        if checked == "survey" and self.type in ("dataset", "framework"):
            raise ValueError(
                "what a paper evaluates on or its code is written in does not follow from the survey's text"
            )
        return self


class Note(Model):
    """What is worth adding to the survey, which is right or leaves it open: no error."""

    where: Line
    """Place in the survey: "Table III", "IV.A", "project page"."""
    column: Literal["reference", "datasets", "code", "description"] | None = None
    """Column of the table cell that it adds to."""
    says: Text | None = None
    """What the survey says there, in short, where that is needed to understand the note."""
    adds: Text
    """One sentence."""
    evidence: Source
    """A note whose evidence is unverified waits for a check, and is not published."""


class Repository(Model):
    """A code repository for the work and what it really holds."""

    url: Url
    role: Literal["official", "third-party"]
    framework: Line
    licence: Licence | None = None
    """SPDX identifier; left out where the repository states none or nobody looked."""
    holds: Line
    """What is in it: models, training code, weights, or less."""
    source: Source


class Skip(Model):
    """One kind of skip connection of the method, in words."""

    start: Line
    """Where the shortcut leaves the main path."""
    end: Line
    """Where it comes back."""
    merge: Merge
    span: Span
    """As the survey uses the words: long crosses at least three convolution layers (IV.A)."""
    shortcut: Line
    """What happens on the shortcut: identity, 1x1 projection, crop, gate, ..."""


class Published(Model):
    """The figures the authors print for a variant."""

    parameters: Line | None = None
    """As printed, such as "25.6M"."""
    macs: Line | None = None
    """As printed; papers that write FLOPs and mean multiply-accumulates are quoted here as they are."""
    source: Source


class Configuration(Model):
    """A configuration the authors publish that has no running variant here (yet), with the figures as printed."""

    name: Line
    input: Line | None = None
    """Input size as given, such as "1x3x224x224"."""
    parameters: Line | None = None
    macs: Line | None = None
    """With the unit the source uses."""
    source: Source


class Relation(Model):
    """A typed link to another entry, drawn in the family graph."""

    type: RelationType
    """`extends`: changes or generalises the other's idea. `uses`: takes the other as a part or as its backbone.
    `explains`: analyses why the other works."""
    to: Key
    how: Line
    """What is taken, changed or explained."""


class StateDict(Model):
    """An official checkpoint format that loads with strict=True and no renaming; that of a compared peer goes without
    saying."""

    library: Line
    """Official repository whose names are used."""
    constructor: Line
    """How that repository builds the same network."""
    test: Annotated[str, StringConstraints(pattern=r"^tests/[\w/]+\.py$")]
    """The test that proves it."""


class Weights(Model):
    """Where trained weights in one of the compatible formats are published."""

    name: Annotated[str, StringConstraints(pattern=r"^[\w.-]+(/[\w.-]+)+$")]
    """Name for create_model(..., weights=NAME), such as timm/resnet50.a1_in1k (a Hugging Face repository)."""
    licence: Licence | None = None
    source: Source


class Variant(Model):
    """A configuration that the paper or its code publishes, with its exact size."""

    name: Key
    """Name for create_model; unique over the whole catalogue."""
    title: Line
    """Name as people write it, such as "ResNet-50"."""
    build: ImportPath
    """Function that builds it, as package.module:function."""
    kwargs: dict[str, JsonValue] = {}
    """Keyword arguments for the builder."""
    input: Shape
    """Shape of the input tensor for which output and MACs hold."""
    output: Shape | dict[str, Shape]
    """Shape of the output for that input; by name where the network returns a dict."""
    parameters: Annotated[int, Field(ge=0)]
    """Exact number of parameters (buffers not counted)."""
    macs: Annotated[int, Field(ge=0)]
    """Multiply-accumulates of convolutions and matrix products for that input, counted by
    torch.utils.flop_counter (half of its figure)."""
    skips: dict[SkipCount, Annotated[int, Field(ge=1)]] = {}
    """How many skip connections a trace must find: by merge, by what happens on the shortcut (of adds and
    concats), and how many are long or leave the resolution and come back; what there is none of is left out."""
    published: Published | None = None
    """What the authors print; left out where they print nothing."""
    derivation: Text | None = None
    """How the exact count follows from the paper, where no exact figure is printed."""
    data: DataKind | None = None
    """What the model is for, where that is not what the small configuration is trained on."""
    state_dicts: list[StateDict] = []
    weights: list[Weights] = []


class Unreached(Model):
    """Parameters that need not get a gradient in the few steps of the training check."""

    names: Annotated[str, StringConstraints(min_length=1)]
    """Regular expression, searched for in the names of parameters."""
    reason: Line

    @model_validator(mode="after")
    def _complete(self) -> Unreached:
        try:
            re.compile(self.names)
        except re.error as error:
            raise ValueError(f"names: {self.names!r} is not a regular expression: {error}") from None
        return self


class Smoke(Model):
    """A small configuration of the same code, which the contract really runs and trains."""

    build: ImportPath
    kwargs: dict[str, JsonValue] = {}
    input: Shape
    """Batch, channels, height, width; the batch size is what the training check uses."""
    data: DataKind
    """Which real batch of skipkb.evidence.data feeds it."""
    data_kwargs: dict[str, JsonValue] = {}
    objective: ImportPath
    """The method's own loss, called as objective(output, target) -> scalar."""
    steps: Annotated[int, Field(ge=1, le=200)] = 20
    """Optimiser steps of the training check."""
    learning_rate: Annotated[float, Field(gt=0.0)] = 1e-3
    not_exportable: Line | None = None
    """Why torch.export cannot capture this network; the check then expects the failure."""
    unreached: Unreached | None = None
    """Which parameters the method trains only some of the time; the check then expects some without a gradient."""


class Result(Model):
    """A figure the paper reports."""

    dataset: Line
    metric: Line
    value: Line
    """As printed."""
    variant: Line
    """Configuration in the paper's words; not every one runs here."""
    source: Source


class Peer(Model):
    """The same architecture in another library: shown on the page, compared by a test, timed by a benchmark."""

    package: Line
    version: Line
    constructor: Line | None = None
    """How that library builds it, as text; left out where `build` says it."""
    build: ImportPath | None = None
    """Function or class that builds it, as package.module:function, without trained weights."""
    kwargs: dict[str, JsonValue] = {}
    """Keyword arguments for it."""
    parameters: Annotated[int, Field(ge=0)]
    difference: Line
    """"none", or why the counts or the network differ."""
    variant: Key | None = None
    """The variant of this entry that it is beside."""
    variant_kwargs: dict[str, JsonValue] = {}
    """Further arguments of ours, where its default is not their network."""
    compared: Compared | None = None
    """How tests/parity/test_peers.py compares it; left out where it does not. `as built`: with the same weights it
    gives the same outputs and gradients. `difference undone`: so it does after `undo` of tests/parity/KEY.py. `names
    and shapes`: its tensors are ours, and more would take too long."""
    names: Literal["in order", "by code"] | list[Substitution] = []
    """Their names of tensors in ours: regular expressions and replacements, applied one after the other; `in order`
    where the same tensors come in the same order; `by code` where `our_name` of tests/parity/KEY.py says them. Left
    out where the names are the same: their state dict then loads here."""
    input: Shape | None = None
    """Pictures to compare with, where 2 of 48 x 48 are too large or do not fit."""
    timed: Annotated[int, Field(ge=1)] | None = None
    """With how many pictures of the variant's size benchmarks/models.py times both; left out where it does not."""
    source: Source

    @model_validator(mode="after")
    def _complete(self) -> Peer:
        if (self.constructor is None) == (self.build is None):
            raise ValueError("say how it is built: either `build` with `kwargs`, or `constructor` as text")
        if (self.compared or self.timed) and not (self.build and self.variant):
            raise ValueError("what is compared or timed needs `build` and `variant`")
        if (self.names or self.input) and not self.compared:
            raise ValueError("`names` and `input` are for a peer that is compared")
        for pattern, replacement in self.names if isinstance(self.names, list) else ():
            try:
                re.sub(pattern, replacement, "")
            except re.error as error:
                raise ValueError(f"names: {pattern!r} to {replacement!r} cannot be: {error}") from None
        return self

    @property
    def call(self) -> str:
        """How it is built, as text: ``torchvision.models.resnet18()``."""
        return _call(self.build.replace(":", "."), self.kwargs) if self.build else self.constructor or ""

    @property
    def ours(self) -> str:
        """The model of ours it is beside, as text: ``sknet50(port=True)``, or its bare name."""
        return _call(self.variant or "", self.variant_kwargs) if self.variant_kwargs else self.variant or ""

    @property
    def loads_here(self) -> bool:
        """Whether its state dict loads into ours without renaming, which a test shows."""
        return self.compared is not None and not self.names


def _call(name: str, arguments: dict[str, JsonValue]) -> str:
    return f"{name}({', '.join(f'{key}={value!r}' for key, value in arguments.items())})"


class Deviation(Model):
    """A place where our implementation departs from the paper."""

    what: Text
    reason: Text
    test: Annotated[str, StringConstraints(pattern=r"^tests/[\w/]+\.py(::\w+)?$")]
    """The test that pins it."""


class NoImplementation(Model):
    """Why a work has no running code here."""

    status: Literal["planned", "not applicable"]
    reason: Text


class Entry(Model):
    """One work of the survey."""

    key: Key
    """Unique; equal to the file's stem."""
    name: Line
    aliases: list[Line] = []
    """Other spellings people search for, the survey's own included."""
    kind: Kind
    contribution: Line
    """One line: what the work changed."""
    description: Text
    """A paragraph in our own words."""
    paper: Annotated[str, StringConstraints(pattern=r"^[A-Za-z][\w:-]*$")]
    """Key of the publication in references.bib, which alone holds title, authors, venue, year and identifiers."""
    survey: Survey = Survey()
    """Left out for a work that the survey does not name."""
    errata: list[Erratum] = []
    """Where the survey says something untrue about the work."""
    notes: list[Note] = []
    """What is worth adding to what it says."""
    tasks: list[Task]
    datasets: list[Line] = []
    """Data sets the paper really evaluates on."""
    themes: list[Theme] = []
    explanations: list[Explanation] = []
    relations: list[Relation] = []
    code: list[Repository] = []
    skips: list[Skip] = []
    variants: list[Variant] = []
    configurations: list[Configuration] = []
    smoke: Smoke | None = None
    """Required where there are variants."""
    results: list[Result] = []
    peers: list[Peer] = []
    deviations: list[Deviation] = []
    implementation: NoImplementation | None = None
    """Required where there are no variants."""


class Work(Entry):
    """An entry joined with its bibliography: what ``skipkb.get`` returns."""

    folder: str
    """Folder of the entry, the model and the notebook."""
    title: str
    authors: list[str]
    year: int
    venue: str
    arxiv: str | None = None
    """arXiv identifier without version."""
    doi: str | None = None
    """Digital object identifier, without the resolver's address."""
    url: str | None = None
    """Another address of the paper."""
    bibtex: str
    """The BibTeX record."""

    @property
    def runs(self) -> bool:
        """Whether a running implementation is part of this package."""
        return bool(self.variants)

    def models_for(self, table: Table) -> list[Variant]:
        """The models that do what this table is about: a backbone alone is not a detector."""
        usual = self.smoke.data if self.smoke else None
        return [variant for variant in self.variants if (variant.data or usual) in TABLE_DATA[table]]

    @property
    def merges(self) -> list[Merge]:
        """The kinds of merge among the skips, each once, in order."""
        return list(dict.fromkeys(skip.merge for skip in self.skips))


class SurveyTable(Model):
    """One of the survey's four tables."""

    key: Table
    number: Literal["I", "II", "III", "IV"]
    title: Line
    survey_rows: Annotated[int, Field(ge=0)]
    """How many rows the survey prints."""
    rows: list[Key]
    """Entries in the survey's row order."""


class SurveyFile(Model):
    """catalog/survey.yaml: the survey's own structure."""

    title: Line
    arxiv: Annotated[str, StringConstraints(pattern=r"^\d{4}\.\d{4,5}$")]
    references: Annotated[list[Annotated[str, StringConstraints(pattern=r"^[A-Za-z][\w:-]*$")]], Field(min_length=1)]
    """BibTeX keys in the order of the survey's numbered list; a work that it lists twice stands here twice."""
    sections: list[Line]
    """Numbers of its sections other than the themes and explanations."""
    themes: dict[Theme, Line]
    explanations: dict[Explanation, Line]
    tables: Annotated[list[SurveyTable], Field(min_length=4, max_length=4)]
    hosts: list[Line]
    """Where links may lead; a new host is added here on purpose, a misspelt one is an error."""
    errata: list[Erratum] = []
    """Errata that belong to no entry, such as those of references that are cited in passing."""
    notes: list[Note] = []
    """Notes that belong to no entry."""
