"""The sender: nothing waits for it, nothing is lost that need not be, and what is lost is counted."""

import logging
import os
import random
import ssl
import subprocess
import sys
import threading
import time
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest

from carat_client import CallSender, CaratASGI, CaratWSGI, ClientSettings
from carat_client.captured import Body, Captured, new_call_id
from tests.carat_client.test_asgi import answering, body, call, http_scope, start
from tests.carat_client.test_wsgi import CATALOG, environ, whole
from tests.support.deadline import deadline
from tests.support.effort import repeated
from tests.support.paths import CHECKOUT
from tests.support.receivers import (
    KEY,
    Answer,
    await_that,
    black_holed,
    receiving,
    refused,
    slow,
    unreachable,
)

SOAK_S = repeated(1, 60)


@pytest.fixture
def collector():
    with receiving() as receiver:
        yield receiver


def make_sender(url: str, **settings) -> CallSender:
    return CallSender(
        ClientSettings(url=url, write_key=KEY, **{"flush_interval_s": 0.01, "first_backoff_s": 0.01} | settings)
    )


def captured(path: str = "/", *, size: int = 0) -> Captured:
    response = Body(1_000_000)
    if size:
        response.add(b'"' + b"x" * (size - 2) + b'"')
    return Captured(new_call_id(), time.time_ns(), 0.0, "GET", path, "", "", {}, None, 200, None, response)


def enqueue(sender: CallSender, count: int) -> None:
    for number in range(count):
        sender.enqueue(captured(f"/{number}"))


def endpoints(collector) -> list[str]:
    return [record["endpoint"] for record in collector.records]


@pytest.mark.slow
@pytest.mark.parametrize(
    "trouble",
    [
        Answer(503), Answer(429), Answer(500), Answer(502), Answer(408), Answer(closes=True), Answer(after_s=0.4),
    ],
    ids=lambda answer: f"{answer.status} {answer.closes} {answer.after_s}",
)  # fmt: skip
def test_what_passes_is_tried_again_until_it_is_taken(trouble, collector):
    collector.answers.extend([trouble, trouble])
    sender = make_sender(collector.url, read_timeout_s=0.2)
    enqueue(sender, 3)
    collector.await_records(3)
    await_that(lambda: sender.stats.delivered == 3)
    assert endpoints(collector)[-3:] == ["/0", "/1", "/2"]
    assert (sender.stats.retries >= 1, sender.stats.dropped, sender.stats.queued) == (True, {}, 0)
    sender.close()


@pytest.mark.slow
def test_a_batch_whose_answer_was_lost_is_sent_again_with_the_same_ids(collector):
    collector.answers.append(Answer(after_s=0.4))
    sender = make_sender(collector.url, read_timeout_s=0.2)
    enqueue(sender, 2)
    first, second, *again = collector.await_records(4)
    assert [record["call_id"] for record in again] == [first["call_id"], second["call_id"]]
    sender.close()


@pytest.mark.slow
@pytest.mark.parametrize("form", ["seconds", "date"])
def test_the_collector_says_when_to_come_again(form, collector):
    later = format_datetime(datetime.now(tz=UTC) + timedelta(seconds=2), usegmt=True)
    collector.answers.append(Answer(429, {"Retry-After": "1" if form == "seconds" else later}))
    sender = make_sender(collector.url)
    enqueue(sender, 1)
    collector.await_records(1)
    assert 0.9 <= collector.times[1] - collector.times[0] < 2.5
    sender.close(0)


@pytest.mark.parametrize("status", [400, 401, 403, 404, 415, 301])
def test_what_is_refused_for_good_is_dropped_and_counted(status, collector):
    collector.answers.append(Answer(status))
    sender = make_sender(collector.url, flush_interval_s=0.5)  # one batch
    enqueue(sender, 3)
    await_that(lambda: sender.stats.dropped == {f"refused with {status}": 3})
    enqueue(sender, 1)
    assert sender.flush(5)
    assert endpoints(collector) == ["/0"]
    sender.close()


def test_a_batch_that_is_too_large_is_halved_until_it_fits():
    with receiving(largest_batch=3) as collector:
        sender = make_sender(collector.url, flush_interval_s=0.2)
        enqueue(sender, 20)
        collector.await_records(20)
        assert endpoints(collector) == [f"/{number}" for number in range(20)]
        assert max(collector.batches) == 3
        sender.close()


def test_a_record_that_is_too_large_alone_is_dropped():
    with receiving(largest_batch=0) as collector:
        sender = make_sender(collector.url)
        enqueue(sender, 4)
        await_that(lambda: sender.stats.dropped == {"refused with 413": 4})
        sender.close()


def test_records_that_the_collector_finds_bad_are_counted(collector):
    collector.answer.body = {"accepted": 1, "rejected": [{"index": 0, "reason": "no time"}]}
    sender = make_sender(collector.url, flush_interval_s=0.1)
    enqueue(sender, 2)
    await_that(lambda: (sender.stats.delivered, sender.stats.rejected) == (1, 1))
    sender.close()


def test_batches_go_over_one_connection_and_a_closed_one_is_reopened(collector):
    sender = make_sender(collector.url)
    for number in range(5):
        enqueue(sender, 1)
        collector.await_records(number + 1)
    assert collector.connections == 1
    collector.answers.append(Answer(closes=True))
    enqueue(sender, 1)
    collector.await_records(6)
    assert (collector.connections, sender.stats.retries) == (2, 0)
    sender.close()


def test_batches_are_as_large_as_they_may_be(collector):
    sender = make_sender(collector.url, flush_interval_s=0.3, batch_calls=40)
    enqueue(sender, 100)
    collector.await_records(100)
    assert collector.batches == [40, 40, 20]
    sender.close()
    collector.records.clear()
    collector.batches.clear()
    sender = make_sender(collector.url, flush_interval_s=0.3, batch_bytes=20_000)
    for _ in range(10):
        sender.enqueue(captured(size=10_000))
    collector.await_records(10)
    assert collector.batches == [2] * 5
    sender.close()


def test_a_record_is_never_longer_than_the_collector_takes(collector):
    sender = make_sender(collector.url, max_body_bytes=1_000_000, max_record_bytes=10_000)
    sender.enqueue(captured(size=50_000))
    assert collector.await_records(1)[0]["response"] == {"_truncated": 50_000}
    sender.close()


def test_of_a_full_queue_the_newest_are_dropped_and_counted_and_said_once(caplog):
    with caplog.at_level(logging.WARNING, logger="carat.client"), refused() as url:
        sender = make_sender(url, max_queued_calls=100, batch_calls=10, flush_interval_s=60)
        enqueue(sender, 130)
        stats = sender.stats
        assert stats.captured == 130
        assert 20 <= stats.dropped["queue full"] <= 30  # at most a batch is on its way already
        assert stats.queued == 130 - stats.dropped["queue full"]
        await_that(lambda: "queue full" in caplog.text)
        enqueue(sender, 500)
        time.sleep(0.1)
        assert caplog.text.count("queue full") == 1
        assert KEY not in caplog.text
        sender.close(0)
    assert sum(sender.stats.dropped.values()) == 630


def test_the_bytes_of_the_queue_are_bounded_too():
    with refused() as url:
        sender = make_sender(url, max_queued_bytes=1_000_000, flush_interval_s=60, batch_bytes=10_000_000)
        for _ in range(50):
            sender.enqueue(captured(size=100_000))
        assert sender.stats.queued in {8, 9}
        assert sender.stats.queued_bytes <= 1_000_000
        sender.close(0)


def test_what_was_queued_while_the_collector_was_away_comes_in_order_when_it_is_back(collector):
    collector.answer.status = 503
    sender = make_sender(collector.url, batch_calls=7)
    enqueue(sender, 50)
    await_that(lambda: sender.stats.retries >= 3)
    collector.answer.status = 200
    collector.await_records(50)
    assert endpoints(collector) == [f"/{number}" for number in range(50)]
    assert sender.flush(5)
    assert (sender.stats.delivered, sender.stats.queued, sender.stats.queued_bytes) == (50, 0, 0)
    sender.close()


@pytest.mark.slow
def test_threads_enqueue_at_the_same_time_and_each_call_is_counted_once(collector):
    sender = make_sender(collector.url, max_queued_calls=100_000)
    threads = [threading.Thread(target=enqueue, args=(sender, 500)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sender.flush(10)
    assert len({record["call_id"] for record in collector.records}) == 4000
    assert (sender.stats.captured, sender.stats.delivered) == (4000, 4000)
    sender.close()


@pytest.mark.slow
@pytest.mark.parametrize("collector_state", [refused, black_holed, unreachable, slow])
def test_neither_a_request_nor_the_end_waits_for_the_collector(collector_state):
    """Whoever waited for one that does not answer would wait longer than the deadline, with the first request."""
    messages = [start(), body(b'{"id": 17}')]
    with collector_state() as url:
        sender = make_sender(url, connect_timeout_s=120.0, read_timeout_s=120.0, flush_timeout_s=0.3)
        app = CaratASGI(answering(*messages), sender)
        wsgi_app = CaratWSGI(whole, sender)
        count = 400
        with deadline():
            for _ in range(count // 2):
                assert call(app, http_scope()) == messages
                assert wsgi_app(environ(), lambda *_: None) == [CATALOG]
                time.sleep(0.001)
            sender.close()
        stats = sender.stats
        assert stats.captured == count
        assert stats.failures == 0
        assert stats.delivered + sum(stats.dropped.values()) == count


def test_a_forked_child_sends_its_own_calls_and_the_parent_sends_its_own(collector):
    sender = make_sender(collector.url, flush_interval_s=0.2)
    enqueue(sender, 3)  # the thread runs, and these wait
    child = _fork(sender)
    sender.enqueue(captured("/parent"))
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert sender.flush(5)
    assert sorted(endpoints(collector)) == ["/0", "/1", "/2", "/child", "/parent"]
    assert (sender.stats.captured, sender.stats.delivered) == (4, 4)
    sender.close()


@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")  # Python 3.12+ on forks beside threads
def _fork(sender: CallSender) -> int:
    child = os.fork()
    if child:
        return child
    try:
        sender.enqueue(captured("/child"))
        is_sent = sender.flush(5)
        os._exit(0 if is_sent and (sender.stats.captured, sender.stats.delivered) == (1, 1) else 1)
    finally:
        os._exit(2)


PROGRAM = """
import sys
from carat_client import CallSender, CaratWSGI, ClientSettings
sender = CallSender(
    ClientSettings(url=sys.argv[1], write_key="k", flush_interval_s=60, flush_timeout_s=1, read_timeout_s=300)
)
def app(environ, start_response):
    start_response("200 OK", [("Content-Type", "application/json")])
    return [b"{}"]
for number in range(20):
    CaratWSGI(app, sender)({"REQUEST_METHOD": "GET", "PATH_INFO": f"/{number}"}, lambda *_: None)
"""


def run(program: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", program, *arguments],
        cwd=CHECKOUT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_what_is_queued_goes_out_when_the_process_ends(collector):
    done = run(PROGRAM, collector.url)
    assert (done.returncode, done.stderr) == (0, "")
    assert endpoints(collector) == [f"/{number}" for number in range(20)]


@pytest.mark.slow
def test_a_process_whose_collector_is_deaf_ends_all_the_same():
    with black_holed() as url:
        done = run(PROGRAM, url)
        assert done.returncode == 0
        assert "not sent before the end" in done.stderr


def test_the_client_needs_nothing_but_pythons_own_library():
    program = """
import sys
class Only:
    def find_spec(self, name, path=None, target=None):
        top = name.partition(".")[0]
        if top not in sys.stdlib_module_names and top != "carat_client":
            raise ImportError(name + " is not there")
sys.meta_path.insert(0, Only())
from carat_client import CallSender, CaratASGI, CaratWSGI, ClientSettings
from carat_client.records import RecordMaker
"""
    done = run(program)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"url": "collector.example"}, "url: 'collector.example' is not an address such as https://collector.example"),
        ({"write_key": " "}, "write_key: is missing"),
        ({"write_key": "a\nb"}, "write_key: is missing or contains invalid characters"),
        ({"sample": 1.5}, "sample: 1.5 is not between 0 and 1"),
        ({"allow": "id"}, "allow: must be a tuple of strings: ('id',)"),
        ({"deny": ("a..b",)}, "'a..b' is neither a name nor a dotted path such as response.items.id"),
        ({"batch_calls": 0}, "batch_calls: must be more than 0"),
        ({"trusted_proxies": -1}, "trusted_proxies: must not be negative"),
    ],
)
def test_a_wrong_setting_is_said_when_the_shop_starts(wrong, said):
    with pytest.raises(ValueError) as raised:
        CallSender(ClientSettings(**{"url": "http://collector.example", "write_key": "k"} | wrong))
    assert said in str(raised.value)


def test_keys_are_in_no_text_of_the_settings():
    text = repr(ClientSettings(url="http://collector.example", write_key="k3y", hash_key="h4sh"))
    assert "k3y" not in text
    assert "h4sh" not in text


@pytest.mark.slow
def test_every_call_is_accounted_for_whatever_the_collector_answers(collector):
    rng = random.Random(7)
    kinds = [
        Answer(), Answer(), Answer(), Answer(503), Answer(429, {"Retry-After": "0"}), Answer(closes=True), Answer(413),
        Answer(400), Answer(after_s=0.15), Answer(body={"rejected": [{"index": 0, "reason": "no time"}]}), Answer(body=[]),
    ]  # fmt: skip
    sender = make_sender(collector.url, read_timeout_s=0.1, batch_calls=5, max_queued_calls=60, longest_backoff_s=0.02)
    enqueued = 0
    until = time.monotonic() + SOAK_S
    while time.monotonic() < until:
        collector.answers.append(rng.choice(kinds))
        for _ in range(rng.randrange(6)):
            sender.enqueue(captured(f"/{enqueued}", size=rng.choice([0, 100, 3000])))
            enqueued += 1
        time.sleep(rng.choice([0, 0.001, 0.01]))
    collector.answers.clear()
    assert sender.flush(20)
    stats = sender.stats
    assert stats.captured == enqueued > 100
    assert (stats.queued, stats.queued_bytes, stats.failures) == (0, 0, 0)
    assert stats.delivered + stats.rejected + sum(stats.dropped.values()) == enqueued
    assert min(stats.delivered, stats.rejected, stats.retries, stats.dropped["refused with 400"]) > 0
    arrived = {record["call_id"] for record in collector.records}
    assert len(arrived) >= stats.delivered + stats.rejected  # and those whose refusal followed a lost answer
    assert len({record["endpoint"] for record in collector.records}) == len(arrived)
    sender.close()


@pytest.fixture(scope="module")
def certificate(tmp_path_factory) -> tuple[str, str]:
    """A certificate that this machine made for itself, and its key."""
    folder = tmp_path_factory.mktemp("tls")
    certificate, key = str(folder / "certificate.pem"), str(folder / "key.pem")
    subprocess.run(
        [
            *(
                "openssl",
                "req",
                "-x509",
                "-newkey",
                "ec",
                "-pkeyopt",
                "ec_paramgen_curve:P-256",
                "-nodes",
                "-days",
                "2",
            ),
            *("-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", key, "-out", certificate),
        ],
        check=True,
        capture_output=True,
    )
    return certificate, key


def test_calls_go_over_tls_to_a_collector_whose_certificate_is_trusted_and_to_no_other(certificate, caplog):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*certificate)
    with receiving(tls=context) as collector:
        sender = make_sender(collector.url, ca_file=certificate[0])
        enqueue(sender, 3)
        assert len(collector.await_records(3)) == 3
        sender.close()
        collector.records.clear()
        with caplog.at_level(logging.WARNING, logger="carat.client"):
            sender = make_sender(collector.url)
            enqueue(sender, 3)
            await_that(lambda: sender.stats.retries >= 2)
        assert collector.records == []
        assert "SSLCertVerificationError" in caplog.text
        sender.close(0)
