//! The contract as tests: each says one sentence of it, in its name. Every engine runs all of them.

pub(crate) mod accept;
pub(crate) mod bookmarks;
pub(crate) mod claim;
pub(crate) mod concurrency;
pub(crate) mod dead_letters;
pub(crate) mod history;
pub(crate) mod lines;
pub(crate) mod new_work;
pub(crate) mod ownership;
pub(crate) mod parking;
pub(crate) mod purge;
pub(crate) mod queued;
pub(crate) mod record;
pub(crate) mod restart;
pub(crate) mod retention;
pub(crate) mod schedule;
pub(crate) mod settings;
pub(crate) mod table;

/// Makes a test of each sentence for an engine: `contract_suite!(name, path::to::start)`, where `start` is an async function
/// that gives a [`Fixture`](crate::fixture::Fixture) over an empty store.
macro_rules! contract_suite {
    ($engine:ident, $start:path) => {
        contract_suite! { @tests $engine, $start,
            accept {
                keeps_every_event_byte_exact
                keeps_the_order_of_a_batch_and_of_batches
                a_repeat_inside_the_window_is_dropped_with_the_first_id
                a_repeat_in_the_same_batch_is_dropped
                of_concurrent_accepts_with_one_key_one_is_kept
                a_repeat_after_the_window_is_kept
                a_dropped_repeat_leaves_no_trace
                one_batch_goes_into_several_shards_and_lanes
                an_accept_wakes_the_shard
                an_empty_batch_is_fine
            }
            claim {
                each_entry_is_handed_out_once
                keeps_to_the_count
                keeps_to_the_bytes
                a_larger_one_is_handed_out_alone
                lanes_are_apart
                shards_are_apart
                a_reclaim_finds_what_the_last_owner_left
                a_reclaim_skips_what_is_held
                a_reclaim_leaves_what_was_never_claimed
                a_reclaim_leaves_what_is_finished
                a_reclaim_keeps_to_the_budget
                claims_are_counted_across_owners
                a_suspect_is_reclaimed_by_itself
                a_suspect_is_left_and_not_counted_until_somebody_takes_it
                progress_comes_back
            }
            ownership {
                a_shard_has_one_owner
                a_lease_that_ran_out_can_be_taken
                a_renewed_lease_lives_on
                a_released_shard_is_free_at_once
                a_released_lease_is_fenced
                a_node_takes_over_from_itself
                a_lease_that_ran_out_works_until_somebody_takes_the_shard
                every_owner_call_is_fenced_after_a_takeover
                a_fenced_record_changes_nothing
                a_lease_with_another_incarnation_is_fenced
                shards_have_owners_of_their_own
                of_concurrent_challengers_one_wins
            }
            schedule {
                jobs_come_when_they_are_due_earliest_first
                a_taken_job_is_not_handed_out_again
                next_due_is_the_earliest_that_is_not_taken
                a_new_owner_finds_what_was_taken
                a_failed_job_is_scheduled_again
                keeps_to_the_budget
                jobs_come_back_byte_exact
                hand_outs_are_counted_until_one_is_recorded
                a_suspect_is_handed_out_by_itself
                a_suspect_is_left_and_not_counted_until_somebody_takes_it
            }
            parking {
                jobs_come_in_order_of_parking
                queues_are_apart_and_counted
                a_taken_job_is_not_handed_out_again
                a_new_owner_finds_taken_jobs_at_their_old_place
                what_is_parked_again_goes_behind
                keeps_to_the_budget
                a_plan_is_parked_with_its_event
                hand_outs_are_counted_until_one_is_recorded
                a_suspect_is_handed_out_by_itself
                a_suspect_is_left_and_not_counted_until_somebody_takes_it
                what_is_put_back_stands_where_it_stood
            }
            lines {
                only_the_first_of_each_line_is_handed_out
                one_that_is_to_wait_keeps_its_place
                one_that_is_put_back_stands_as_it_stood
                outputs_take_the_place_of_their_event
                a_new_owner_finds_lines_as_they_were
                lines_outlive_a_restart_and_a_crash
                hand_outs_of_a_line_are_counted_until_it_is_recorded
                a_suspect_of_a_line_is_handed_out_by_itself
                a_suspect_is_left_and_not_counted_until_somebody_takes_it
                lines_keep_to_the_budget_the_longest_due_first
                a_dead_letter_stands_in_no_line
            }
            record {
                a_finished_entry_is_gone
                a_batch_sent_twice_counts_once
                progress_sent_twice_counts_once
                a_rescheduled_job_sent_twice_counts_once
                a_repeat_does_not_undo_what_came_after
                work_moves_from_place_to_place
                work_put_elsewhere_leaves_its_old_place
                what_is_not_in_hand_changes_nothing
                a_bad_record_refuses_the_whole_batch
                one_batch_moves_many
                outcomes_of_one_entry_in_one_batch_add_up
            }
            dead_letters {
                are_listed_newest_first
                carry_their_last_attempt
                pages_are_complete_and_stable
                tenants_are_apart
                are_found_by_their_ids
                a_retry_moves_them_back_to_the_schedule
                a_retried_job_starts_afresh
                a_retry_counts_what_was_there
                go_back_each_at_its_own_time
                a_retried_delivery_goes_on_to_its_end
            }
            new_work {
                new_work_of_a_finished_event_goes_on_the_schedule
                new_work_that_is_known_is_left_alone
                new_work_needs_an_event_of_this_tenant_and_shard
                an_event_with_new_work_outlives_retention_until_it_is_done
            }
            history {
                says_where_an_event_stands_at_every_step
                attempts_and_runs_add_up
                a_plan_that_became_deliveries_leaves_the_rows
                an_event_that_matched_nothing_says_so
                events_are_listed_newest_first
                pages_are_complete_and_stable_under_inserts
                pages_are_capped
                shards_are_apart
                few_events_of_a_shard_are_found_among_many_of_another
                tenants_are_apart
                an_unknown_event_is_none
                depth_tells_the_oldest_entry
                depth_counts_what_was_finished
            }
            retention {
                terminal_events_go_by_age
                what_is_not_terminal_stays
                terminal_events_go_by_bytes_oldest_first
                dead_letters_go_by_their_own_age
                a_dead_letter_outlives_its_event
                a_retried_event_is_not_terminal
                steps_are_bounded_and_come_to_an_end
                what_is_trimmed_is_gone_from_the_listing
                what_goes_is_never_shown_as_queued
            }
            queued {
                counts_unfinished_entries
                a_duplicate_adds_nothing
                tenants_and_shards_are_apart
                counts_work_where_it_goes
                work_that_is_done_twice_is_taken_away_once
                a_dead_letter_is_not_queued_until_it_is_retried
                a_purge_takes_it_away
                survives_a_restart_and_a_crash
            }
            purge {
                takes_all_of_a_tenant_and_nothing_of_another
                takes_nothing_of_another_shard
                takes_what_stands_in_lines
                leaves_what_is_in_hand_until_it_is_recorded
                leaves_an_event_while_a_job_of_it_is_in_hand
                goes_on_after_a_restart_with_its_counts
                steps_are_bounded_and_come_to_an_end
            }
            settings {
                a_configuration_starts_empty
                changes_make_the_next_revision
                a_stale_revision_is_a_conflict
                of_concurrent_changes_one_wins
                none_deletes
                components_come_back_byte_exact
                remembers_the_first_value_for_its_time
                of_concurrent_remembers_one_is_first
                tells_what_each_node_says_last_for_its_time
                is_ready_and_answers_the_probe
            }
            table {
                reads_what_was_written_byte_exact
                operations_of_a_call_see_those_before_them
                of_concurrent_adds_one_wins
                concurrent_increments_give_each_number_once
                an_increment_needs_a_number_that_fits
                an_entry_ends_with_its_time
                only_a_set_changes_an_end
                what_is_too_much_is_a_fault
                the_quota_is_exact
                what_has_ended_makes_room
                a_trim_takes_what_has_ended
                a_call_made_again_is_done_once
                a_fault_is_remembered_too
                of_concurrent_repeats_one_is_done
                another_call_is_done_anew
                a_call_is_forgotten_after_a_day
                a_tenants_last_calls_are_remembered
                tenants_plugins_and_shards_are_apart
                pages_are_complete_and_in_order
                a_dropped_table_is_gone
                a_purge_takes_all_tables_of_a_tenant
                survives_a_restart_and_a_crash
            }
            bookmarks {
                comes_back_byte_exact_after_a_restart_and_a_crash
                are_listed_by_name_without_their_copies
                a_name_is_given_once
                what_is_too_much_is_not_kept
                of_concurrent_bookmarks_no_more_are_kept_than_may_be
                outlives_the_history_of_its_event
                tenants_and_shards_are_apart
                a_purge_takes_all_bookmarks_of_a_tenant
            }
            concurrency {
                each_scheduled_job_is_handed_out_once_at_a_time
                each_parked_job_is_handed_out_once_at_a_time
                jobs_that_change_places_are_handed_out_once_at_a_time
            }
            restart {
                everything_survives_a_restart
                everything_acknowledged_survives_a_crash
                a_crash_keeps_the_order_and_the_count_of_claims
                a_lease_from_before_is_fenced
                new_entries_go_behind_the_old_ones
            }
        }
    };
    (@tests $engine:ident, $start:path, $($group:ident { $($name:ident)+ })+) => {
        mod $engine {
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn random_operations_agree_with_the_model() {
                $crate::random::trials(async || $start().await).await;
            }

            $(mod $group {
                $(
                    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                    async fn $name() {
                        let world = $crate::world::World::new($start().await);
                        $crate::contract::$group::$name(world).await;
                    }
                )+
            })+
        }
    };
}
