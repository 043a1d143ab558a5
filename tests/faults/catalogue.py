"""The faults and loads whose results docs/reliability.md tells, and the tests that try them."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table.

    Attributes:
        what: the fault.
        tests: functions that try it, wherever they are.
    """

    what: str
    tests: tuple[str, ...]


def _row(what: str, *tests: str) -> Row:
    return Row(what, tests)


SECTIONS: dict[str, tuple[Row, ...]] = {
    "The sidecar": (
        _row(
            "killed while deciding", "test_a_sidecar_that_dies_while_deciding_lets_nothing_through"
        ),
        _row(
            "killed under streams, with Zion's faults and Redis killed",
            "test_every_token_is_accounted_for",
        ),
        _row(
            "killed under one stream",
            "test_what_was_under_way_at_kill_9_becomes_one_unknown_record",
        ),
        _row(
            "stopped (SIGSTOP) under streams, then going on",
            "test_stopped_under_streams_it_goes_on_as_if_nothing_had_been",
        ),
        _row(
            "restarted under streams and calls",
            "test_restarted_under_streams_all_of_them_end_and_nothing_is_lost",
        ),
        _row(
            "drained under streams",
            "test_sigterm_lets_a_stream_finish_and_loses_no_record",
            "test_a_stream_that_outlives_the_grace_flows_on_without_us",
        ),
        _row(
            "out of file descriptors",
            "test_without_file_descriptors_it_waits_and_takes_connections_again",
        ),
        _row(
            "one worker of several killed or hung",
            "test_one_that_dies_or_hangs_is_replaced_while_the_others_serve",
        ),
        _row("a part that hangs", "test_a_part_that_hangs_is_answered_in_time"),
        _row(
            "a part that raises, hangs or is cancelled before the decision",
            "test_a_misbehaving_part_lets_nothing_through",
        ),
    ),
    "Redis": (
        _row(
            "killed or frozen under the whole stack",
            "test_local_admits_its_share_and_says_so",
            "test_what_was_admitted_meanwhile_is_charged_when_redis_is_back",
        ),
        _row("killed, and back empty", "test_killed_and_restarted_empty"),
        _row("frozen", "test_paused", "test_a_frozen_redis_is_let_go_of"),
        _row("50 ms slower", "test_50_ms_slower_and_still_deciding"),
        _row("500 ms slower", "test_500_ms_slower_is_as_good_as_away"),
        _row("half open: connections stay, nothing comes through", "test_half_open"),
        _row("connections reset again and again", "test_reset_again_and_again"),
        _row("READONLY", "test_read_only"),
        _row("OOM", "test_out_of_memory"),
        _row("LOADING", "test_loading_its_data"),
        _row("BUSY with a script", "test_busy_with_a_script"),
        _row("flushed; scripts flushed", "test_flushed", "test_scripts_flushed"),
        _row(
            "failed over by Sentinel",
            "test_limits_hold_through_a_failover",
            "test_a_demoted_master_is_left_for_whom_its_address_leads_to_now",
        ),
        _row("a node of a cluster dead", "test_a_dead_node_degrades_only_its_own_users"),
        _row("a cluster resharded under load", "test_resharded_under_load_limits_stay_exact"),
        _row(
            "200 at once on a limit of 100",
            "test_200_at_once_on_a_limit_of_100_admit_exactly_100",
        ),
        _row(
            "10,000 commands given up in flight",
            "test_commands_given_up_at_any_moment_never_cross_replies",
        ),
        _row(
            "reserves cancelled at any moment",
            "test_reserves_cancelled_at_any_moment_leave_nothing_behind",
            "test_cancelled_under_an_outage_nothing_stays_taken",
        ),
    ),
    "Zion": (
        _row("every fault, as clients see it", "test_each_fault_is_answered_as_mapped"),
        _row(
            "every fault, as it is billed",
            "test_after_every_fault_all_is_billed_once",
            "test_after_every_fault_of_zion_all_is_billed",
        ),
        _row("dead, with known users", "test_known_users_are_served_as_long_as_zion_is_dead"),
        _row(
            "lost answers, with a Zion that bills twice",
            "test_a_zion_that_does_not_know_keys_bills_no_more_twice_than_was_counted",
        ),
        _row(
            "Zion and Redis both away",
            "test_with_redis_and_zion_away_all_waits_and_then_all_is_billed",
        ),
    ),
    "The provider": (
        _row(
            "errors, resets, stalls, garbage and breaks, mixed",
            "test_whatever_the_provider_does_the_client_gets_it_and_it_is_billed",
        ),
        _row("an answer of 100 MB", "test_an_answer_of_100_mb_passes_whole"),
        _row("a request of 100 MB", "test_a_request_of_100_mb_is_refused_and_never_leaves"),
        _row("breaking off at every chunk", "test_the_provider_closes_early_at_every_chunk"),
        _row(
            "unreachable",
            "test_a_provider_that_cannot_be_reached_is_a_503_in_the_providers_shape",
        ),
        _row("too slow to begin", "test_idle_time_outs_cut_answers_that_begin_late"),
    ),
    "Disk, clock, Envoy": (
        _row("disk full", "test_a_disk_that_takes_no_more_stops_traffic_and_loses_nothing"),
        _row(
            "file read-only", "test_a_file_that_becomes_read_only_stops_traffic_and_loses_nothing"
        ),
        _row(
            "outbox damaged",
            "test_a_file_damaged_while_running_is_kept_aside_and_a_new_one_begun",
        ),
        _row(
            "clocks that step: the ledger's, Redis'",
            "test_a_clock_that_steps_changes_no_order_and_no_sum",
            "test_a_clock_that_steps_back_refills_nothing",
        ),
        _row(
            "clocks that step by 5 s and back, ahead and behind, under streams and calls: the "
            "sidecar's, Redis'",
            "test_a_clock_that_steps_under_load_costs_nobody_anything",
        ),
        _row(
            "Envoy's hot restart under streams",
            "test_envoys_hot_restart_cuts_no_stream_and_refuses_nobody",
        ),
        _row(
            "clients that send their bodies a byte at a time",
            "test_a_dripping_body_is_cut_and_nothing_stays_held",
        ),
        _row("a client that leaves at every chunk", "test_the_client_leaves_at_every_chunk"),
    ),
    "Load": (
        _row("open streams at flat memory", "test_open_streams_at_flat_memory"),
        _row(
            "more than it can do: sheds and recovers",
            "test_more_than_it_can_do_is_shed_and_who_is_let_in_is_served",
        ),
        _row(
            "1,000 requests in one moment on a cold gateway, with the usual patience and with a "
            "fiftieth of it",
            "test_a_thousand_at_once_are_served_or_shed_in_time",
        ),
        _row(
            "at the bounds in all and per user",
            "test_in_all_and_per_user_no_more_run_at_once_than_may",
        ),
        _row(
            "an event loop that lags", "test_an_event_loop_that_lags_sheds_and_recovers_by_itself"
        ),
        _row(
            "memory over its bound",
            "test_memory_over_its_bound_sheds_what_is_new_until_fewer_run",
        ),
    ),
}


def named() -> list[str]:
    """Every test that a row names, in order."""
    return [test for rows in SECTIONS.values() for row in rows for test in row.tests]
