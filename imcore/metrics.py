"""What a process counts, as Prometheus metrics.

Hot paths only add to plain attributes; the numbers are looked at when somebody asks. Other processes on the same ports report theirs,
and are told apart by the label `worker` (0 is the process that answers).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from prometheus_client import CollectorRegistry, GCCollector, PlatformCollector, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

Counts = Mapping[str, float]

MEANINGS: Mapping[str, str] = {
    "log_appended_total": "Events appended by this process.",
    "log_batches_total": "Commits of the appender.",
    "log_pending": "Events that wait to be appended.",
    "log_pending_sends_max": "So many may wait at the moment; above, messages are refused.",
    "log_wait_seconds": "How long a message that comes now would wait.",
    "log_refused_total": "Messages and decisions refused because they would have waited too long.",
    "log_batch_seconds": "How long the last commit took.",
    "log_names": "Stream names in memory.",
    "bus_waiting": "Messages that are not stored, on their way to other processes.",
    "bus_dropped_total": "Messages that are not stored and were dropped: too large, or too many.",
    "log_position": "Last position that this process appended.",
    "tasks": "Asyncio tasks of the process. Growth without end is a leak.",
    "comet_connections": "Connections, authenticated or not.",
    "comet_sessions": "Sessions in the hub.",
    "comet_connects_total": "Connections taken.",
    "comet_auth_failures_total": "Auth packets refused.",
    "comet_deliveries_total": "Events handed to sessions.",
    "comet_flushes_total": "Turns in which sessions were written to.",
    "comet_catching_up": "Sessions that read from the log.",
    "comet_cursors_too_far_total": "Cursors beyond the end of the log: an older copy of the database, or a forgery.",
    "comet_rate_limited_total": "Packets refused by the limit of a connection.",
    "comet_refusals_total": "Requests refused, by code.",
    "comet_endings_total": "Connections ended, by reason.",
    "comet_admitted_total": "Connections let through to be opened.",
    "comet_admissions_under_way": "Connections that are being opened.",
    "comet_admissions_waiting": "Connections that wait for their turn to be opened.",
    "comet_admissions_queued_total": "Connections that had to wait for their turn.",
    "comet_admissions_refused_total": "Connections told to come back because the line was too long.",
    "comet_turned_away_total": "Connections refused at the door, before anything was done for them, by code.",
    "comet_ending": "Connections that were told to end, and whose sockets are still there.",
    "comet_reads_under_way": "Requests of connections that read from the database.",
    "comet_loads_waiting": "Opening connections that wait for what is known of them.",
    "comet_people": "People with sessions here.",
    "comet_audiences": "Streams that somebody here is to get events of.",
    "comet_fresh_streams": "Streams whose last position is in memory.",
    "comet_recalls": "Recalls of messages that are in memory because they went by lately.",
    "comet_marks": "Delivery marks that are in memory because they went by lately.",
    "comet_sessions_known": "Sessions of all comets that are in memory because they were opened or closed lately.",
    "comet_senders_paced": "People whose pace of sending is remembered.",
    "tail_recent_events": "Events in memory.",
    "tail_recent_bytes": "Bytes of their bodies.",
    "tail_held_events": "Events that came early and wait for those before them.",
    "comet_unsent_bytes": "Bytes that wait in this process for clients to take them, when last looked at.",
    "comet_squeezed_total": "Connections written nothing more for a while, because all together held too much.",
    "comet_refusals_held": "Clients that came too often and wait for their refusal.",
    "comet_pushes_waiting": "Pushes that are not stored, and wait until the log was followed to where they were given.",
    "comet_signals_shed_total": "Signals that a session was not given, because it had not taken everything.",
    "comet_signallers_paced": "People whose pace of signals is remembered.",
    "comet_watches": "Whom connections watch: pairs of a connection and a person.",
    "comet_watched_people": "People whose presence somebody watches.",
    "comet_sights_waiting": "Watches of which it is to be asked whether they may see the person.",
    "comet_presence_told_total": "Changes of presence told to watchers.",
    "comet_presence_passed_over_total": "Watchers that had no room, and are told what is true when they have some.",
    "comet_addresses_paced": "Addresses whose pace of connecting is remembered.",
    "comet_handshakes_limited_total": "Connections refused by the pace of their address.",
    "comet_position": "Where the hub stands in the log.",
    "comet_remembered": "People whose last session has gone and who can come back without a query.",
    "comet_loads_total": "Readings of what connecting devices must know; those who connect at the same time share one.",
    "comet_page_readings_total": "Readings of pages of the log; those who catch up at the same time share one.",
    "statements_total": "Statements sent to Postgres, by purpose of the connection: append, read, project.",
    "tail_gaps_total": "How often events were missing and the log was read.",
    "tail_gap_events_total": "Events read from the log by the tail.",
    "projection_position": "Up to which position the rows hold every event.",
    "projection_lag_events": "Events of the log that are not in the rows yet.",
    "projection_waiting": "Requests that wait for the rows to follow the log.",
    "projection_pages_total": "Pages folded by this process.",
    "projection_events_total": "Events folded by this process.",
    "projection_quarantined_total": "Events that could not be folded and were passed over.",
    "search_lag_events": "Events of the log whose words are not found yet.",
    "search_events_total": "Events looked at for their words by this process.",
    "search_quarantined_total": "Events whose words could not be read and were passed over.",
    "receipts_waiting": "Read marks that nobody was told of yet.",
    "receipts_dropped_total": "Read marks that nobody was told of, because there were too many, or Postgres was away.",
    "accounts_passwords_under_way": "Passwords that are being looked at, or stand in line for it.",
    "accounts_passwords_total": "Passwords looked at.",
    "accounts_passwords_refused_total": "Logins told to come back because the line for passwords was too long.",
    "accounts_revocations": "Logouts, suspensions and changes of role that are in memory, to refuse tokens by.",
    "accounts_paced": "Names, addresses and both together whose pace of logging in is remembered.",
    "accounts_tries_limited_total": "Logins and registrations refused by the pace of a name or an address.",
    "accounts_webhook_under_way": "Questions to the backend that have no answer yet.",
    "accounts_webhook_failed_total": "Questions to the backend that had no answer.",
    "attachment_uploads_under_way": "Files on their way into the store.",
    "attachment_uploads_total": "Files that came into the store.",
    "attachment_uploads_refused_total": "Files refused because too many were under way, of all or of one person.",
    "attachment_swept_total": "What was in the store and was no attachment, and was deleted.",
    "workers_restarts_total": "Workers that ended and were started again.",
}


class Counted(Collector):
    """The counts of this process and of its workers, as they are when asked."""

    def __init__(self, counts: Callable[[], Mapping[int, Counts]]) -> None:
        self._counts = counts

    def collect(self) -> Iterable[Metric]:
        """Every metric once, with a sample for each worker and label."""
        families: dict[str, CounterMetricFamily | GaugeMetricFamily] = {}
        for worker, counts in sorted(self._counts().items()):
            for counted, value in counts.items():
                name, _, label = counted.partition("|")
                key, _, of = label.partition("=")
                if name not in families:
                    kind = CounterMetricFamily if name.endswith("_total") else GaugeMetricFamily
                    labels = ["worker", key] if key else ["worker"]
                    families[name] = kind(
                        f"imcore_{name.removesuffix('_total')}", MEANINGS.get(name, name), labels=labels
                    )
                families[name].add_metric([str(worker), of] if key else [str(worker)], value)
        return families.values()


def registry(counts: Callable[[], Mapping[int, Counts]]) -> CollectorRegistry:
    """Our counts, and what every process has."""
    made = CollectorRegistry()
    made.register(Counted(counts))
    ProcessCollector(registry=made)
    PlatformCollector(registry=made)
    GCCollector(registry=made)
    return made
