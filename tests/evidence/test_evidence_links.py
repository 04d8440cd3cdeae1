"""The link check, against a real server on this machine."""

from __future__ import annotations

import datetime
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from skipkb.catalog.search import get
from skipkb.evidence.addresses import Link, ask, check_links, read_links, urls_of, write_links
from skipkb.site import text

MONDAY, NEXT = datetime.date(2026, 1, 5), datetime.date(2026, 1, 12)


ANSWERS = {"/gone": 404, "/removed": 410, "/busy": 503, "/robots": 403, "/moved": 301}


class Handler(BaseHTTPRequestHandler):
    def do_HEAD(self) -> None:
        code = 405 if self.path == "/no-head" and self.command == "HEAD" else ANSWERS.get(self.path, 200)
        self.send_response(code)
        if code == 301:
            self.send_header("Location", "/here")
        self.send_header("Content-Length", "0")
        self.end_headers()

    do_GET = do_HEAD  # noqa: N815

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http:
        threading.Thread(target=http.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{http.server_port}"
        http.shutdown()


@pytest.mark.parametrize(
    ("path", "answer"),
    [
        *(("/here", "alive"), ("/moved", "alive"), ("/no-head", "alive"), ("/gone", "dead"), ("/removed", "dead")),
        *(("/busy", "unclear"), ("/robots", "unclear")),
    ],
)
def test_what_an_answer_means(server: str, path: str, answer: str) -> None:
    assert ask(server + path, 5)[0] == answer


def test_no_answer_proves_nothing_and_no_such_host_does() -> None:
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as closed:
        port = closed.server_port
    assert ask(f"http://127.0.0.1:{port}/", 2)[0] == "unclear"
    answer, note = ask("http://no-such-host.invalid/", 5)
    assert answer in ("dead", "unclear")  # without any name server it stays open
    assert note


def test_what_is_remembered(server: str, tmp_path: Path) -> None:
    urls = [server + path for path in ("/here", "/gone", "/busy")]
    events: list[tuple[int, int]] = []
    file = tmp_path / "links.json"
    first = check_links(urls, {}, MONDAY, pause=0, on_done=lambda link, done, total: events.append((done, total)))
    assert events == [(1, 3), (2, 3), (3, 3)]
    write_links(first, file)
    known = read_links(file)
    assert known[server + "/here"] == Link(server + "/here", last_success="2026-01-05")
    assert known[server + "/gone"] == Link(server + "/gone", dead_since="2026-01-05", note="404 Not Found")
    assert known[server + "/busy"].note.startswith("503")
    known[server + "/busy"] = Link(server + "/busy", last_success="2025-12-29")
    again = {link.url: link for link in check_links(urls, known, NEXT, pause=0)}
    assert again[server + "/here"].last_success == "2026-01-12"
    assert again[server + "/gone"].dead_since == "2026-01-05"
    assert again[server + "/busy"].last_success == "2025-12-29"
    revived = check_links([server + "/here"], {server + "/here": Link(server + "/here", dead_since="2025-12-01")}, NEXT)
    assert revived == [Link(server + "/here", last_success="2026-01-12")]


def test_a_host_is_asked_one_thing_at_a_time(server: str) -> None:
    start = datetime.datetime.now()
    check_links([f"{server}/here?{i}" for i in range(3)], {}, MONDAY, pause=0.2)
    assert datetime.datetime.now() - start >= datetime.timedelta(seconds=0.4)


def test_every_address_the_catalogue_vouches_for_and_no_claim_of_the_survey() -> None:
    urls = urls_of([get("resnet")])
    assert {"https://arxiv.org/abs/1512.03385", "https://github.com/KaimingHe/deep-residual-networks"} <= set(urls)
    assert not any("Scaffold-GS" in url for url in urls)


def test_a_dead_link_says_so_on_the_page(monkeypatch: pytest.MonkeyPatch) -> None:
    url = "https://example.org/x"
    monkeypatch.setattr(text, "checked_links", lambda: {url: Link(url, dead_since="2026-01-05")})
    assert "dead since 2026-01-05" in text.link(url)
    assert "dead" not in text.link("https://example.org/y")
