"""Every refused request is answered with a reason that its sender can read, and does not affect others."""

import gzip
import json
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import zstandard

from app.intake.collector.bodies import split_body, split_invalid_array
from app.intake.collector.http_error import HTTPError
from tests.intake.collector.conftest import GOOD, SMALL, call, line
from tests.support.collecting import AUTHORIZATION, collecting_here, read_to_end

JSON = "application/json"
HEAD = f"POST /v1/calls HTTP/1.1\r\nHost: c\r\nAuthorization: {AUTHORIZATION}\r\nContent-Type: {JSON}\r\n".encode()


def answer_of(data: bytes) -> tuple[int, dict]:
    """Status and JSON of an answer as it stands on the wire."""
    head, _, content = data.partition(b"\r\n\r\n")
    return int(head.split()[1]), json.loads(content)


REFUSED = {
    "no key": ({"authorization": None}, 401), "another scheme": ({"authorization": "Basic YTpi"}, 401),
    "a wrong key": ({"authorization": "Bearer a-key-that-only-these-tests-usf"}, 401),
    "a part of the key": ({"authorization": "Bearer a-key"}, 401), "an empty key": ({"authorization": "Bearer "}, 401),
    "a key that is no text": ({"authorization": "Bearer \xff\xfe"}, 401),
    "another path": ({"path": "/v1/call"}, 404), "a path of odd bytes": ({"path": "/%ff%00"}, 404),
    "XML": ({"content_type": "application/xml"}, 415), "a form": ({"content_type": "application/x-www-form-urlencoded"}, 415),
    "brotli": ({"content_type": JSON, "content_encoding": "br"}, 415), "two encodings": ({"content_encoding": "gzip, zstd"}, 415),
    "no gzip": ({"content_encoding": "gzip"}, 400), "no zstd": ({"content_encoding": "zstd"}, 400),
    "an empty body": ({"body": b""}, 400), "white space": ({"body": b" \n\t "}, 400),
    "half an array": ({"body": b"[" + GOOD + b", " + GOOD[:-9]}, 400), "more after the array": ({"body": b"[" + GOOD + b"] x"}, 400),
    "half a gzip": ({"body": gzip.compress(GOOD)[:-9], "content_encoding": "gzip"}, 400),
    "rubbish behind gzip": ({"body": gzip.compress(GOOD) + b"rubbish", "content_encoding": "gzip"}, 400),
    "half a zstd": ({"body": zstandard.compress(GOOD)[:-3], "content_encoding": "zstd"}, 400),
    "a large body": ({"body": b" " * 200_001}, 413), "a large number of records": ({"body": b"[" + b"1," * 500 + b"1]"}, 413),
    "a gzip bomb": ({"body": gzip.compress(b" " * 100_000_000), "content_encoding": "gzip"}, 413),
    "many small gzip bombs": ({"body": gzip.compress(b" " * 30_000) * 60, "content_encoding": "gzip"}, 413),
    "thousands of gzip streams": ({"body": gzip.compress(b"") * 8_000, "content_encoding": "gzip"}, 400),
    "thousands of zstd streams": ({"body": zstandard.compress(b"") * 8_000, "content_encoding": "zstd"}, 400),
    "hundreds of thousands of lines": ({"body": gzip.compress(b"\n1" * 200_000), "content_encoding": "gzip"}, 413),
    "a zstd bomb": ({"body": zstandard.compress(b" " * 400_001), "content_encoding": "zstd"}, 413),
    "a zstd window of 2 GB": ({"body": bytes.fromhex("28b52ffd00a8") + bytes(40), "content_encoding": "zstd"}, 400),
}  # fmt: skip


@pytest.mark.parametrize(("sent", "status"), REFUSED.values(), ids=REFUSED)
def test_a_request_that_cannot_be_accepted_is_answered_with_a_reason(collector, sent, status):
    before = collector.figure("carat_collect_calls_accepted_total")
    answer = collector.post(**{"body": b"[" + GOOD + b"]"} | sent)
    assert answer.status == status
    assert answer.headers["content-type"] == JSON
    assert list(answer.json) == ["reason"]
    assert len(answer.json["reason"]) > 10
    assert collector.figure("carat_collect_calls_accepted_total") == before
    assert collector.figure("carat_collect_held_bytes") == 0


@pytest.mark.parametrize(("body", "reason"), [
    (b"[" + b"1," * 1_000_001 + b"1]", "more than 500 records"), (b"[" + b"[" * 3_000_001, "more than 3000000 values"),
])  # fmt: skip
def test_a_body_with_too_many_values_is_refused_before_it_is_decoded(body, reason):
    assert (split_body(body, JSON) if b"," in body else None) is None
    with pytest.raises(HTTPError, match=reason) as refused:
        split_invalid_array(body, 500)
    assert refused.value.status == 413


def test_a_large_array_with_many_values_is_split_token_by_token():
    records = [line(response=list(range(2_000))) for _ in range(505)]
    body = b"[" + b",".join(records) + b"]"
    assert split_body(body, JSON) is None
    assert split_invalid_array(body, 505) == records


def test_other_methods_are_answered_with_the_allowed_one(collector):
    for method, path, allowed in (
        ("GET", "/v1/calls", "POST"), ("PUT", "/v1/calls", "POST"), ("DELETE", "/v1/calls", "POST"),
        ("POST", "/health", "GET, HEAD"), ("POST", "/metrics", "GET, HEAD"),
    ):  # fmt: skip
        answer = collector.request(method, path)
        assert (answer.status, answer.headers["allow"]) == (405, allowed)


def test_a_connection_stays_usable_after_a_refused_request_that_was_read_completely(collector):
    body = b"[broken"
    requests = HEAD + b"Content-Length: %d\r\n\r\n%s" % (len(body), body)
    requests += HEAD + b"Connection: close\r\nContent-Length: %d\r\n\r\n[%s]" % (len(GOOD) + 2, GOOD)
    answers = collector.raw(requests)
    assert [answers.count(status) for status in (b"HTTP/1.1 400 ", b"HTTP/1.1 200 ")] == [1, 1]
    assert answers.endswith(b'{"accepted":1,"rejected":[]}')


@pytest.mark.parametrize("size", [1_000_000, 50_000_000])
@pytest.mark.parametrize("kind", ["declared", "chunked", "without a key"])
def test_a_client_that_sends_a_whole_large_body_before_reading_still_gets_the_413(collector, kind, size):
    head = HEAD if kind != "without a key" else HEAD.replace(b"these", b"other")
    piece = b" " * 50_000
    with collector.connect() as connection:
        if kind == "chunked":
            connection.sendall(head + b"Transfer-Encoding: chunked\r\n\r\n")
            piece = b"%x\r\n%s\r\n" % (len(piece), piece)
        else:
            connection.sendall(head + b"Content-Length: %d\r\n\r\n" % size)
        for _ in range(size // 50_000):
            connection.sendall(piece)
        if kind == "chunked":
            connection.sendall(b"0\r\n\r\n")
        answer = read_to_end(connection)
    assert answer_of(answer)[0] == (401 if kind == "without a key" else 413)
    assert b"connection: close" in answer


def test_expect_100_continue_is_answered_before_the_body_is_sent(collector):
    with collector.connect() as connection:
        connection.sendall(HEAD + b"Content-Length: 900000\r\nExpect: 100-continue\r\n\r\n")
        assert connection.recv(65536).startswith(b"HTTP/1.1 413 ")
    with collector.connect() as connection:
        connection.sendall(HEAD + b"Content-Length: 2\r\nExpect: 100-continue\r\n\r\n")
        assert connection.recv(65536).startswith(b"HTTP/1.1 100 ")
        connection.sendall(b"[]")
        assert connection.recv(65536).startswith(b"HTTP/1.1 200 ")


def test_a_body_that_does_not_arrive_in_time_gets_408(collector):
    answer = collector.raw(HEAD + b"Content-Length: 1000\r\n\r\n[")
    status, content = answer_of(answer)
    assert (status, content["reason"]) == (408, "the body did not arrive within 0.5 s")
    assert collector.figure("carat_collect_held_bytes") == 0


@pytest.mark.slow
def test_a_late_head_gets_408_and_a_silent_connection_is_closed(collector):
    for begun in (b"POST /v1/calls HTTP/1.1\r\nHost:", b"P"):
        assert answer_of(collector.raw(begun)) == (408, {"reason": "the head of the request did not arrive in time"})
    assert collector.raw(b"") == b""


def test_a_late_head_of_a_second_request_ends_the_connection(collector):
    answers = collector.raw(HEAD + b"Content-Length: 2\r\n\r\n[]" + b"POST /v1/calls HTT")
    assert answers.startswith(b"HTTP/1.1 200 ")
    assert b"HTTP/1.1 408 " in answers


BROKEN_HTTP = {
    "no HTTP": (b"hello\r\n\r\n", 400), "another protocol": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400), "TLS": (bytes.fromhex("16030100a5010000a1"), 400),
    "a negative length": (HEAD + b"Content-Length: -5\r\n\r\n[]", 400), "a length that is no number": (HEAD + b"Content-Length: two\r\n\r\n[]", 400),
    "two lengths": (HEAD + b"Content-Length: 2\r\nContent-Length: 3\r\n\r\n[]", 400), "a broken chunk": (HEAD + b"Transfer-Encoding: chunked\r\n\r\nxyz\r\n[]\r\n", 400),
    "length and chunks": (HEAD + b"Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n[]\r\n0\r\n\r\n", 400),
    "an endless head": (HEAD + b"X-Long: " + b"x" * 200_000, 431), "endless heads": (HEAD + b"X-Y: z\r\n" * 20_000, 431),
    "a large head in one piece": (HEAD + b"X-Long: " + b"x" * 70_000 + b"\r\nContent-Length: 2\r\n\r\n[]", 431),
    "many headers in one piece": (HEAD + b"X-Y: z\r\n" * 15_000 + b"Content-Length: 2\r\n\r\n[]", 431),
    "a large target": (b"GET /health?" + b"q" * 70_000 + b" HTTP/1.1\r\nHost: c\r\n\r\n", 431),
    "a length larger than the body": (HEAD + b"Content-Length: 999\r\n\r\n[]", 408),
}  # fmt: skip


@pytest.mark.parametrize(("data", "status"), BROKEN_HTTP.values(), ids=BROKEN_HTTP)
def test_invalid_http_is_answered_and_the_connection_closed(collector, data, status):
    assert answer_of(collector.raw(data))[0] == status
    assert collector.get("/health").status == 200


def test_a_content_length_shorter_than_the_body_is_obeyed_and_ends_the_connection(collector):
    body = b"[" + GOOD + b"]"
    answers = collector.raw(HEAD + b"Content-Length: %d\r\n\r\n%s, and more\r\n\r\n" % (len(body), body))
    assert answers.count(b"HTTP/1.1 ") == 1
    assert answers.endswith(b'{"accepted":1,"rejected":[]}')


def test_a_sender_that_disconnects_mid_request_leaves_nothing_behind(collector):
    before = collector.figure('carat_collect_requests_total{status="499"}')
    for _ in range(5):
        with collector.connect() as connection:
            connection.sendall(HEAD + b"Content-Length: 1000\r\n\r\n[" + GOOD)
    until = time.monotonic() + 5
    while collector.figure('carat_collect_requests_total{status="499"}') < before + 5 and time.monotonic() < until:
        time.sleep(0.02)
    assert collector.figure('carat_collect_requests_total{status="499"}') == before + 5
    assert collector.figure("carat_collect_held_bytes") == 0


def test_more_bytes_in_progress_than_allowed_get_429(collector):
    slow = []
    for _ in range(4):  # of 700 000 bytes that may be held
        connection = collector.connect()
        connection.sendall(HEAD + b"Content-Length: 200000\r\n\r\n[" + b" " * 170_000)
        slow.append(connection)
    until = time.monotonic() + 0.4
    while collector.figure("carat_collect_held_bytes") < 680_000 and time.monotonic() < until:
        time.sleep(0.01)
    answer = collector.post(b"[" + b" " * 100_000 + GOOD + b"]")
    assert (answer.status, answer.headers["retry-after"]) == (429, "1")
    assert collector.post(b"[" + GOOD + b"]").status == 200
    for connection in slow:
        assert read_to_end(connection).startswith(b"HTTP/1.1 408 ")
        connection.close()
    assert collector.post(b"[" + b" " * 100_000 + GOOD + b"]").status == 200


@pytest.mark.slow
def test_300_idle_or_half_open_connections_do_not_block_others(tmp_path):
    """All batches are acknowledged before the first of these connections is closed."""
    with collecting_here(
        tmp_path / "spool", **SMALL | {"collect_head_timeout_s": 5, "collect_body_timeout_s": 5}
    ) as running:
        idle = []
        for number in range(300):
            connection = running.connect()
            connection.sendall([b"", b"POST /v1/ca", HEAD, HEAD + b"Content-Length: 500\r\n\r\n["][number % 4])
            idle.append(connection)
        for _ in range(30):
            assert running.post([call()] * 10).verdict == (10, [])
        assert running.figure("carat_collect_connections") > 250
        answers = [read_to_end(connection)[:13] for connection in idle]
        assert answers == [b"", b"HTTP/1.1 408 ", b"HTTP/1.1 408 ", b"HTTP/1.1 408 "] * 75
        for connection in idle:
            connection.close()


def test_idle_connections_are_closed_for_new_ones_longest_idle_first(tmp_path):
    with collecting_here(tmp_path / "spool", collect_max_connections=10, collect_head_timeout_s=30) as running:
        waiting = [running.connect() for _ in range(10)]
        assert running.post([call()]).status == 200
        waiting[0].settimeout(5)
        assert waiting[0].recv(1) == b""
        waiting[9].sendall(HEAD + b"Connection: close\r\nContent-Length: 2\r\n\r\n[]")
        assert waiting[9].recv(65536).startswith(b"HTTP/1.1 200 ")
        for connection in waiting:
            connection.close()


@pytest.mark.parametrize("head", ["POST /v1/calls", "POST /nowhere", "PUT /v1/calls"])
def test_senders_that_are_refused_and_withhold_their_bodies_keep_nobody_out(tmp_path, head):
    with collecting_here(tmp_path / "spool", collect_max_connections=5, collect_body_timeout_s=30) as running:
        withheld = []
        for _ in range(12):
            connection = running.connect()
            connection.sendall(f"{head} HTTP/1.1\r\nHost: c\r\nContent-Length: 100000\r\n\r\n[".encode())
            assert connection.recv(65536).startswith(b"HTTP/1.1 4")
            withheld.append(connection)
        assert running.post([call()]).status == 200
        for connection in withheld:
            connection.close()


@pytest.mark.slow
def test_a_new_connection_gets_503_if_all_others_are_busy(tmp_path):
    with collecting_here(tmp_path / "spool", collect_max_connections=3, collect_body_timeout_s=1) as running:
        working = [running.connect() for _ in range(3)]
        for connection in working:
            connection.sendall(HEAD + b"Content-Length: 500\r\n\r\n[")
        time.sleep(0.2)
        answer = running.raw(b"")
        assert answer.startswith(b"HTTP/1.1 503 ")
        assert b"retry-after: 1\r\n" in answer
        for connection in working:
            assert read_to_end(connection).startswith(b"HTTP/1.1 408 ")
            connection.close()
        assert running.post([call()]).status == 200


def test_concurrent_senders_get_the_answers_to_their_own_requests(collector):
    def send(number: int) -> tuple[int, list]:
        records = [call(endpoint=f"/{number}") if index % 3 else {"bad": index} for index in range(number % 7 + 1)]
        return collector.post(records).verdict

    with ThreadPoolExecutor(16) as pool:
        verdicts = list(pool.map(send, range(120)))
    for number, (taken, rejected) in enumerate(verdicts):
        size = number % 7 + 1
        assert (taken, [index for index, _ in rejected]) == (size - (size + 2) // 3, list(range(0, size, 3)))


def test_pipelined_requests_are_answered_in_order(collector):
    bodies = [b"[" + b",".join([GOOD] * count) + b"]" for count in (3, 1, 2)]
    data = b"".join(HEAD + b"Content-Length: %d\r\n\r\n%s" % (len(body), body) for body in bodies)
    answers = collector.raw(data + b"GET /health HTTP/1.1\r\nHost: c\r\nConnection: close\r\n\r\n")
    contents = [json.loads(part.partition(b"\r\n\r\n")[2]) for part in answers.split(b"HTTP/1.1 200 ")[1:]]
    assert [content.get("accepted") for content in contents] == [3, 1, 2, None]


def test_a_client_that_never_reads_does_not_block_others(collector):
    connection = collector.connect()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    body = json.dumps([{"bad": "x"}] * 400).encode()
    request = HEAD + b"Content-Length: %d\r\n\r\n%s" % (len(body), body)
    sender = threading.Thread(target=_send_until_stuck, args=(connection, request * 60))
    sender.start()
    for _ in range(20):
        assert collector.post([call()]).status == 200
    connection.close()
    sender.join(20)
    assert not sender.is_alive()


def _send_until_stuck(connection: socket.socket, data: bytes) -> None:
    connection.settimeout(1)
    try:
        connection.sendall(data)
    except OSError:
        return
