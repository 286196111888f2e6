//! The contract of executors, on every implementation. Needs root and a static busybox.

#![expect(clippy::unwrap_used, reason = "a failed set-up is a failed test")]

mod cost;
mod suite;
mod world;

/// Instantiates every case of the contract for one executor.
macro_rules! contract {
    ($executor:ident: $($file:ident { $($case:ident),* $(,)? })*) => {
        mod $executor {
            $(mod $file {
                use crate::suite::$file as cases;
                $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $case() {
                    let world = crate::world::World::new(crate::world::Kind::$executor);
                    cases::$case(&world).await;
                    world.nothing_is_left().await;
                })*
            })*
        }
    };
}

/// The cases, by file of `suite`.
macro_rules! cases {
    ($executor:ident) => {
        contract! { $executor:
            process {
                exit_codes_are_returned,
                a_signal_ends_with_128_and_its_number,
                streams_are_apart_and_complete,
                stdin_is_read_to_its_end,
                absent_streams_are_null,
                a_gone_reader_does_not_block_the_process,
                the_working_directory_is_made_with_its_owner,
                the_user_and_groups_are_as_given,
                the_environment_is_exactly_what_was_given,
                programs_are_found_in_the_path,
                a_missing_program_is_named,
                a_directory_is_no_program,
                a_script_without_world_execute_runs_for_root,
                a_terminal_is_one_and_resizes,
                a_terminal_reads_its_stdin,
                signals_reach_the_process,
                limits_hold,
                no_descriptor_leaks_in,
                started_is_told_once_it_runs,
            }
            mounts {
                a_read_only_root_refuses_writes,
                binds_tmpfs_and_subpaths_are_where_they_belong,
                a_file_can_be_a_mount,
                read_only_mounts_cover_what_is_below,
                hostile_targets_stay_inside,
                hostile_subpaths_stay_inside,
                standard_mounts_have_their_options,
                a_mount_of_ones_own_replaces_a_standard_one,
                hosts_and_resolver_are_bound,
                a_root_without_directories_gets_them,
            }
            isolation {
                capabilities_are_the_default_ones,
                dangerous_calls_are_refused,
                masked_paths_are_hidden,
                a_masked_path_cannot_be_redirected,
                the_host_is_not_visible,
                the_network_can_be_absent_or_shared,
                the_host_name_is_set,
                privileged_means_everything,
                the_daemon_binary_is_out_of_reach,
                a_leaked_working_directory_is_refused,
                devices_are_the_standard_ones,
                memory_is_limited_and_its_end_is_told,
                the_number_of_processes_is_limited,
            }
            life {
                cancelling_kills_every_process_soon,
                cancelling_before_the_start_runs_nothing,
                a_dropped_future_kills_too,
                grandchildren_end_with_the_first_process,
                many_run_at_once,
                an_id_is_taken_while_it_runs,
                a_failed_mount_leaves_nothing,
                further_processes_share_the_container,
                further_processes_are_as_confined,
                a_further_process_can_be_cancelled,
                nothing_runs_in_a_container_that_is_gone,
                a_further_process_waits_for_the_start,
                a_loud_process_is_read_to_its_end,
            }
        }
    };
}

cases!(runc);
cases!(slots);
